"""A model's folder: where it is, which weights it holds, and a fingerprint of them. Nothing here loads a model."""

import json
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

from trl_rsa.storage.hub import why_not_loaded


ModelFormat = Literal["classifier", "beaver"]

# The heads of transformers' sequence classifiers: Llama and its kin, BERT, RoBERTa, BART.
_CLASSIFIER_HEADS: tuple[str, ...] = ("score.", "classifier.", "classification_head.")
_CLASSIFIER_HEADS += ("base_model.model.score.", "base_model.model.classifier.")  # in a PEFT adapter
_NOT_READ = ["*.gguf", "*.onnx", "*.h5", "*.msgpack"]
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")


def model_folder(path: str, revision: str | None = None, **download: Any) -> Path:
    """The local folder of a model: `path` itself, or the snapshot of a Hub repository.

    Args:
        path (`str`):
            Folder, or repository on the Hub.
        revision (`str`, *optional*):
            Of the repository.
        download:
            Further arguments of `huggingface_hub.snapshot_download`, such as `cache_dir` and `token`.

    Raises:
        FileNotFoundError: if there is neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise FileNotFoundError(
                f"You set the scorer to {path!r}, but that folder has no config.json. Give the folder of a model."
            )
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        # Many repositories hold the weights twice; the pickled ones are fetched only where there are no others.
        found = Path(snapshot_download(path, revision=revision, ignore_patterns=[*_NOT_READ, "*.bin"], **download))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(path, revision=revision, ignore_patterns=_NOT_READ, **download))
        return found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise FileNotFoundError(
            f"You set the scorer to {path!r}, but {why_not_loaded(path, error)}. Correct the path, or download the "
            "model first."
        ) from error


def short_name(path: str) -> str:
    """The last part of a path or repository, for a scorer's name: nothing about the machine."""
    return Path(path).name or Path(path).resolve().name


def weights_folder(folder: Path) -> Path:
    """Where the weights of the model in `folder` lie: there, or in a folder in it that is called like a file of them.
    `zero_to_fp32.py` of current DeepSpeed makes such a folder, `pytorch_model.bin/`.
    """
    places = [folder, *(path for path in sorted(folder.glob("*.bin")) if path.is_dir())]
    return next((place for place in places if _files_of_weights(place)), folder)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: the safetensors if there are any, else the pickled ones.

    Raises:
        FileNotFoundError: if there are none.
    """
    if files := _files_of_weights(weights_folder(folder)):
        return files
    raise FileNotFoundError(
        f"You set a model or a scorer to the folder {str(folder)!r}, but it holds no weights (*.safetensors or "
        "pytorch_model*.bin). Give the folder of a saved model."
    )


def _files_of_weights(folder: Path) -> list[Path]:
    for pattern in ("*.safetensors", "*.bin"):
        paths = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
        if files := [path for path in paths if not path.name.startswith(_NOT_WEIGHTS)]:
            return files
    return []


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"You set a scorer whose {path} is not valid JSON ({error}). Restore the file.") from error


def weight_names(folder: Path) -> set[str]:
    """Names of the tensors in the folder. Safetensors files are only looked at, not read."""
    return {name for path in weight_files(folder) for name in _names_in(path)}


def _names_in(path: Path) -> Collection[str]:
    if path.suffix != ".safetensors":
        return _load_pickled(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return [name for name in header if name != "__metadata__"]
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from error


def read_tensors(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The tensors whose names begin with one of `prefixes`, on the CPU."""
    found: dict[str, Any] = {}
    for path in weight_files(folder):
        names = [name for name in _names_in(path) if name.startswith(prefixes)]
        if names and path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in names}
        elif names:
            tensors = _load_pickled(path)
            found |= {name: tensors[name].clone() for name in names}
    return found


def _load_pickled(path: Path) -> dict[str, Any]:
    import torch

    try:
        # mmap: the tensors that nobody asks for are never read.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise _unreadable(path, error) from error
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def _unreadable(path: Path, error: Exception) -> ValueError:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"You set a scorer whose weights {path} cannot be read ({detail}). Download or save them again.")


def model_format(folder: Path) -> ModelFormat:
    """What a folder holds, by the names of its weights. The sign of its scores is not among what they tell.

    Raises:
        ValueError: if there is no head that scores: loading would invent one at random.
    """
    names = weight_names(folder)
    if "score_head.weight" in names:
        return "beaver"
    if any(name.startswith(_CLASSIFIER_HEADS) for name in names):
        return "classifier"
    raise ValueError(
        f"You set the scorer to the folder {str(folder)!r}, but its weights have no head that scores: neither a "
        "sequence classifier's nor Safe RLHF's score_head. Give a reward or cost model, not a language model."
    )


def has_scoring_head(folder: Path) -> bool:
    """Whether the weights are a classifier's, or Safe RLHF's, and not those of a language model."""
    return any(name.startswith((*_CLASSIFIER_HEADS, "score_head.")) for name in weight_names(folder))


def folder_digest(folder: Path) -> str:
    """SHA-256 of the weights, the configuration and the tokenizer, whatever the folder is called."""
    digest = sha256()
    texts = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jinja", ".model", ".txt")]
    texts = [path for path in texts if path.is_file() and not path.name.startswith(_MADE_BY_TRAINING)]
    for path in [*texts, *weight_files(folder)]:
        with path.open("rb") as file:
            digest.update(f"{path.name}:{file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


_MADE_BY_TRAINING = ("trainer_state", "all_results", "train_results", "eval_results", "README")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' report of unexpected weights: the callers check them, and say what is wrong."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
