"""records.jsonl: one line per response, written so that a kill loses nothing, read so that nothing goes unnoticed.

A record is a JSON object with the keys of `FIELDS`; further keys are kept. `prompt` and `response` are a string or a
list of chat messages, `reward` and `cost` numbers (cost: higher is worse, above 0 unsafe), the rest may be null.
Three further keys are understood: `base_prompt`, the prompt before an attack transformed it (records with the same one
are not independent), `benign`, true where a good model answers (for over-refusal), and `finished`, false where the
response was cut. These two are true or false, or as a table of text says it: "yes", "0".
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from trl_rsa.storage.lines import LONGEST_LINE, LineWriter, bounded_lines, open_bytes, write_whole
from trl_rsa.storage.printable import whole_characters
from trl_rsa.storage.tables import truth_of


FIELDS = ("prompt", "response", "reward", "cost", "model", "seed", "category", "attack")
_NAMES = ("model", "category", "attack")
_TRUTHS = ("benign", "finished")
Record = dict[str, Any]  # a RecordLine that was read: nothing is known of it but what read_records checks


class RecordLine(TypedDict):
    """A line of records.jsonl or responses.jsonl, as `evaluate` writes it. A file of one's own may hold more."""

    prompt: Any  # text or messages
    response: Any
    reward: float | None
    cost: float | None
    model: str | None
    seed: int | None
    category: str | None
    attack: str | None
    base_prompt: NotRequired[Any]
    benign: NotRequired[bool]
    # Of a response that was sampled here.
    draw: NotRequired[int]
    finished: NotRequired[bool]
    n_tokens: NotRequired[int]
    token_ids: NotRequired[list[int]]
    under: NotRequired[str]  # the condition, such as "at temperature 1.6", where it was not drawn as usual
    n_forced: NotRequired[int]
    # Why there is no score.
    reward_problem: NotRequired[str]
    cost_problem: NotRequired[str]


class ReadReportJSON(TypedDict):
    """A [`ReadReport`] in JSON."""

    read: int
    unreadable: int
    problems: dict[str, int]
    examples: list[str]


@dataclass
class ReadReport:
    """What a reading found. A line with a problem is never dropped silently: it is counted here, by reason.

    `unreadable` counts the lines that gave no record at all; a record without a usable score is still read, with
    None in its place.
    """

    read: int = 0
    unreadable: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        self.problems[reason] += 1
        if len(self.examples) < 20:
            self.examples.append(f"line {line}: {reason}")

    def to_dict(self) -> ReadReportJSON:
        return {
            "read": self.read,
            "unreadable": self.unreadable,
            "problems": dict(self.problems),
            "examples": list(self.examples),
        }

    def __str__(self) -> str:
        if not self.problems:
            return f"{self.read} records read, none malformed."
        reasons = "; ".join(f"{count} × {reason}" for reason, count in self.problems.most_common())
        return (
            f"{self.read} records read, {self.unreadable} lines unreadable. Problems: {reasons}. First: "
            f"{', '.join(self.examples[:3])}."
        )


def read_records(
    path: str | os.PathLike[str], report: ReadReport | None = None, scores: Sequence[str] = ("reward", "cost")
) -> Iterator[Record]:
    """Reads a records file line by line.

    Args:
        path (`str` or `os.PathLike`):
            The file, compressed if its name ends in .gz. It is not changed.
        report (`ReadReport`, *optional*):
            Filled while reading.
        scores (`Sequence[str]`, *optional*, defaults to `("reward", "cost")`):
            Scores that every record should have. One that is missing, null, NaN or not a number is a problem, and
            read as None.

    Yields:
        `dict`: the records, with every key of `FIELDS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"You set the records file to {str(path)!r}, but there is no such file. Give the records.jsonl that "
            "`trl-rsa evaluate` wrote, or your own file in that form."
        )
    report = ReadReport() if report is None else report
    with open_bytes(path) as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if line is not None and not line.strip():
                continue
            record = _parse(line, number, report)
            if record is None:
                report.unreadable += 1
                continue
            for name in ("reward", "cost"):
                record[name] = _score(record, name, name in scores, number, report)
            report.read += 1
            yield record


def _parse(line: bytes | None, number: int, report: ReadReport) -> Record | None:
    if line is None:
        report.add(number, f"longer than {LONGEST_LINE >> 20} MiB")
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        report.add(number, "not JSON" if line.endswith(b"\n") else "truncated last line")
        return None
    if not isinstance(record, dict):
        report.add(number, "not a JSON object")
        return None
    missing = [name for name in ("prompt", "response") if not isinstance(record.get(name), (str, list))]
    if missing:
        report.add(number, f"no {' and no '.join(missing)}")
        return None
    base = record.get("base_prompt")
    if base is not None and not isinstance(base, (str, list)):
        report.add(number, "base_prompt is neither text nor messages")
        return None
    names = {name: _as_name(record[name]) for name in _NAMES if record.get(name) is not None}
    truths = {name: truth_of(record[name]) for name in _TRUTHS if record.get(name) is not None}
    for name in (name for name, value in truths.items() if value is None):
        report.add(number, f"{name} is not true or false")
    return dict.fromkeys(FIELDS) | record | names | truths


def _as_name(value: Any) -> str:
    """A text that can be shown: the JSON of a value of another type, the escape of half a surrogate pair."""
    return whole_characters(value) if isinstance(value, str) else json.dumps(value)


def _score(record: Record, name: str, wanted: bool, number: int, report: ReadReport) -> float | None:
    value = record[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer beyond the range of a float
            pass
        report.add(number, f"{name} is not finite")
    elif value is not None:
        report.add(number, f"{name} is not a number")
    elif wanted:
        report.add(number, f"no {name}")
    return None


class RecordWriter(LineWriter):
    """A [`LineWriter`] of records. A fragment that a kill left is closed, not removed: the reader counts it.

    ```python
    with RecordWriter("records.jsonl") as writer:
        writer.write({"prompt": "…", "response": "…", "reward": 0.3, "cost": -1.2})
    ```
    """

    def _end(self, fragment: bytes) -> None:
        write_whole(self._file, b"\n", self.path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record. Fields of `FIELDS` that are absent are written as null."""
        super().write(dict.fromkeys(FIELDS) | dict(record))


def prompt_of(record: Mapping[str, Any]) -> Any:
    """The prompt that a record counts for: the one before an attack."""
    base = record.get("base_prompt")
    return record["prompt"] if base is None else base


def score_of(record: Mapping[str, Any], name: str) -> float:
    """A score as a number: NaN where there is none."""
    value = record.get(name)
    return math.nan if value is None else float(value)


def text_of(value: str | list[Any]) -> str:
    """The text of a prompt or a response: a string as it is; of chat messages, the content of the last one."""
    if isinstance(value, str):
        return value
    last = value[-1] if value else ""
    return str(last.get("content", "")) if isinstance(last, Mapping) else str(last)
