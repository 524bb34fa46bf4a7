"""Rows of one local file. A broken line is one broken row, never the end of the file."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trl_rsa.data.schema import Row, RowError
from trl_rsa.storage.lines import LONGEST_LINE, bounded_lines, open_bytes
from trl_rsa.storage.tables import TableReader, refuse_same_names


# Where a row is (for messages), and the row or why it cannot be read.
PlacedRow = tuple[str, Row | RowError]

LARGEST_ARRAY = 1 << 30  # bytes
BROKEN_LINE = "the line is not valid JSON"


def read_file(path: Path) -> Iterator[PlacedRow]:
    """Yields the rows of a .jsonl, .json, .csv or .parquet file; all but the last may be gzipped."""
    reader = _reader(path)
    if reader is None:
        raise ValueError(
            f"You gave the file {path}, but its ending says no format that can be read. Use a .jsonl, .jsonl.gz, "
            ".json, .csv or .parquet file."
        )
    return reader(path)


def is_data_file(path: Path) -> bool:
    return _reader(path) is not None


def _reader(path: Path) -> Callable[[Path], Iterator[PlacedRow]] | None:
    readers = {".jsonl": _read_lines, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    return readers.get(ending_of(path))


def ending_of(path: Path) -> str:
    """What the name of a file says of its format, in lower case and without .gz: `.csv` of `Rows.CSV.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_lines(path: Path) -> Iterator[PlacedRow]:
    with open_bytes(path) as file:
        number = 0
        try:
            for number, line in enumerate(bounded_lines(file), start=1):
                if line is None:
                    yield f"line {number}", RowError(f"the line is longer than {LONGEST_LINE >> 20} MiB")
                elif line.strip():
                    yield f"line {number}", _parse(line)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            yield f"line {number + 1}", RowError("the compressed file ends early or is damaged")


def _parse(line: bytes) -> Row | RowError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError and numbers of thousands of digits are ValueErrors
        return RowError(BROKEN_LINE)
    return _only_object(row)


def _only_object(row: Any) -> Row | RowError:
    return row if isinstance(row, dict) else RowError("not a JSON object")


def _read_json(path: Path) -> Iterator[PlacedRow]:
    """A JSON array of rows; anything else is read as lines."""
    with open_bytes(path) as file:
        try:
            is_array = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        except (EOFError, gzip.BadGzipFile, zlib.error):
            is_array = False
        if not is_array:
            yield from _read_lines(path)
            return
        file.seek(0)
        content = file.read(LARGEST_ARRAY + 1)
        if len(content) > LARGEST_ARRAY:
            raise ValueError(
                f"{path} is a JSON array of more than {LARGEST_ARRAY >> 20} MiB, which would have to be read at once. "
                "Write one row per line to a .jsonl file."
            )
        try:
            rows = json.loads(content)
        except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path} begins as a JSON array, but it cannot be parsed ({error}). Repair it, or write one row per "
                "line to a .jsonl file, where a broken row is skipped."
            ) from None
    for index, row in enumerate(rows):
        yield f"row {index}", _only_object(row)


def _read_csv(path: Path) -> Iterator[PlacedRow]:
    """Rows under a header line. Every value is text; a cell that is left empty is missing."""
    number = 0
    try:
        with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            reader = TableReader(text)
            refuse_same_names(reader.fieldnames, path)
            for number, row in enumerate(reader, start=1):
                if None in row:
                    yield f"row {number}", RowError("the row has more cells than the header")
                else:
                    yield f"row {number}", {name: value for name, value in row.items() if value not in (None, "")}
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield f"row {number + 1}", RowError("the compressed file ends early or is damaged")
    except (UnicodeDecodeError, csv.Error) as error:
        yield f"row {number + 1}", RowError(f"the rest of the file cannot be read as CSV in UTF-8 ({error})")


def _read_parquet(path: Path) -> Iterator[PlacedRow]:
    # pyarrow comes with datasets, whose own reader would first copy the file into its cache.
    import pyarrow
    import pyarrow.parquet

    index = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield f"row {index}", row
                index += 1
    except Exception as error:  # pyarrow's own, and what a damaged page makes Python's decoders raise
        if path.name.lower().endswith(".gz") and not isinstance(error, OSError):
            raise ValueError(
                f"You gave the file {path}, but a Parquet file is not gzipped: it is compressed within. Unpack it "
                "with gunzip."
            ) from None
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as parquet ({message}). Write it again.") from None
