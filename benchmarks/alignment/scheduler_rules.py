"""The scheduler's rules on simulated ladders: how many rungs, how many walk-backs, how much is overpaid.

    python -m benchmarks.alignment.scheduler_rules            # prints the table
    python -m benchmarks.alignment.scheduler_rules --write    # writes it into docs/scheduler.md

A plant stands for model, data and cost: a curve says which bound a multiplier leads to. Seconds on one core.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from tests.ladder.plants import BUDGET, MARGIN, PLANTS, Plant, least_multiplier, simulate
from trl_rsa.ladder.scheduler import ConstraintScheduler


PAGE = Path(__file__).parents[2] / "docs" / "scheduler.md"
BEGIN, END = "<!-- begin: python -m benchmarks.alignment.scheduler_rules --write -->", "<!-- end -->"
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


def _cell(settings: dict[str, Any], plant: Plant, least: float) -> str:
    """Rungs + walk-backs and how much is paid; means over the seeds where there is noise."""
    seeds = SEEDS if plant.noise else range(1)
    ends = [
        simulate(ConstraintScheduler(BUDGET, MARGIN, max_rungs=MAX_RUNGS, **settings), plant, seed) for seed in seeds
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
        true = sum(end.bound <= BUDGET for end in met)
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
