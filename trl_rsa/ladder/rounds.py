"""constraint.jsonl: one line per observed model, appended once it is decided on. The ladder resumes from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.storage.lines import LineWriter, read_lines


FILE_NAME = "constraint.jsonl"
Round = dict[str, Any]
Numbers = Mapping[str, float]


def read_rounds(path: Path) -> list[Round]:
    """The rounds so far, without a line that a kill cut off: what it said follows from the recorded answers."""
    return list(read_lines(path))


def append_round(path: Path, entry: Round) -> None:
    with LineWriter(path) as writer:
        writer.write(entry)


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
