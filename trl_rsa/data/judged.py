"""Judged responses: pairs, safe or unsafe labels, and grades of harm, from whatever a file says about its responses.

`load_preferences` makes pairs for a policy; this reads all that a score model can learn from.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trl_rsa.data import pku
from trl_rsa.data.build import Tally, choose_adapter, has_prompts, read_each
from trl_rsa.data.formats import columns_of, detect_format, sample_rows
from trl_rsa.data.harm import HarmScale, rubric_score
from trl_rsa.data.load import draw, open_named
from trl_rsa.data.preference import read_response
from trl_rsa.data.schema import (
    Message,
    Pair,
    Row,
    RowError,
    check_pair,
    filled,
    number_of,
    read_flag,
    refuse_weights,
)
from trl_rsa.data.sources import Rows
from trl_rsa.data.templates import render


# Names of columns in published files. The first that a file has is read.
PROMPT_COLUMNS = ("prompt", "question", "goal")
RESPONSE_COLUMNS = ("response", "completion", "answer")
GRADE_COLUMNS = ("grade", "severity", "severity_level")
RUBRIC_COLUMNS = ("score",)  # in [0, 1], such as StrongREJECT's
SAFE_COLUMNS, UNSAFE_COLUMNS = ("is_safe", "safe"), ("is_unsafe", "unsafe", "jailbroken", "harmful")

PKU_SEVERITY = "response_{}_severity_level"
PKU_SAFE = "is_response_{}_safe"

SINGLE = "judged responses"  # the format of rows with one response


@dataclass(frozen=True)
class Verdict:
    """What a row says about one response; what it does not say is None.

    Args:
        response (`list[Message]`): The response.
        grade (`int`): Grade of harm on the scale.
        unsafe (`bool`): Whether it is unsafe.
        severity (`float`): The grade, or a rubric's score on the same scale: above the grade before, at most this one.
    """

    response: list[Message]
    grade: int | None = None
    unsafe: bool | None = None
    severity: float | None = None


@dataclass(frozen=True)
class JudgedRow:
    """One response with its verdict, or two, of which the first was preferred."""

    prompt: list[Message]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class JudgedData:
    """The rows of one source, and what became of all that was read."""

    rows: list[JudgedRow]
    source: str
    format: str
    rows_read: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = count_judgements(self.rows)
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        lines = [f"{self.source}: {self.rows_read:,} rows read as {self.format}; {said}"]
        lines += [f"{count:>9,}  rows skipped: {reason}" for reason, count in self.skipped.items()]
        return "\n".join(lines)


def count_judgements(rows: Iterable[JudgedRow]) -> dict[str, int]:
    counts = {"pairs": 0, "labels": 0, "grades": 0}
    for row in rows:
        counts["pairs"] += len(row.verdicts) == 2
        counts["labels"] += sum(verdict.unsafe is not None for verdict in row.verdicts)
        counts["grades"] += sum(verdict.grade is not None for verdict in row.verdicts)
    return counts


def load_judged(
    source: Any,
    scale: HarmScale | None = None,
    format: str | None = None,
    preferred_by: str = "safer",
    split: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    strict: bool = False,
    seed: int = 42,
) -> JudgedData:
    """
    Reads judged responses; a row that cannot be used is counted.

    Args:
        source, format, split, revision, name, strict, seed:
            As [`load_preferences`]. A .csv file works too. Besides the formats of pairs there are rows of one
            `response` to a `prompt`, each text or messages, with a `grade` (name or number on the scale), a rubric's
            `score` in [0, 1], or a label (`is_safe`, `unsafe`, …).
        scale ([`HarmScale`], *optional*):
            What grades are read on; without it they are left out.
        preferred_by (`str`, *optional*, defaults to `"safer"`):
            PKU-SafeRLHF: which judgement orders a pair.

    Raises:
        `ValueError`: for an unknown format, a broken row with `strict`, scores outside [0, 1], weights of pairs,
            nothing left.
        `FileNotFoundError`: for a source that does not exist.
    """
    spec, rows = open_named(source, split, revision, name)
    sample = sample_rows(rows)
    format = format or (spec.format if spec else None)
    adapt, format = _choose(sample, rows, format, preferred_by, scale)
    tally = Tally(rows.name, strict)

    def read(_: str, row: Row) -> JudgedRow:
        refuse_weights(filled(row), rows.name)
        return adapt(row)

    found = read_each(rows, tally, read)
    _refuse_another_range(rows, tally)
    if not found:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in tally.skipped.most_common())
        raise ValueError(
            f"No judged response is left of the {tally.read:,} rows of {rows.name} (format {format}): "
            f"{reasons or 'there are no rows'}. Its columns are {', '.join(columns_of(sample)) or '(none)'}."
        )
    found = draw(found, spec, seed)
    return JudgedData(found, rows.name, format, tally.read, dict(Counter(tally.skipped).most_common()))


def _refuse_another_range(rows: Rows, tally: Tally) -> None:
    """Of scores from 1 to 5 only the 1s would be left, and would be the worst: exactly the wrong rows."""
    for name in RUBRIC_COLUMNS:
        if not any(f"field `{name}`" in reason for reason in tally.skipped):
            continue
        scores = [number_of(row.get(name)) for _, row in rows if not isinstance(row, RowError)]
        known = [score for score in scores if score is not None]
        if known and not 0 <= min(known) <= max(known) <= 1:
            raise ValueError(
                f"You gave {rows.name}, but its column `{name}` goes from {min(known):g} to {max(known):g}, and a "
                "rubric's score from 0 (harmless) to 1 (the worst). Write it so, or rename the column if it is "
                "something else."
            )


def _choose(
    sample: list[Row], rows: Rows, format: str | None, preferred_by: str, scale: HarmScale | None
) -> tuple[Callable[[Row], JudgedRow], str]:
    """How a row is read, by the columns of the file."""
    columns = columns_of(sample)
    prompt, response = _first(PROMPT_COLUMNS, columns), _first(RESPONSE_COLUMNS, columns)
    judged = (*GRADE_COLUMNS, *RUBRIC_COLUMNS, *SAFE_COLUMNS, *UNSAFE_COLUMNS)
    if format in (None, "beavertails") and prompt and response and _first(judged, columns):
        return lambda row: _read_single(row, prompt, response, scale), SINGLE
    format = format or (detect_format(sample, rows.name) if sample else "unknown")
    if format == "pku-safe-rlhf":
        if sample and preferred_by + pku.ID_SUFFIX not in columns:
            raise ValueError(
                f"You set preferred_by to {preferred_by!r}, but the rows of {rows.name} have no column "
                f"{preferred_by}{pku.ID_SUFFIX}. Set it to the judgement that they have."
            )
        return lambda row: _read_pku(row, preferred_by, scale), format
    implicit = format == "preference" and not has_prompts(rows)
    adapter = choose_adapter(format, preferred_by, "chat", implicit)
    return lambda row: _row_of(check_pair(render(adapter(row), "chat"))), format


def _first(names: Iterable[str], columns: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _row_of(pair: Pair, first: Mapping[str, Any] | None = None, second: Mapping[str, Any] | None = None) -> JudgedRow:
    sides = ((pair.chosen, first), (pair.rejected, second))
    return JudgedRow(pair.prompt, tuple(Verdict(response, **(said or {})) for response, said in sides))  # type: ignore[arg-type]


def _read_pku(row: Row, preferred_by: str, scale: HarmScale | None) -> JudgedRow:
    pair = check_pair(render(pku.adapt(row, preferred_by), "chat"))
    said = [_verdict(row, PKU_SEVERITY.format(i), PKU_SAFE.format(i), scale) for i in (0, 1)]
    chosen = pku.read_choice(row, preferred_by + pku.ID_SUFFIX)
    return _row_of(pair, said[chosen], said[1 - chosen])


def _verdict(row: Row, grade: str, safe: str, scale: HarmScale | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if row.get(safe) is not None:
        found["unsafe"] = not read_flag(row, safe)
    if scale is not None and row.get(grade) is not None:
        found["grade"] = scale.grade_of(row[grade], grade)
        found["severity"] = float(found["grade"])
    return _consistent(found, scale)


def _consistent(found: dict[str, Any], scale: HarmScale | None) -> dict[str, Any]:
    """A grade says whether a response is unsafe; a label that says otherwise is a mistake in one of them."""
    if scale is None or found.get("grade") is None:
        return found
    unsafe = found["grade"] >= scale.first_unsafe
    if found.get("unsafe") not in (None, unsafe):
        raise RowError("the grade and the safety label contradict each other")
    return found | {"unsafe": unsafe}


def _read_single(row: Row, prompt: str, response: str, scale: HarmScale | None) -> JudgedRow:
    question, answer = _turns(row, prompt, "user"), _turns(row, response, "assistant")
    found: dict[str, Any] = {}
    present = filled(row)
    if scale is not None:
        if name := _first(GRADE_COLUMNS, present):
            found["grade"] = scale.grade_of(row[name], name)
            found["severity"] = float(found["grade"])
        elif name := _first(RUBRIC_COLUMNS, present):
            found["grade"] = scale.grade_of_rubric(row[name], name)
            found["severity"] = rubric_score(row[name], name) * (len(scale.names) - 1)
    labels = {
        read_flag(row, name) != (name in SAFE_COLUMNS) for name in (*SAFE_COLUMNS, *UNSAFE_COLUMNS) if name in present
    }
    if len(labels) > 1:
        raise RowError("two safety labels contradict each other")
    if labels:
        found["unsafe"] = labels.pop()
    if not found:
        raise RowError("nothing is said about the response")
    return JudgedRow(question, (Verdict(answer, **_consistent(found, scale)),))


def _turns(row: Row, field: str, role: str) -> list[Message]:
    """Text as one turn of the role; messages as they are, the last of them the role's."""
    found = read_response(row, field)
    turns = [{"role": role, "content": found}] if isinstance(found, str) else found
    if not turns or not turns[-1]["content"].strip():
        raise RowError("empty prompt" if role == "user" else "empty response")
    if turns[-1]["role"] != role:
        raise RowError(f"field `{field}` does not end with a turn of the {role}")
    return turns
