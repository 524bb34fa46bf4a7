"""constraint.jsonl: one line per observed model, appended once it is decided on. The ladder resumes from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from trl_rsa.ladder.audit_files import AuditNumbers
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.storage.lines import LineWriter, read_lines


FILE_NAME = "constraint.jsonl"


class CostNumbers(TypedDict):
    """What was observed of one cost, in units of cost where it is not a count or a share.

    `n` responses, of which `cut` were cut at max_new_tokens and `clipped` have a cost outside the constraint's bounds;
    `eta` is the quantile at the tail; `violation` is upper_bound − budget; `under` is the condition of the responses.
    With an `audit` that has labels enough, all but the counts are of the labelled harm.
    """

    multiplier: float
    n: int
    cut: int
    clipped: int
    mean_cost: float
    unsafe_rate: float
    eta: float
    estimate: float
    upper_bound: float
    violation: float
    under: str | None
    audit: NotRequired[AuditNumbers]


class ObservationRecord(TypedDict):
    """One observed model: which it is, what was observed of every constraint's cost, and what was decided.

    `surprise` is that of the model that the ladder starts from at the responses, in nats per token; null where the
    models are in other processes.
    """

    number: int
    model: str
    rung: int
    fraction: float
    constraints: dict[str, CostNumbers]
    surprise: NotRequired[float | None]  # not in files of earlier versions
    action: str
    reason: str
    time: str


def read_observations(path: Path) -> list[ObservationRecord]:
    """The observations so far, without a line that a kill cut off: what it said follows from the records.

    Raises:
        ValueError: if one before the last cannot be read.
    """
    found = [cast(ObservationRecord, line) for line in read_lines(path)]
    for place, entry in enumerate(found):
        if entry.get("number") != place:
            raise ValueError(
                f"You resume a ladder, but {path} lacks its observation {place}: a line is damaged or gone. Restore "
                "the file, or use another output_dir."
            )
    return found


def append_observation(path: Path, entry: ObservationRecord) -> None:
    with LineWriter(path) as writer:
        writer.write(entry)


def line_of(entry: ObservationRecord, constraints: Sequence[RiskConstraint]) -> str:
    """An observation in one line."""
    parts = []
    for constraint in constraints:
        of = entry["constraints"][constraint.name]
        under = f" {of['under']}" if of.get("under") else ""
        parts.append(
            f"{constraint.name}{under}: λ={of['multiplier']:.3g}, CVaR {constraint.tail:g} {of['estimate']:.3g}, "
            f"bound {of['upper_bound']:.3g}, budget {constraint.budget:g}, {of['cut'] / of['n']:.0%} cut"
            + (f", {of['audit']['labels']} labels" if "audit" in of else "")
        )
    return f"[ladder {entry['number']}] {'; '.join(parts)}. {entry['reason']}"


def metrics_of(
    entry: ObservationRecord, constraints: Sequence[RiskConstraint], multipliers: Mapping[str, float]
) -> dict[str, float]:
    """For the trackers of the rung that follows on the observation; `multipliers` are those that it trains for."""
    metrics: dict[str, float] = {}
    for constraint in constraints:
        of, prefix = entry["constraints"][constraint.name], f"constraint/{constraint.name}"
        metrics |= {
            f"{prefix}/estimate": of["estimate"],
            f"{prefix}/upper_bound": of["upper_bound"],
            f"{prefix}/multiplier": multipliers[constraint.name],
            f"{prefix}/violation": of["violation"],
        }
    return metrics
