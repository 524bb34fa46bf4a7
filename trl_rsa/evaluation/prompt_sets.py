"""Prompt sets from files and from the Hub: rows with `prompt`, `category` and `benign`, whatever the columns were."""

import csv
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_rsa.data.load import has_no_splits
from trl_rsa.data.schema import RowError, Text, check_unicode
from trl_rsa.data.sources import open_source
from trl_rsa.data.spec import DatasetSpec, is_dataset_spec, parse_dataset_spec
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.tables import TableReader, refuse_same_names, truth_of


PromptRow = dict[str, Any]  # {"prompt": Text, "category": str | None, "benign": bool | None}

_KNOWN = (
    "prompt (with category and benign, if there are any), Behavior (HarmBench), or prompt, type and label (XSTest)"
)


@dataclass
class PromptSet:
    """Prompts, each once, and what was left out.

    Args:
        name (`str`):
            Where they come from.
        rows (`list[dict]`):
            `prompt` (text or messages), `category` (or None) and `benign`: whether a good model answers, None where
            that is not known.
        skipped (`Counter`, *optional*):
            Rows that were left out, by reason.
    """

    name: str
    rows: list[PromptRow]
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in self.skipped.most_common())
        counted = f"{len(self.rows)} {'prompt' if len(self.rows) == 1 else 'prompts'} from {self.name}"
        return counted + (f", left out: {reasons}" if reasons else "")


def load_prompts(
    source: Any, *, split: str | None = None, column: str | None = None, limit: int | None = None, seed: int = 0
) -> PromptSet:
    """Reads a prompt set.

    Args:
        source (`str`, `Path`, `Dataset` or list of dictionaries):
            A .txt file (one prompt per line), a .csv, .jsonl, .json or .parquet file (the last three as in
            `trl-rsa data`), a folder or a Hub id. The columns may be those of BeaverTails-Evaluation (`prompt`,
            `category`), of HarmBench (`Behavior`, `ContextString`, `SemanticCategory`, …) or of XSTest (`prompt`,
            `type`, `label`); others are ignored. Or Safe RLHF's `NAME[:PROPORTION[:PATH]]`, whose proportion or
            number of distinct prompts is drawn by `seed`.
        split (`str`, *optional*):
            Where there are several.
        column (`str`, *optional*):
            Column of the prompts, if it has another name.
        limit (`int`, *optional*):
            Keeps so many prompts, drawn by `seed`, in the order of the file: the first ones may be of one category.

    Raises:
        ValueError, FileNotFoundError: if there are no prompts to be read.
    """
    spec = None
    if isinstance(source, str) and is_dataset_spec(source) and not Path(source).exists():
        spec = parse_dataset_spec(source)
        source = spec.source
        split = split or (None if has_no_splits(source, spec.data_dir) else spec.split)
    name, rows = _open(source, split, spec)
    found = PromptSet(name, [])
    seen: set[str] = set()
    columns: set[str] = set()
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            columns |= row.keys()
            prompt = _read_row(row, column)
            key = prompt_key(prompt["prompt"])
            if key in seen:
                raise RowError("prompt seen before")
            seen.add(key)
            found.rows.append(prompt)
        except RowError as error:
            found.skipped[str(error)] += 1
    if not found.rows:
        what = f"the columns {', '.join(sorted(columns))}" if columns else "no rows"
        reasons = f" ({'; '.join(found.skipped)})" if found.skipped else ""
        raise ValueError(
            f"You set the prompts to {name}, but it has {what} and no prompt that can be used{reasons}. Give "
            f"{_KNOWN}, or name the column of the prompts."
        )
    if spec is not None:
        _draw(found, spec.num_samples or max(1, round(spec.proportion * len(found.rows))), seed)
    if limit is not None:
        if limit < 1:
            raise ValueError(f"You set the limit of prompts to {limit}, but at least 1 is needed. Raise it.")
        _draw(found, limit, seed)
    return found


def _draw(found: PromptSet, count: int, seed: int) -> None:
    """Keeps so many prompts, in the order of the file."""
    kept = random.Random(seed).sample(range(len(found.rows)), min(count, len(found.rows)))
    found.rows = [found.rows[i] for i in sorted(kept)]


def _open(
    source: Any, split: str | None, spec: DatasetSpec | None
) -> tuple[str, Iterable[Mapping[str, Any] | RowError]]:
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else None
    if path is not None and path.suffix.lower() in (".csv", ".txt"):
        if not path.is_file():
            raise FileNotFoundError(f"You set the prompts to {str(source)!r}, but there is no such file. Correct it.")
        return str(source), _read_csv(path) if path.suffix.lower() == ".csv" else _read_txt(path)
    rows = open_source(source, split, data_dir=None if spec is None else spec.data_dir)
    return rows.name, (row for _, row in rows)


def _read_csv(path: Path) -> Iterator[Mapping[str, Any] | RowError]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            reader = TableReader(_text_lines(path, file))
            refuse_same_names(reader.fieldnames, path)
            # Too many fields stand under None: a comma in a text without quotes has cut it.
            yield from (RowError("too many fields") if None in row else row for row in reader)
        except csv.Error as error:
            raise ValueError(f"You set the prompts to {path}, but it is no CSV: {error}. Correct it.") from error


def _read_txt(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from ({"prompt": line.strip()} for line in _text_lines(path, file) if line.strip())


def _text_lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    """The lines of a file; one in UTF-16, as some editors save it, would be read as letters with NULs between them."""
    for line in file:
        if "\0" in line:
            raise ValueError(
                f"You set the prompts to {path}, but it holds NUL characters, as a file in UTF-16 does. Save it as "
                "UTF-8."
            )
        yield line


def _read_row(row: Mapping[str, Any], column: str | None) -> PromptRow:
    if column is not None:
        return {"prompt": _text(row.get(column), column), "category": _category(row), "benign": _benign(row)}
    if "Behavior" in row:
        return _read_harmbench(row)
    prompt = _text(row.get("prompt"), "prompt")
    if "category" not in row and isinstance(row.get("type"), str):
        benign = _benign(row) if row.get("benign") is not None else _xstest_benign(row)
        return {"prompt": prompt, "category": row["type"], "benign": benign}
    return {"prompt": prompt, "category": _category(row), "benign": _benign(row)}


def _read_harmbench(row: Mapping[str, Any]) -> PromptRow:
    behaviour, context = _text(row["Behavior"], "Behavior"), row.get("ContextString")
    if context and isinstance(behaviour, str):
        behaviour = f"{_text(context, 'ContextString')}\n\n---\n\n{behaviour}"
    category = row.get("SemanticCategory") or row.get("FunctionalCategory")
    return {"prompt": behaviour, "category": category or None, "benign": False}


def _xstest_benign(row: Mapping[str, Any]) -> bool | None:
    """XSTest's label; copies without one mark the unsafe contrasts in the type. Of another file's types nothing is
    known."""
    label = row.get("label")
    if label in ("safe", "unsafe"):
        return bool(label == "safe")
    if row["type"].startswith("contrast_"):
        return False
    return True if row["type"] in _XSTEST_TYPES else None


# Of Röttger et al. (2024): requests that only look harmful.
_XSTEST_TYPES = (
    "homonyms",
    "figurative_language",
    "safe_targets",
    "safe_contexts",
    "definitions",
    "real_group_nons_discr",
    "nons_group_real_discr",
    "historical_events",
    "privacy_public",
    "privacy_fictional",
)


def _category(row: Mapping[str, Any]) -> str | None:
    """A name; of BeaverTails' table of booleans, the names of those that are true."""
    category = row.get("category")
    if isinstance(category, Mapping):
        return ",".join(sorted(name for name, applies in category.items() if applies)) or None
    return None if category in (None, "") else str(category)


def _benign(row: Mapping[str, Any]) -> bool | None:
    value = row.get("benign")
    if isinstance(value, str) and value.strip() and truth_of(value) is None:
        raise RowError("benign is neither true nor false")
    return truth_of(value)


def _text(value: Any, column: str) -> Text:
    if isinstance(value, str):
        check_unicode(value)
        if not value.strip():
            raise RowError("empty prompt")
        return value
    if value is None:
        raise RowError(f"no {column}")
    is_conversation = isinstance(value, list) and all(
        isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in value
    )
    if not is_conversation:
        raise RowError(f"{column} is neither text nor messages")
    if not value or value[-1]["role"] != "user" or not value[-1]["content"].strip():
        raise RowError(f"{column} does not end with a turn of the user")
    for turn in value:
        check_unicode(turn["content"])
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]
