"""mergekit's YAML: a plain linear merge is read and made here; everything else is mergekit's own work."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


PROGRAM = "mergekit-yaml"
_READ = {"merge_method", "models", "parameters", "dtype", "base_model"}


@dataclass(frozen=True)
class LinearMerge:
    """
    What a configuration asks for.

    Args:
        models (`list[str]`), weights (`list[float]`):
            What is averaged, with weights that sum to 1.
        dtype (`str`, *optional*):
            Of the result.
    """

    models: list[str]
    weights: list[float]
    dtype: str | None


def read_linear(path: str | Path) -> LinearMerge | None:
    """
    A linear merge with one number for each model; None for anything else, which only mergekit can make.

    Raises:
        ValueError: if the file is not one of mergekit's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"You set mergekit to {path}, but there is no such file. Check the path.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"You gave {path}, but it is not YAML: {' '.join(str(error).split())}. Correct it."
        ) from error
    if not isinstance(content, Mapping) or "merge_method" not in content:
        raise ValueError(f"You gave {path} as mergekit's, but it has no merge_method. Give a file of mergekit's.")
    models, parameters = content.get("models"), content.get("parameters") or {}
    if content["merge_method"] != "linear" or set(content) - _READ or not _only_weights(parameters):
        return None
    if not isinstance(models, list) or not all(isinstance(one, Mapping) and one.get("model") for one in models):
        return None
    given = [one.get("parameters") or {} for one in models]
    if any(set(one) - {"model", "parameters"} for one in models) or not all(map(_only_weights, given)):
        return None
    weights = [one.get("weight", parameters.get("weight", 1.0)) for one in given]
    names = [str(one["model"]) for one in models]
    if not all(_is_number(weight) for weight in weights) or any("+" in name and _is_lora(name) for name in names):
        return None
    # mergekit's default: the weights are shares.
    total = sum(weights) if parameters.get("normalize", True) else 1.0
    if not total:
        raise ValueError(f"You gave {path}, but its weights sum to 0. Correct them.")
    return LinearMerge(names, [float(weight) / total for weight in weights], content.get("dtype"))


def run_mergekit(path: str | Path, output_dir: str | Path) -> None:
    """
    Hands a configuration to mergekit.

    Raises:
        ValueError: if mergekit is not installed, or fails.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise ValueError(
            f"You gave {path}, which is more than a linear merge with one weight for each model, but mergekit is not "
            "installed. Install it (pip install mergekit), or write a linear merge."
        )
    ended = subprocess.run([program, str(path), str(output_dir)], check=False)
    if ended.returncode:
        raise ValueError(
            f"You gave {path}, but {PROGRAM} ended with status {ended.returncode}. See what it says above."
        )


def _only_weights(parameters: Any) -> bool:
    return isinstance(parameters, Mapping) and set(parameters) <= {"weight", "normalize"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_lora(name: str) -> bool:
    """mergekit writes an adapter as MODEL+ADAPTER. A folder may have a plus in its name."""
    return not Path(name).exists()
