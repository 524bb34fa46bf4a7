"""What every adapter speaks: a row comes in, a `Pair` goes out, or a `RowError` says why not."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trl_rsa.storage.tables import truth_of


Message = dict[str, str]  # {"role": ..., "content": ...}
Text = str | list[Message]  # standard or conversational, in TRL's words
Row = Mapping[str, Any]

# Optional columns that the trainer reads; every other extra column is left behind.
PAIR_COLUMNS = ("pair_weight", "pair_label")


class RowError(Exception):
    """A row that cannot be used. Its text is the reason under which the row is counted."""


@dataclass(frozen=True)
class Pair:
    """One preference pair, as messages or as plain text. `weight` and `label` are None where the row has none;
    `swapped` says that a pair rule chose against the judgement."""

    prompt: Text
    chosen: Text
    rejected: Text
    weight: float | None = None
    label: float | None = None
    swapped: bool = False


def readable(text: Text) -> str:
    """A prompt or response as a person or a judge reads it: the text, or the turns with their roles."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return text[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in text)


def read_text(row: Row, field: str) -> str:
    """The text in `field`; raises `RowError` where there is none or where it cannot be written as UTF-8."""
    value = row.get(field)
    if value is None:
        raise RowError(f"missing field `{field}`")
    if not isinstance(value, str):
        raise RowError(f"field `{field}` is not text")
    check_unicode(value)
    return value


def check_unicode(text: str) -> None:
    # JSON may hold half of a surrogate pair ("\ud83d"): Python reads it, but Arrow and tokenizers cannot write it.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("text is not valid Unicode") from None


def number_of(value: Any) -> float | None:
    """A finite number, also written as text, as in every CSV file. None for anything else, truth values included."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_flag(row: Row, field: str) -> bool:
    """The truth value in `field`, as [`~storage.tables.truth_of`] reads it."""
    if row.get(field) is None:
        raise RowError(f"missing field `{field}`")
    flag = truth_of(row[field])
    if flag is None:
        raise RowError(f"field `{field}` is not true or false")
    return flag


def read_pair_columns(row: Row) -> dict[str, Any]:
    """`weight` and `label` of a row, from the optional columns `pair_weight` (≥ 0) and `pair_label` (in [0, 1])."""
    weight, label = (number_of(row.get(column)) for column in PAIR_COLUMNS)
    if row.get("pair_weight") is not None and (weight is None or weight < 0):
        raise RowError("`pair_weight` is not a number of at least 0")
    if row.get("pair_label") is not None and (label is None or not 0 <= label <= 1):
        raise RowError("`pair_label` is not a probability")
    return {"weight": weight, "label": label}


def refuse_weights(columns: Iterable[str], source: str) -> None:
    """Raises `ValueError` where columns of `source` are to count that what learns from it does not read."""
    for name in PAIR_COLUMNS:
        if name in columns:
            raise ValueError(
                f"You gave {source}, which has a column {name!r}, but only the method 'rsa' reads it: here every row "
                "would count in full. Remove the column, or train on the pairs with that method."
            )


def filled(row: Row) -> list[str]:
    """The fields of a row that hold something."""
    return [name for name, value in row.items() if value is not None and value != ""]


def check_pair(pair: Pair) -> Pair:
    """Returns `pair`, or raises `RowError` where a side is empty or both responses say the same."""
    turns = _stripped(pair.prompt)
    if not any(content for _, content in turns):
        raise RowError("empty prompt")
    if any(not content for role, content in turns if role != "system"):
        raise RowError("empty turn in the prompt")
    if _is_empty(pair.chosen) or _is_empty(pair.rejected):
        raise RowError("empty response")
    if _stripped(pair.chosen) == _stripped(pair.rejected):
        raise RowError("identical responses")
    return pair


def _stripped(text: Text) -> list[tuple[str, str]]:
    if isinstance(text, str):
        return [("", text.strip())]
    return [(message["role"], message["content"].strip()) for message in text]


def _is_empty(text: Text) -> bool:
    return not text or any(not content for _, content in _stripped(text))
