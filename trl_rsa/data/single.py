"""Rows with one response: demonstrations to imitate (SFT), and responses with a label (KTO).

A file with such rows is read as it is. Of preference pairs the chosen response is a demonstration, and both are
responses with a label.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trl_rsa.data.build import Tally, read_each
from trl_rsa.data.formats import columns_of, detect_format, sample_rows
from trl_rsa.data.judged import GRADE_COLUMNS, RUBRIC_COLUMNS, SAFE_COLUMNS, UNSAFE_COLUMNS
from trl_rsa.data.load import PreferenceData, load_preferences, open_named
from trl_rsa.data.pku import ID_SUFFIX
from trl_rsa.data.preference import read_response
from trl_rsa.data.report import DataReport, fingerprint
from trl_rsa.data.schema import Pair, Row, RowError, check_pair, filled, read_flag, refuse_weights
from trl_rsa.data.settings import check_count
from trl_rsa.data.sources import Rows
from trl_rsa.data.templates import TEMPLATES, render
from trl_rsa.storage.tables import truth_of


if TYPE_CHECKING:
    from datasets import Dataset

# Columns of rows with one response, and what is read of each.
_LABELLED = (("prompt", "completion", "label"), ("prompt", "response", "is_safe"))
_DEMONSTRATION = (("prompt", "completion"), ("messages",), ("prompt", "response"))
# Where a response stands, and its label.
_FIELDS = {"completion": "label", "response": "is_safe"}
# What says whether a response is to be imitated, and what only may say so: its scale is not known here.
_LABELS = ("label", *SAFE_COLUMNS, *UNSAFE_COLUMNS)
_GRADES = (*GRADE_COLUMNS, *RUBRIC_COLUMNS)


def load_unpaired(source: Any, **options: Any) -> PreferenceData:
    """Responses with a label, as TRL's KTOTrainer takes them: `prompt`, `completion`, `label`.

    Args:
        source:
            Rows with these columns, or BeaverTails' (`prompt`, `response`, `is_safe`), whose safe responses are
            desirable; or what [`load_preferences`] takes, whose pairs are taken apart.
        options:
            Of [`load_preferences`]. `split`, `revision`, `name`, `template`, `eos_token`, `strict`, `seed` and `limit`
            (a number of rows) serve for all of these.

    Returns:
        [`PreferenceData`]: rows shuffled by `seed`. KTO reads its data in order and compares neighbours, so that
        all chosen responses must not come first.

    Raises:
        `ValueError`: for settings that cannot work, unknown columns, weights of pairs, nothing left.
        `FileNotFoundError`: for a source that does not exist.
    """
    rows, shape, _ = _open(source, options, _LABELLED)
    if shape is not None:
        field = next(name for name in _FIELDS if name in shape)
        loaded = _load(rows, options, "unpaired", _FIELDS[field], lambda row: _read_labelled(row, field))
    else:
        loaded = _load_pairs(source, options)
        loaded = PreferenceData(_unpair(loaded.dataset), loaded.counts)
    order = list(range(len(loaded.dataset)))
    random.Random(options.get("seed", 42)).shuffle(order)
    return _counted(loaded.dataset.select(order), loaded.counts)


def load_demonstrations(source: Any, **options: Any) -> PreferenceData:
    """Responses to imitate, as TRL's SFTTrainer takes them: `prompt`, `completion`.

    Args:
        source:
            Rows with these columns (or `response`), or with `messages`, whose last turn is the assistant's; or what
            [`load_preferences`] takes, of which the chosen response is imitated. What a `label`, `is_safe`, `unsafe`,
            … calls bad is skipped.
        options:
            As in [`load_unpaired`].

    Raises:
        `ValueError`: as [`load_unpaired`], for rows with a `grade` or a `score`, but no label, and for a `label` that
            is not true or false.
        `FileNotFoundError`: for a source that does not exist.
    """
    rows, shape, columns = _open(source, options, _DEMONSTRATION)
    if shape is not None:
        label = next((name for name in _LABELS if name in columns), None)

        def read(row: Row) -> dict[str, Any]:
            _check_wanted(row, label, rows.name)
            return _read_messages(row) if shape == ("messages",) else _read_prompted(row, shape[1])

        format = "messages" if shape == ("messages",) else "demonstrations"
        return _load(rows, options, format, label or "all", read)
    loaded = _load_pairs(source, options)
    chosen = loaded.dataset.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    return _counted(chosen, loaded.counts)


def _open(source: Any, options: Mapping[str, Any], shapes: Any) -> tuple[Rows, tuple[str, ...] | None, set[str]]:
    """The rows, the first of the shapes that they have, None for pairs, and their columns."""
    _, rows = open_named(source, options.get("split"), options.get("revision"), options.get("name"))
    sample = sample_rows(rows)
    columns = set(columns_of(sample))
    is_pairs = {"chosen", "rejected"} <= columns or any(column.endswith(ID_SUFFIX) for column in columns)
    shape = None if is_pairs else next((shape for shape in shapes if set(shape) <= columns), None)
    if sample and shape is None and options.get("format") is None:
        try:
            detect_format(sample, rows.name)
        except ValueError as error:
            known = "; ".join(", ".join(shape) for shape in shapes)
            raise ValueError(
                f"You gave {rows.name}, with the columns {', '.join(sorted(columns))}, but here rows have {known}, "
                "or are preference pairs. Rename its columns."
            ) from error
    return rows, shape, columns


def _load_pairs(source: Any, options: Mapping[str, Any]) -> PreferenceData:
    loaded = load_preferences(source, **options)
    refuse_weights(loaded.dataset.column_names, loaded.counts.source)
    return loaded


def _load(
    rows: Rows,
    options: Mapping[str, Any],
    format: str,
    decided_by: str,
    read: Callable[[Row], dict[str, Any]],
) -> PreferenceData:
    from datasets import Dataset

    template, limit = options.get("template"), options.get("limit")
    known = ("split", "revision", "name", "template", "eos_token", "strict", "seed", "limit")
    for name in options:
        if name not in known and (name, options[name]) != ("preferred_by", "better"):
            raise ValueError(
                f"You set {name!r} for {rows.name}, but its rows have one response each, of which there is nothing "
                "to choose or to pair. Remove it."
            )
    if template is not None and template not in TEMPLATES:
        raise ValueError(f"You set template to {template!r}, but it is one of {', '.join(TEMPLATES)}. Set one.")
    check_count("limit", limit)
    tally = Tally(rows.name, bool(options.get("strict")))

    def read_one(_: str, row: Row) -> dict[str, Any]:
        refuse_weights(filled(row), rows.name)
        return _rendered(read(row), template, options.get("eos_token"))

    found = read_each(rows, tally, read_one)
    kinds = {isinstance(row["prompt"], str) for row in found}
    if not found or len(kinds) > 1:
        reasons = "; ".join(tally.skipped) or "some rows are text and others messages"
        raise ValueError(
            f"You gave {rows.name}, but of its {tally.read} rows none can be used ({reasons}). Correct it."
        )
    kept = found[:limit]
    dataset = Dataset.from_list(kept)
    report = DataReport(
        source=rows.name,
        format=format,
        preferred_by=decided_by,
        template=template or "as given",
        rows_read=tally.read,
        rows_used=len(found),
        pairs_built=len(found),
        pairs_kept=len(kept),
        fingerprint="",
        skipped=dict(tally.skipped.most_common()),
        pairs_left_out=len(found) - len(kept),
    )
    return _counted(dataset, report)


def _check_wanted(row: Row, label: str | None, source: str) -> None:
    """Raises `RowError` for a response that is not to be imitated, or without the `label` that other rows have."""
    present = filled(row)
    labels = [name for name in _LABELS if name in present]
    if "label" in labels and truth_of(row["label"]) is None:  # a topic, say, of which 0 is no verdict either
        raise ValueError(
            f"You gave {source} to imitate, but its column `label` is not true or false in every row ({_shown(row)}), "
            "so that it does not show which responses are bad. Rename the column if it says something else, or "
            "correct it."
        )
    for name in labels:
        if read_flag(row, name) == (name in UNSAFE_COLUMNS):
            raise RowError("labelled undesirable" if name == "label" else "labelled unsafe")
    if not labels and label is not None:
        raise RowError(f"missing field `{label}`")
    grade = next((name for name in _GRADES if name in present), None)
    if not labels and grade is not None:
        raise ValueError(
            f"You gave {source} to imitate, but its column `{grade}` may call some responses harmful, and what it "
            "calls so does not show here. Keep the rows to imitate and remove the column, or add a column `is_safe`."
        )


def _shown(row: Row) -> str:
    text = repr(row["label"])
    return text if len(text) <= 60 else f"{text[:60]}…"


def _read_prompted(row: Row, field: str) -> dict[str, Any]:
    return {"prompt": read_response(row, "prompt"), "completion": read_response(row, field)}


def _read_labelled(row: Row, field: str) -> dict[str, Any]:
    return {**_read_prompted(row, field), "label": read_flag(row, _FIELDS[field])}


def _read_messages(row: Row) -> dict[str, Any]:
    messages = read_response(row, "messages")
    if isinstance(messages, str) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise RowError("`messages` does not end with a turn of the assistant")
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def _rendered(row: dict[str, Any], template: str | None, eos_token: str | None) -> dict[str, Any]:
    """Written down as a pair is, with an other side that nobody sees."""
    prompt, completion = row["prompt"], row["completion"]
    other = "x" if isinstance(completion, str) else [{"role": "assistant", "content": "x"}]
    if isinstance(prompt, str) != isinstance(completion, str):
        raise RowError("the prompt is text and the response is messages, or the reverse")
    if completion == other:
        other = "y" if isinstance(completion, str) else [{"role": "assistant", "content": "y"}]
    pair = render(check_pair(Pair(prompt, completion, other)), template, eos_token)
    return {**row, "prompt": pair.prompt, "completion": pair.chosen}


def _unpair(pairs: "Dataset") -> "Dataset":
    from datasets import Dataset

    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    unpaired = Dataset.from_list(rows)
    unpaired.info.description = pairs.info.description  # says whether they may be split by prompt
    return unpaired


def _counted(dataset: "Dataset", counts: DataReport) -> PreferenceData:
    return PreferenceData(dataset, replace(counts, fingerprint=fingerprint(dataset)))
