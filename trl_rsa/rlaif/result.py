"""What is written of a labelling: a line per row as it is done, and at the end the pairs and their counts."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from trl_rsa.rlaif.labelling import Labelling
from trl_rsa.rlaif.pairs import Source, Unlabelled
from trl_rsa.scoring.endpoint import CUT
from trl_rsa.storage.files import refuse_existing, replacing, write_json
from trl_rsa.storage.provenance import now, versions


class FeedbackLine(TypedDict):
    """A line of OUTPUT.lines.jsonl: what the judge said of one row."""

    key: str
    principle: str
    reason: str | None
    # Of a comparison.
    preference: NotRequired[float | None]
    forward: NotRequired[list[float]]
    backward: NotRequired[list[float]]
    # Of a revision.
    original: NotRequired[Any]
    revised: NotRequired[str]
    critiques: NotRequired[list[str]]


class FeedbackReport(TypedDict):
    """OUTPUT.report.json."""

    schema_version: int
    created: str
    versions: dict[str, str]
    method: str
    judge: str
    constitution: str
    source: str
    seed: int
    counts: dict[str, int]
    principles: dict[str, int]
    skipped: dict[str, int]
    agreement: NotRequired[float | None]
    first_place: NotRequired[float | None]
    with_data: NotRequired[float | None]


def lines_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.lines.jsonl")


def check_output(output: Path) -> None:
    """
    Raises:
        ValueError: if there is such a file, and no earlier start has written it.
    """
    if not lines_path(output).exists():
        refuse_existing(output, "this command has not written it")


def report_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.report.json")


def write_result(labelling: Labelling, source: Source, lines: Sequence[FeedbackLine], chat: Any) -> FeedbackReport:
    """Writes OUTPUT and OUTPUT.report.json."""
    compares = labelling.method == "compare"
    by_key = {line["key"]: line for line in lines}
    found = [(row, by_key.get(labelling.key(row, chat))) for row in source.rows]
    counts: Counter[str] = Counter()
    rows, agreed = [], []
    for row, line in found:
        made, outcome = (_compared if compares else _revised)(row, line, labelling.ties == "keep")
        counts[outcome] += 1
        if made is None or line is None:
            continue
        rows.append({**made, "principle": line["principle"]})
        if row.first_preferred is not None and line.get("preference") != 0.5:
            agreed.append((made["chosen"] == row.first) == row.first_preferred)
    with replacing(labelling.output) as partial:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    report: FeedbackReport = {
        "schema_version": 1,
        "created": now(),
        "versions": versions(),
        "method": labelling.method,
        "judge": chat.model,
        "constitution": labelling.constitution.digest,
        "source": source.name,
        "seed": labelling.seed,
        "counts": {"rows": len(source.rows), "written": len(rows), **dict(counts.most_common())},
        "principles": dict(Counter(line["principle"] for line in lines).most_common()),
        "skipped": dict(source.skipped.most_common()),
    }
    if compares:
        report |= {
            "agreement": _agreement(lines),
            "first_place": _first_place(lines),
            "with_data": sum(agreed) / len(agreed) if agreed else None,
        }
    write_json(report_path(labelling.output), report)
    return report


def _compared(row: Unlabelled, line: FeedbackLine | None, keep_ties: bool) -> tuple[dict[str, Any] | None, str]:
    """The row for the trainer, if there is one, and under what it is counted."""
    if line is None:
        return None, "not labelled yet"
    preference = line.get("preference")
    if preference is None:
        return None, "without a verdict"
    label = {"pair_label": max(preference, 1 - preference)} if keep_ties else {}
    first_wins = preference >= 0.5
    chosen, rejected = (row.first, row.second) if first_wins else (row.second, row.first)
    made = {"prompt": row.prompt, "chosen": chosen, "rejected": rejected, **label}
    if preference != 0.5:
        return made, "decided"
    orders = (line.get("forward") or [0.5], line.get("backward") or [0.5])
    agree = all(set(order) == {0.5} for order in orders)
    return (made if keep_ties else None), "ties" if agree else "orders that disagree"


def _revised(row: Unlabelled, line: FeedbackLine | None, keep_ties: bool) -> tuple[dict[str, Any] | None, str]:
    if line is None:
        return None, "not labelled yet"
    if line["reason"] is not None:
        if "revised" in line:
            return None, "not changed"
        return None, "with a reply that was cut" if CUT in line["reason"] else "without a reply"
    original: Any = line["original"]
    revised: Any = line["revised"]
    if isinstance(original, str) and not isinstance(row.prompt, str):  # it was drawn: pairs are of one kind
        original = [{"role": "assistant", "content": original}]
    if not isinstance(original, str):
        revised = [*original[:-1], {**original[-1], "content": revised}]
    return {"prompt": row.prompt, "chosen": revised, "rejected": original}, "revised"


def _agreement(lines: Sequence[FeedbackLine]) -> float | None:
    """Share of the pairs asked in both orders of which the mean verdict is the same in both."""
    asked = [line for line in lines if line.get("forward") and line.get("backward")]
    same = [_mean(line["forward"]) == _mean(line["backward"]) for line in asked]
    return sum(same) / len(same) if same else None


def _first_place(lines: Sequence[FeedbackLine]) -> float | None:
    """Share of the verdicts that are no ties which take the response that stands first: ½ of a judge without bias."""
    verdicts = [point for line in lines for point in line.get("forward", [])]
    verdicts += [1 - point for line in lines for point in line.get("backward", [])]
    decided = [point for point in verdicts if point != 0.5]
    return sum(decided) / len(decided) if decided else None


def _mean(points: Sequence[float]) -> float:
    return sum(points) / len(points)
