"""The rows to be judged: two responses to a prompt, whose own labels are only compared with; or prompts to answer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trl_rsa.data import load_preferences
from trl_rsa.data.formats import columns_of, sample_rows
from trl_rsa.data.load import open_named
from trl_rsa.data.schema import RowError, Text


_TWO = ("response_0", "response_1")
_ONE = ("response", "completion")


@dataclass(frozen=True)
class Unlabelled:
    """
    Args:
        prompt, first (`str` or `list[dict]`):
            A prompt and a response to it; without a response it is still to be drawn.
        second (`str` or `list[dict]`, *optional*):
            Another one.
        first_preferred (`bool`, *optional*):
            What the data itself says of the two.
    """

    prompt: Text
    first: Text | None
    second: Text | None = None
    first_preferred: bool | None = None


@dataclass
class Source:
    """Rows and what was left out, by reason."""

    name: str
    rows: list[Unlabelled]
    skipped: Counter[str] = field(default_factory=Counter)


def read_pairs(source: Any, options: Mapping[str, Any], limit: int | None = None) -> Source:
    """
    Pairs to be compared: rows with `prompt`, `response_0` and `response_1` and no judgement, or whatever
    [`~trl_rsa.data.load_preferences`] reads.

    Raises:
        ValueError, FileNotFoundError: if there are none.
    """
    _, rows = open_named(source, options.get("split"), options.get("revision"), options.get("name"))
    columns = set(columns_of(sample_rows(rows)))
    if {"prompt", *_TWO} <= columns and not any(name.endswith("_response_id") for name in columns):
        return _read(
            rows, lambda row: Unlabelled(_text(row, "prompt"), _text(row, _TWO[0]), _text(row, _TWO[1])), limit
        )
    loaded = load_preferences(source, limit=limit, **options)
    # Both orders are asked, so that the place of a response tells nothing.
    found = [Unlabelled(row["prompt"], row["chosen"], row["rejected"], True) for row in loaded.dataset]
    return Source(rows.name, found, Counter(loaded.counts.skipped))


def read_prompts(source: Any, options: Mapping[str, Any], limit: int | None = None) -> Source:
    """Prompts with a response to be revised (`response` or `completion`), or without one.

    Raises:
        ValueError, FileNotFoundError: if there are none.
    """
    _, rows = open_named(source, options.get("split"), options.get("revision"), options.get("name"))
    columns = set(columns_of(sample_rows(rows)))
    if "prompt" not in columns:
        raise ValueError(f"You gave {rows.name}, but its rows have no `prompt`. Give prompts.")
    response = next((name for name in _ONE if name in columns), None)
    return _read(
        rows, lambda row: Unlabelled(_text(row, "prompt"), None if response is None else _text(row, response)), limit
    )


def _read(rows: Any, make: Any, limit: int | None) -> Source:
    found = Source(rows.name, [])
    for _, row in rows:
        if limit is not None and len(found.rows) >= limit:
            break
        try:
            if isinstance(row, RowError):
                raise row
            found.rows.append(make(row))
        except RowError as error:
            found.skipped[str(error)] += 1
    if not found.rows:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in found.skipped.most_common()) or "it is empty"
        raise ValueError(f"You gave {rows.name}, but no row of it can be used: {reasons}. Correct the data.")
    return found


def _text(row: Mapping[str, Any], name: str) -> Text:
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(map(_is_turn, value)):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    raise RowError(f"no {name}" if value in (None, "", []) else f"field `{name}` is neither text nor messages")


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str)
