"""Which published format a file has, seen from its columns."""

from collections.abc import Iterable
from itertools import islice

from trl_rsa.data.hh import LAST_TURN
from trl_rsa.data.pku import ID_SUFFIX
from trl_rsa.data.schema import Row, RowError


FORMATS = {
    "preference": "chosen, rejected (and prompt)",
    "pku-safe-rlhf": "prompt, response_0, response_1, better_response_id or safer_response_id",
    "beavertails": "prompt, response, is_safe",
    "hh-rlhf": "chosen and rejected transcripts, or context, chosen, rejected",
}

# A file may begin with broken rows; this many are looked at.
ROWS_LOOKED_AT = 1000


def sample_rows(rows: Iterable[tuple[str, Row | RowError]]) -> list[Row]:
    return [row for _, row in islice(rows, ROWS_LOOKED_AT) if not isinstance(row, RowError)]


def columns_of(sample: list[Row]) -> list[str]:
    """All columns that hold something in at least one of the rows, sorted."""
    return sorted({column for row in sample for column, value in row.items() if value is not None})


def detect_format(sample: list[Row], source: str) -> str:
    """The format of `sample`, or a ValueError that lists the columns found and the formats known."""
    columns = set(columns_of(sample))
    if {"prompt", "response_0", "response_1"} <= columns and any(c.endswith(ID_SUFFIX) for c in columns):
        return "pku-safe-rlhf"
    if {"prompt", "response", "is_safe"} <= columns:
        return "beavertails"
    if {"chosen", "rejected"} <= columns:
        # A text may quote a transcript: one row does not say what the others are.
        pairs = [row for row in sample if row.get("chosen") is not None]
        transcripts = sum(_is_transcript(row) for row in pairs)
        return "hh-rlhf" if "prompt" not in columns and 2 * transcripts >= len(pairs) else "preference"
    known = "; ".join(f"{name} ({needed})" for name, needed in FORMATS.items())
    raise ValueError(
        f"{source} has the columns {', '.join(sorted(columns)) or '(none)'}, which is no known preference format. "
        f"Rename its columns to one of: {known}."
    )


def _is_transcript(row: Row) -> bool:
    """As Anthropic's HH-RLHF, or as PKU's processed copy of it."""
    return row.get("context") is not None or (isinstance(row["chosen"], str) and LAST_TURN in row["chosen"])
