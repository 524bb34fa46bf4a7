"""constraint.jsonl: one line per observed model, appended once it is decided on. The ladder resumes from it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint


FILE_NAME = "constraint.jsonl"
Round = dict[str, Any]
Numbers = Mapping[str, float]


def read_rounds(path: Path) -> list[Round]:
    """The rounds so far. A line that a kill cut off is removed: what it said follows from the recorded answers."""
    if not path.exists():
        return []
    whole, newline, fragment = path.read_bytes().rpartition(b"\n")
    if fragment:
        with path.open("rb+") as file:
            file.truncate(len(whole) + len(newline))
    return [json.loads(line) for line in whole.splitlines()]


def append_round(path: Path, entry: Round) -> None:
    """Adds one line, handed to the operating system at once."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def numbers_of(entry: Round, names: Sequence[str]) -> dict[str, Numbers]:
    """What was observed, by constraint. The numbers of one alone stand in the round itself."""
    return {names[0]: entry} if len(names) == 1 else entry["constraints"]


def with_numbers(entry: Round, numbers: Mapping[str, Numbers]) -> Round:
    """The entry with what was observed, as [`numbers_of`] reads it."""
    if len(numbers) == 1:
        return entry | dict(next(iter(numbers.values())))
    return entry | {"constraints": {name: dict(several) for name, several in numbers.items()}}


def line_of(entry: Round, constraints: Sequence[RiskConstraint]) -> str:
    """A round in one line."""
    numbers = numbers_of(entry, [constraint.name for constraint in constraints])
    parts = (
        f"{constraint.name if len(constraints) > 1 else ''} λ={of['multiplier']:.3g}  CVaR {constraint.tail:g} of "
        f"cost: {of['estimate']:.3g}, bound {of['upper_bound']:.3g}, budget {constraint.threshold:g}, "
        f"{of['cut'] / of['n']:.0%} cut"
        for constraint, of in ((constraint, numbers[constraint.name]) for constraint in constraints)
    )
    return f"[ladder {entry['number']}] {'; '.join(part.lstrip() for part in parts)}. {entry['reason']}"


def metrics_of(
    entry: Round, constraints: Sequence[RiskConstraint], multipliers: Mapping[str, float]
) -> dict[str, float]:
    """For the trackers of the rung that follows on the round; `multipliers` are those that it trains for."""
    numbers = numbers_of(entry, [constraint.name for constraint in constraints])
    metrics: dict[str, float] = {}
    for constraint in constraints:
        of, prefix = numbers[constraint.name], "constraint/"
        if len(constraints) > 1:
            prefix += f"{constraint.name}/"
        metrics |= {
            f"{prefix}estimate": of["estimate"],
            f"{prefix}upper_bound": of["upper_bound"],
            f"{prefix}multiplier": multipliers[constraint.name],
            f"{prefix}violation": of["upper_bound"] - constraint.threshold,
        }
    return metrics
