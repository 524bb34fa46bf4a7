"""Where rows come from: the Hub, a local file or folder, or a dataset in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trl_rsa.data.files import PlacedRow, ending_of, is_data_file, read_file
from trl_rsa.data.schema import Row
from trl_rsa.storage.hub import is_path


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

    from trl_rsa.data.spec import DatasetSpec

    # A path, a Hub id, or rows in memory.
    Source: TypeAlias = str | Path | Dataset | DatasetDict | IterableDataset | DatasetSpec | Sequence[Row]


class Rows:
    """Rows of one split that can be read more than once. `name` is for messages."""

    def __init__(self, name: str, *, files: list[Path] | None = None, dataset: Iterable[Row] = ()) -> None:
        self.name = name
        self.files = files
        self.dataset = dataset

    def __iter__(self) -> Iterator[PlacedRow]:
        if self.files is None:
            return ((f"row {index}", row) for index, row in enumerate(self.dataset))
        if len(self.files) == 1:
            return read_file(self.files[0])
        return chain.from_iterable(self._with_name(path) for path in self.files)

    @staticmethod
    def _with_name(path: Path) -> Iterator[PlacedRow]:
        return ((f"{path.name}, {place}", row) for place, row in read_file(path))


def open_source(
    source: "Source",
    split: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    data_dir: str | None = None,
) -> Rows:
    """Finds the rows of `source`. Nothing but their place is read, except from the Hub, which is downloaded.

    Args:
        source (`str`, `Path`, `Dataset`, `DatasetDict`, `IterableDataset` or a list of dictionaries):
            A path that exists is local; any other text is a Hub id.
        split, revision, name, data_dir (`str`, *optional*):
            As in `datasets.load_dataset`. Without `split` the source must have only one.
    """
    if not isinstance(source, str | Path):
        return _open_object(source, split, revision)
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(
                f"You set revision={revision!r}, but {source} is local, and only the Hub has revisions. Remove it."
            )
        if path.is_dir():
            return _open_folder(path, split, name, data_dir)
        if split is not None:
            raise ValueError(f"You set split={split!r}, but {source} is one file, which has no splits. Remove it.")
        if not path.stat().st_size:
            raise ValueError(f"{source} is empty. Give a file with at least one row.")
        return Rows(str(source), files=[path])
    if is_path(str(source)) or is_data_file(path):
        raise FileNotFoundError(f"There is no file or folder {source}. Check the path.")
    return _open_hub(str(source), split, revision, name, data_dir)


def _open_object(source: Any, split: str | None, revision: str | None) -> Rows:
    if revision is not None:
        raise ValueError(f"You set revision={revision!r}, but the source is a dataset in memory. Remove it.")
    if isinstance(source, dict):  # DatasetDict is one
        split = _choose_split(list(source), split, "the dataset")
        return Rows(f"dataset in memory, split {split}", dataset=source[split])
    if split is not None:
        raise ValueError(f"You set split={split!r}, but the source is one dataset in memory. Remove it.")
    is_rows = isinstance(source, list | tuple) and all(isinstance(row, Mapping) for row in source)
    if not is_rows and not hasattr(source, "column_names"):
        raise ValueError(
            f"You gave a source of type {type(source).__name__}, but it is neither a path, a Hub id nor a dataset. "
            "Give one of these."
        )
    return Rows("dataset in memory", dataset=source)


def _open_folder(path: Path, split: str | None, name: str | None, data_dir: str | None) -> Rows:
    """A folder written by `save_to_disk`, or one that holds data files, which are then read by our own reader."""
    import datasets

    if data_dir is not None and (path / data_dir).is_dir():
        path = path / data_dir
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = _call(datasets.load_from_disk, str(path), source=str(path))
        if isinstance(saved, dict):
            split = _choose_split(list(saved), split, str(path))
            return Rows(f"{path}, split {split}", dataset=saved[split])
        if split is not None:
            raise ValueError(f"You set split={split!r}, but {path} holds one dataset without splits. Remove it.")
        return Rows(str(path), dataset=saved)
    builder = _call(datasets.load_dataset_builder, str(path), name=name, source=str(path))
    files_of = builder.config.data_files or {}
    used = {Path(file).name for several in files_of.values() for file in several}
    unread = sorted(file.name for file in path.iterdir() if _holds_rows(file) and file.name not in used)
    if unread and not (path / "README.md").exists():  # the card of a repository says which files are meant
        raise ValueError(
            f"You gave the folder {path}, but of its files {', '.join(unread[:5])} would not be read: `datasets` "
            f"takes {', '.join(sorted(used)[:5])} alone, by their endings and names. Give the files one by one, or "
            "name them alike."
        )
    split = _choose_split([str(key) for key in files_of], split, str(path))
    return Rows(f"{path}, split {split}", files=[Path(file) for file in files_of[split]])


def _holds_rows(path: Path) -> bool:
    """Whether a file in a folder is data: .json may be a description of the others."""
    return path.is_file() and ending_of(path) in (".jsonl", ".csv", ".parquet")


def _open_hub(source: str, split: str | None, revision: str | None, name: str | None, data_dir: str | None) -> Rows:
    import datasets

    loaded = _call(
        datasets.load_dataset, source, name=name, data_dir=data_dir, split=split, revision=revision, source=source
    )
    if split is None:
        split = _choose_split(list(loaded), None, source)
        loaded = loaded[split]
    at = f" at {revision}" if revision else ""
    return Rows(f"{source}{at}, split {split}", dataset=loaded)


def _choose_split(splits: list[str], split: str | None, source: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None:
        raise ValueError(f"{source} has the splits {', '.join(splits)}. Set split to one of them.")
    if split not in splits:
        raise ValueError(f"You set split={split!r}, but {source} has only {', '.join(splits)}. Set one of these.")
    return split


def _call(load: Any, *args: Any, source: str, **kwargs: Any) -> Any:
    """Calls a loader of `datasets`, whose errors are of many kinds, and says in one sentence what failed."""
    try:
        return load(*args, **kwargs)
    except Exception as error:
        # A missing file or dataset stays a FileNotFoundError; a broken connection, a bad configuration, … do not.
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise kind(
            f"{source} could not be loaded: {reason}. Check the name, the revision and the connection, or give a "
            "local file or folder."
        ) from error
