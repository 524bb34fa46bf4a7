"""The scheduler's rules on simulated ladders: how many rungs, how many walk-backs, how much is overpaid.

    python -m benchmarks.alignment.scheduler_rules            # prints the table
    python -m benchmarks.alignment.scheduler_rules --write    # writes it into docs/scheduler.md

A plant stands for model, data and cost: a curve says which bound a multiplier leads to. Seconds on one core.
"""

import argparse
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_rsa.ladder.scheduler import ConstraintScheduler


PAGE = Path(__file__).parents[2] / "docs" / "scheduler.md"
BEGIN, END = "<!-- begin: python -m benchmarks.alignment.scheduler_rules --write -->", "<!-- end -->"
THRESHOLD, MARGIN = 0.0, 0.25
# Enough to see how many rungs a slow rule needs; the scheduler's own default is 6.
MAX_RUNGS = 40
COLUMNS: dict[str, dict[str, Any]] = {
    "`bracket`": {"rule": "bracket"},
    "`dual_ascent`, 0.1": {"rule": "dual_ascent", "learning_rate": 0.1},
    "`dual_ascent`, 1": {"rule": "dual_ascent", "learning_rate": 1.0},
    "`log_dual_ascent`, 0.1": {"rule": "log_dual_ascent", "learning_rate": 0.1},
    "`log_dual_ascent`, 1": {"rule": "log_dual_ascent", "learning_rate": 1.0},
}
SEEDS = range(20)


@dataclass(frozen=True)
class Plant:
    """A simulated ladder.

    Args:
        curve (`Callable[[float], float]`):
            Bound of the risk of cost at a multiplier, once training has converged and without noise.
        noise (`float`):
            Standard deviation of the normal noise of each observation.
        lag (`float`):
            Share of the way to its multiplier that a rung leaves undone (training stopped early).
    """

    curve: Callable[[float], float]
    noise: float = 0.0
    lag: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a ladder ended. `position` is the multiplier that the final model truly is at; lag leaves it behind λ."""

    met: bool
    rungs: int
    walk_backs: int
    multiplier: float
    position: float
    bound: float  # of the final model, without noise


def simulate(scheduler: ConstraintScheduler, plant: Plant, seed: int = 0) -> Outcome:
    """Does what the scheduler says, as a caller would: keeps the models, restores, interpolates."""
    draw = random.Random(seed)
    position, tops, seen = 0.0, [0.0], []
    while True:
        bound = plant.curve(position) + draw.gauss(0.0, plant.noise)
        seen.append(position)
        decision = scheduler.observe(estimate=bound - MARGIN, upper_bound=bound)
        start = seen[decision.start.number]
        if decision.action == "stop":
            rungs = max(trial.rung for trial in scheduler.trials)
            walk_backs = len(seen) - 1 - rungs
            return Outcome(decision.met, rungs, walk_backs, decision.multiplier, start, plant.curve(start))
        if decision.action == "next_rung":
            position = start + (1 - plant.lag) * (decision.multiplier - start)
            tops.append(position)
        else:
            position = tops[-2] + decision.fraction * (tops[-1] - tops[-2])


def least_multiplier(curve: Callable[[float], float], largest: float = 1e4) -> float:
    """The least λ that meets the constraint of a falling curve, by bisection; infinite if there is none."""
    if curve(0.0) <= THRESHOLD:
        return 0.0
    if curve(largest) > THRESHOLD:
        return math.inf
    low, high = 0.0, largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if curve(middle) <= THRESHOLD else (middle, high)
    return high


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(min(-x, 700.0)))


def _tilted_tail(multiplier: float) -> float:
    """CVaR, tail 0.05, of 101 costs from −3 to 3 whose normal law is tilted by exp(−λ/4·cost): the α = 0 optimum."""
    costs = [3 - 0.06 * k for k in range(101)]
    weights = [math.exp(-(cost**2) / 2 - multiplier / 4 * (cost + 3)) for cost in costs]
    total, left, tail = sum(weights), 0.05, 0.0
    for cost, weight in zip(costs, weights, strict=True):
        mass = min(weight / total, left)
        tail, left = tail + mass * cost, left - mass
    return tail / 0.05 - 0.5


PLANTS = {
    "linear": Plant(lambda x: 3 - x / 2),
    "convex": Plant(lambda x: 4 * math.exp(-x / 3) - 1),
    "tilted tail": Plant(_tilted_tail),
    "steep": Plant(lambda x: 4 * _sigmoid(20 * (3 - x)) - 2),
    "slow": Plant(lambda x: 2 - math.log1p(x) / 2),
    "noisy": Plant(lambda x: 4 * math.exp(-x / 3) - 1, noise=0.15),
    "delayed": Plant(lambda x: 4 * math.exp(-x / 3) - 1, lag=0.4),
    "plateau": Plant(lambda x: 2 - 3 * _sigmoid(4 * (x - 6))),
    "kink": Plant(lambda x: 2 - x / 2 + 1.5 * math.exp(-((x - 3) ** 2))),
    "already feasible": Plant(lambda x: -1 - x),
    "infeasible": Plant(lambda x: 1 + 3 * math.exp(-x)),
}


def _cell(settings: dict[str, Any], plant: Plant, least: float) -> str:
    """Rungs + walk-backs and how much is paid; means over the seeds where there is noise."""
    seeds = SEEDS if plant.noise else range(1)
    ends = [
        simulate(ConstraintScheduler(THRESHOLD, MARGIN, max_rungs=MAX_RUNGS, **settings), plant, seed)
        for seed in seeds
    ]
    text = (
        f"{statistics.fmean(end.rungs for end in ends):.3g} + {statistics.fmean(end.walk_backs for end in ends):.3g}"
    )
    met = [end for end in ends if end.met]
    if not met:
        return f"{text}, not met"
    if least:
        text += f", {statistics.fmean(end.position for end in met) / least:.2f} λ*"
    if plant.noise:
        true = sum(end.bound <= THRESHOLD for end in met)
        text += f"; met {len(met)}, truly {true} of {len(ends)}"
    return text


def table() -> str:
    """The Markdown table of all plants and rules."""
    lines = [f"| Plant | λ* | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for name, plant in PLANTS.items():
        least = least_multiplier(plant.curve)
        shown = f"{least:.3g}" if math.isfinite(least) else "none"
        lines.append(
            f"| {name} | {shown} | {' | '.join(_cell(settings, plant, least) for settings in COLUMNS.values())} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/scheduler.md")
    if not parser.parse_args().write:
        print(table())
        return
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
