"""JSON lines that survive a kill: appended one whole line at a time, and read without what was cut off."""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast


# No row is longer. A small compressed file may hold a line that no memory does.
LONGEST_LINE = 1 << 24  # bytes


def open_bytes(path: Path) -> IO[bytes]:
    """To read; a file whose name ends in .gz is unpacked.

    Raises:
        ValueError: if it may not be read.
    """
    try:
        return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")
    except PermissionError:
        raise ValueError(f"You may not read {path}. Change its permissions.") from None


def bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file with their line breaks; None for one above `LONGEST_LINE`, which is never held whole."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
        yield None


def write_whole(file: IO[bytes], content: bytes, path: Path) -> None:
    """Writes to an unbuffered file, which may take less than it is given when the disk is nearly full.

    Raises:
        OSError: with the file's name, as a full disk alone does not say it.
    """
    try:
        while content:
            content = content[file.write(content) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class LineWriter:
    """Appends objects to a file, each as one whole line that is handed to the operating system at once.

    A process killed in the middle of a line leaves a fragment, which the next writer removes.

    ```python
    with LineWriter("scores.jsonl") as writer:
        writer.write({"index": 0, "value": 0.3})
    ```
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered append: each write is one system call, and lines of several writers do not interleave.
        self._file: IO[bytes] = self.path.open("ab", buffering=0)
        fragment = last_fragment(self.path)
        if fragment:
            self._end(fragment)

    def _end(self, fragment: bytes) -> None:
        """Makes the file end with a line again."""
        if _parse(fragment) is not None:  # only the line break is missing
            write_whole(self._file, b"\n", self.path)
        else:
            self._file.truncate(self._file.tell() - len(fragment))

    def write(self, content: Mapping[str, Any]) -> None:
        """Appends one object."""
        line = json.dumps(content, ensure_ascii=False)
        # A lone surrogate, which a tokenizer can produce, has no UTF-8: escape it instead of losing the line.
        write_whole(self._file, line.encode("utf-8", errors="backslashreplace") + b"\n", self.path)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The objects in a file that [`LineWriter`] wrote; what a kill cut off is passed over. No file, no lines."""
    if not Path(path).exists():
        return
    with Path(path).open("rb") as file:
        for line in bounded_lines(file):
            content = None if line is None else _parse(line)
            if content is not None:
                yield content


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def last_fragment(path: Path, chunk: int = 1 << 16) -> bytes:
    """What follows the last line break of a file: nothing, unless a writer was killed."""
    with path.open("rb") as file:
        place, fragment = file.seek(0, os.SEEK_END), b""
        while place and b"\n" not in fragment:
            size = min(chunk, place)
            place -= size
            file.seek(place)
            fragment = file.read(size) + fragment
    return fragment[fragment.rfind(b"\n") + 1 :]
