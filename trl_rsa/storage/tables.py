"""Rows of a table of text."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


# Responses and contexts may be long; Python's own limit, which holds for the whole process, is 128 KiB.
LONGEST_CELL = 10**9
# How a cell says yes or no, in lower case. Spreadsheets and pandas write 1.0.
TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


def refuse_same_names(names: Sequence[str] | None, path: str | os.PathLike[str]) -> None:
    """Raises `ValueError` where two columns of a file have one name: which of them counts does not show. Columns
    without a name are none."""
    seen = set[str]()
    for name in (name for name in names or () if name and name.strip()):
        if name in seen:
            raise ValueError(f"You gave the file {str(path)!r}, but it has two columns {name}. Rename or remove one.")
        seen.add(name)


def truth_of(value: Any) -> bool | None:
    """What a cell or a JSON value says: yes or no, or neither. 1 and 0 count, as they do in text."""
    if isinstance(value, str):
        return TRUTH.get(value.strip().lower())
    return bool(value) if value in (0, 1) else None


class TableReader(csv.DictReader):
    """
    [`csv.DictReader`] that does not take the rest of a file for one cell where a quotation mark is never closed: the
    rows in it would be lost without a word.

    Args:
        lines (`Iterable[str]`):
            Opened with `newline=""`.
        delimiter (`str`, *optional*, defaults to `","`):
            Between the cells.

    Raises:
        csv.Error: at the row whose quotation mark stays open.
    """

    def __init__(self, lines: Iterable[str], delimiter: str = ",") -> None:
        csv.field_size_limit(LONGEST_CELL)
        self._read: list[str] = []  # lines of the row that is being read
        self._delimiter = delimiter
        super().__init__(self._remembered(lines), delimiter=delimiter)

    def _remembered(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._read.append(line)
            yield line

    def __next__(self) -> dict[str | Any, str | Any]:
        _ = self.fieldnames  # the header is read
        self._read.clear()
        row = super().__next__()
        if (len(self._read) > 1 or sum(line.count('"') for line in self._read) % 2) and self._is_open():
            raise csv.Error(f"a quotation mark is never closed, so the last {len(self._read)} line(s) are one cell")
        return row

    def _is_open(self) -> bool:
        try:
            list(csv.reader(self._read, delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            return "unexpected end of data" in str(error)
        return False
