"""Files that are written at once or not at all: a kill leaves the old file or the new one, never half of one."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl_rsa.storage.folders import sync


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes `content` as indented JSON, in a folder that is made if it is not there."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        # A lone surrogate has no UTF-8; inside a JSON string its escape means the same.
        partial.write_bytes(text.encode("utf-8", errors="backslashreplace"))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new file name in the folder of `path` to write to. It takes the place of `path` when the block ends.

    After an error in the block `path` is as it was, and the new file is gone. Two processes that write the same `path`
    do not meet: each has a name of its own, and the last one to end counts.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno is not None and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def refuse_existing(path: Path, why: str) -> None:
    """
    Raises:
        ValueError: if there is such a file, which `why` says more of: it would be overwritten.
    """
    if path.exists():
        raise ValueError(f"You set output to {str(path)!r}, but this file exists, and {why}. Name another.")


def standing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there; it may be a file."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_writable(folder: Path) -> None:
    """
    Raises:
        ValueError: if the folder is a file, or cannot be written to or made.
    """
    there = standing(folder)
    if not there.is_dir():
        raise ValueError(f"You set output_dir to {str(folder)!r}, but {there} is a file. Name a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"You set output_dir to {str(folder)!r}, but nothing can be written in {there}. Name another folder."
        )
