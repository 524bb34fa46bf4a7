"""Where a merge takes its weights from: the folder of a model or of an adapter, read tensor by tensor."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from trl_rsa.sampling.policies import is_adapter, load_tokenizer, whole_model
from trl_rsa.storage.hub import NOT_READ, why_not_loaded


_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "adapter_model", "consolidated")
# What two models may differ in and still be one architecture.
_FREE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache", "architectures", "auto_map")


@dataclass(frozen=True)
class Source:
    """
    One of the models to be merged.

    Args:
        name (`str`):
            As the user wrote it: a folder or a Hub id.
        folder (`Path`):
            Where its files lie.
        base (`str`, *optional*):
            Of an adapter: folder or Hub id of the model that it belongs to.
        base_revision (`str`, *optional*):
            Of that model on the Hub, if the adapter names one.
    """

    name: str
    folder: Path
    base: str | None = None
    base_revision: str | None = None

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> "Source":
        folder = _local_folder(name, revision)
        if not is_adapter(str(folder)):
            return cls(name, folder)
        base, options = whole_model(str(folder), {})
        return cls(name, folder, base, options.get("revision"))

    def is_at(self, name: str) -> bool:
        """Whether the model is the one called `name`, however the path is written."""
        return self.name == name or same_folder(self.folder, name)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer beside the model, or beside the base of an adapter; None if there is none."""
        places = [self.folder, *([_local_folder(self.base, self.base_revision)] if self.base else [])]
        if not any(next(place.glob(pattern), None) for place in places for pattern in ("tokenizer*", "*.model")):
            return None
        return load_tokenizer(str(self.folder))


class Weights:
    """The tensors in a folder, by name. Only what is asked for is read.

    Raises:
        ValueError: if the folder holds no weights, or quantised ones.
    """

    def __init__(self, source: Source):
        self.source = source
        self.config = _read_config(source)
        if self.config.get("quantization_config"):
            raise ValueError(
                f"You merge {source.name}, but its weights are quantised, and their codes have no average. "
                "Give the model in bfloat16 or float32, or adapters that were trained on it."
            )
        self._files = {name: file for path in _weight_files(source) for name, file in _open(path)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def forget(self, name: str) -> None:
        """Leaves a tensor out: it is tied to another one."""
        self._files.pop(name, None)

    def shape(self, name: str) -> tuple[int, ...]:
        file = self._files[name]
        return tuple(file.get_slice(name).get_shape() if hasattr(file, "get_slice") else file[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        file = self._files[name]
        # An empty slice: the type without the numbers. A scalar has no slice and is read.
        if hasattr(file, "get_slice") and self.shape(name):
            found: torch.dtype = file.get_slice(name)[:0].dtype
            return found
        return self[name].dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._files[name]
        tensor: torch.Tensor = file.get_tensor(name) if hasattr(file, "get_tensor") else file[name]
        return tensor


class AdaptedWeights(Weights):
    """
    The weights of a base model with an adapter's updates added as they are read.

    Args:
        source ([`Source`]):
            The adapter.
        updates (`Mapping[str, Callable]`):
            By the tensor's name: a function that makes its update ΔW, in float32.
    """

    def __init__(self, source: Source, updates: Mapping[str, Any]):
        assert source.base is not None
        super().__init__(Source.find(source.base, source.base_revision))
        self.updates = updates
        missing = [name for name in updates if name not in self]
        if missing:
            raise ValueError(
                f"You merge the adapter {source.name} into full weights, but {source.base} has no tensor "
                f"{missing[0]!r} of its own (it may be tied to another). Merge the adapters as adapters."
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = super().__getitem__(name)
        return tensor.double() + self.updates[name]().double() if name in self.updates else tensor


def _local_folder(name: str, revision: str | None = None) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_READ))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise FileNotFoundError(
            f"You merge {name!r}, but {why_not_loaded(name, error)}. Correct the path, or download the model first."
        ) from error


def _read_config(source: Source) -> dict[str, Any]:
    path = source.folder / "config.json"
    if not path.is_file():
        raise ValueError(f"You merge {source.name}, but it has no config.json. Give the folder of a saved model.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"You merge {source.name}, but its config.json is not JSON ({error}). Restore it.") from error
    return dict(content)


def _weight_files(source: Source) -> list[Path]:
    """The safetensors if there are any, else the pickled files. What else lies there is not read: in this order
    transformers too looks for the one file, then for the files that an index names.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if (whole := source.folder / f"{stem}.{suffix}").is_file():
            return [whole]
        if (index := source.folder / f"{stem}.{suffix}.index.json").is_file():
            return _files_in_index(source, index)
        paths = [path for path in sorted(source.folder.glob(f"*.{suffix}")) if path.is_file()]
        if found := [path for path in paths if not path.name.startswith(_NOT_WEIGHTS)]:
            return found
    raise ValueError(
        f"You merge {source.name}, but it holds no weights (*.safetensors or *.bin). Give the folder of a saved model."
    )


def _files_in_index(source: Source, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"You merge {source.name}, but its {index.name} names no files of weights. Download or save it again."
        ) from error
    missing = [name for name in names if not (source.folder / name).is_file()]
    if missing:
        raise ValueError(
            f"You merge {source.name}, but it has no {missing[0]}, which its {index.name} names. Download or save it "
            "again."
        )
    return [source.folder / name for name in names]


def _open(path: Path) -> Iterator[tuple[str, Any]]:
    """The names in a file of weights, each with the open file. Safetensors are mapped, and so are pickles."""
    try:
        if path.suffix == ".safetensors":
            file: Any = safe_open(path, framework="pt")
        else:
            file = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        names = list(file.keys())
    except Exception as error:  # of safetensors, pickle, zipfile and torch
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"You merge {path.parent}, but {path.name} cannot be read ({said}). Save it again."
        ) from error
    for name in names:
        yield name, file


def same_folder(one: str | Path, other: str | Path) -> bool:
    """Whether two paths are one folder, however they are written: relative, through a link, with a slash behind."""
    folder, another = Path(one).expanduser(), Path(other).expanduser()
    return folder.is_dir() and another.is_dir() and folder.samefile(another)


def comparable(config: Any) -> Any:
    """What of a model's configuration makes its weights mean what they mean."""
    if isinstance(config, Mapping):
        return {
            key: comparable(value)
            for key, value in config.items()
            if key not in _FREE and not str(key).endswith("_token_id") and not str(key).startswith("_attn")
        }
    return config
