"""Responses and their costs from a CSV or Parquet table, or from records.jsonl: the same records from each."""

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from trl_rsa.data.files import ending_of, read_file
from trl_rsa.data.schema import RowError
from trl_rsa.storage.lines import open_bytes
from trl_rsa.storage.records import FIELDS, ReadReport, Record, read_records
from trl_rsa.storage.tables import TableReader, refuse_same_names, truth_of


# Columns that are understood; others are kept in the records as they are.
COLUMNS = (*FIELDS, "base_prompt", "benign", "draw", "finished", "split")
_DELIMITERS = ",;\t|"
# In a record: the file names no prompts, and the row was taken for a prompt of its own.
UNNAMED = "unnamed_prompt"


def is_table(path: str | os.PathLike[str]) -> bool:
    return ending_of(Path(path)) in (".csv", ".tsv", ".parquet")


def read_responses(
    path: str | os.PathLike[str],
    report: ReadReport | None = None,
    scores: Sequence[str] = ("reward", "cost"),
    needed: Collection[str] = (),
    rows_are_prompts: bool = False,
) -> Iterator[Record]:
    """Reads responses as records, row by row.

    Args:
        path (`str` or `os.PathLike`):
            A .csv or .tsv file, gzipped or not, or a .parquet file, with a header; any other file is read by
            [`~storage.records.read_records`]. The delimiter of a CSV file is found from its header: a comma, a
            semicolon, a tab or a bar. Columns: those of a record ([`COLUMNS`]), in any order and case.
        report (`ReadReport`, *optional*):
            Filled while reading. A row without a prompt, or with too many fields, gives no record, and is counted.
        scores (`Sequence[str]`, *optional*):
            Scores that every record should have, as in [`~storage.records.read_records`].
        needed (`Collection[str]`, *optional*):
            Columns without which a table is of no use.
        rows_are_prompts (`bool`, *optional*, defaults to `False`):
            For a table without prompts: takes each row for the response to a prompt of its own.

    Raises:
        ValueError, FileNotFoundError: if the file cannot be read, or a column is missing.
    """
    report = ReadReport() if report is None else report
    if is_table(path):
        yield from _records(Path(path), report, scores, needed, rows_are_prompts)
    elif rows_are_prompts:
        raise ValueError(
            f"You set rows_are_prompts for {str(path)!r}, but it is for a table without prompts (.csv, .tsv, "
            ".parquet), and records name theirs. Leave it out."
        )
    else:
        yield from read_records(path, report, scores)


def _records(
    path: Path, report: ReadReport, scores: Sequence[str], needed: Collection[str], rows_are_prompts: bool
) -> Iterator[Record]:
    if not path.is_file():
        raise FileNotFoundError(f"You gave the file {str(path)!r}, but there is no such file. Correct the name.")
    rows = _parquet(path) if ending_of(path) == ".parquet" else _csv(path)
    # A row that cannot be read says nothing of the columns.
    seen: list[tuple[int, Mapping[str, Any] | RowError]] = []
    columns = None
    for number, row in rows:
        seen.append((number, row))
        if isinstance(row, Mapping):
            columns = list(row)
            break
    if columns is not None:
        _check_columns(path, columns, needed, rows_are_prompts)
    for number, row in chain(seen, rows):
        record = _record(row, number, report, rows_are_prompts)
        if record is None:
            report.unreadable += 1
            continue
        for name in ("reward", "cost"):
            record[name] = _score(record[name], name, name in scores, number, report)
        report.read += 1
        yield record


def _check_columns(path: Path, columns: Sequence[str], needed: Collection[str], rows_are_prompts: bool) -> None:
    found = f"its columns are: {', '.join(columns) or 'none'}"
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"You gave the file {str(path)!r}, but it has no column {missing[0]} ({found}). Name one so in the header."
        )
    if "prompt" not in columns and not rows_are_prompts:
        raise ValueError(
            f"You gave the file {str(path)!r}, but it has no column prompt ({found}): nobody can tell which responses "
            "answer one prompt, nor whether a prompt was used before. Add the column. If every row answers a prompt "
            "of its own, say so with rows_are_prompts."
        )
    if "prompt" in columns and rows_are_prompts:
        raise ValueError(
            f"You set rows_are_prompts for {str(path)!r}, but it has a column prompt, which says better what belongs "
            "together. Leave rows_are_prompts out."
        )


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    """The rows below the header, by the number of their last line."""
    line = 0
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = TableReader(file, delimiter)
            reader.fieldnames = _header(path, reader.fieldnames or ())
            for row in reader:
                line = reader.line_num
                # Too many fields stand under None: a delimiter in a text without quotes has moved all after it.
                yield line, RowError("too many fields") if None in row else row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} ends early or is damaged (after line {line}). Compress it again.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (after line {line}: {error}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as CSV (after line {line}: {error}). Write it again.") from error


def _header(path: Path, given: Sequence[Any]) -> list[str]:
    names = [_column(name) for name in given]
    refuse_same_names(names, path)
    return names


def _delimiter(header: str) -> str:
    """The delimiter that splits the header into most of the columns that are understood."""
    return max(
        _DELIMITERS,
        key=lambda d: sum(_column(name) in COLUMNS for name in next(csv.reader([header], delimiter=d), [])),
    )


def _column(name: Any) -> str:
    text = str(name).strip()
    return text.casefold() if text.casefold() in COLUMNS else text


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    header: list[str] | None = None
    for number, (_, row) in enumerate(read_file(path), start=1):
        if not isinstance(row, RowError):
            header = _header(path, list(row)) if header is None else header  # all rows have the columns of the file
            row = dict(zip(header, row.values(), strict=True))
        yield number, row


def _record(
    row: Mapping[str, Any] | RowError, number: int, report: ReadReport, rows_are_prompts: bool
) -> Record | None:
    if isinstance(row, RowError):
        report.add(number, str(row))
        return None
    # An empty field is no value, but an empty response is one.
    values = {name: value for name, value in row.items() if name == "response" or value not in ("", None)}
    record: Record = dict.fromkeys(FIELDS) | values
    if rows_are_prompts:
        record |= {"prompt": f"row {number}", UNNAMED: True}
    if record["response"] is None:
        record["response"] = ""
    if not isinstance(record["prompt"], (str, list)) or not isinstance(record["response"], (str, list)):
        report.add(number, "no prompt" if not isinstance(record["prompt"], (str, list)) else "no response")
        return None
    for name in ("model", "category", "attack"):
        if record[name] is not None:
            record[name] = str(record[name])
    for name in ("benign", "finished"):
        if record.get(name) is not None:
            record[name] = truth_of(given := record[name])
            if record[name] is None and not (isinstance(given, float) and math.isnan(given)):
                report.add(number, f"{name} is not true or false")
    for name in ("seed", "draw"):
        if isinstance(record.get(name), str) and record[name].strip().isdecimal():
            record[name] = int(record[name])
    return record


def _score(value: Any, name: str, wanted: bool, number: int, report: ReadReport) -> float | None:
    """A number, also one that is written as text; what is none is counted."""
    if value is None:
        if wanted:
            report.add(number, f"no {name}")
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        report.add(number, f"{name} is not a number")
        return None
    if math.isfinite(found):
        return found
    report.add(number, f"{name} is not finite")
    return None
