"""What is decided from the rows of the neural part, by the rules of `pressure_arms.py`."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks.alignment.cells import Row
from benchmarks.alignment.pressure_arms import (
    ALPHA_ZERO,
    BASE,
    CANDIDATES,
    PRIMARIES,
    SLACK,
    TUNED,
    TUNING_SEED,
    WORLDS,
    Arm,
    Shape,
)
from benchmarks.alignment.pressure_verdicts import standing


TAILS = PRIMARIES[1:]
# Per primary the mean difference to α = 0 in the base shape, its p, and whether it stands after Holm.
Decided = dict[str, tuple[float, float, bool]]


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def candidates(rows: Sequence[Row]) -> list[tuple[Arm, Shape]]:
    """By the rule of `pressure_arms.py`; none before the tuning seed is complete."""
    tuning = [row for row in rows if int(row["seed"]) == TUNING_SEED]
    found: dict[tuple[str, str], list[Row]] = {}
    for row in tuning:
        found.setdefault((row["arm"], row["shape"]), []).append(row)
    if any(len(found.get((arm.name, shape.name), ())) < len(WORLDS) for arm, shape in TUNED):
        return []
    least = _mean(found[ALPHA_ZERO.name, BASE.name], ["reward"]) - SLACK
    good = [
        (arm, shape)
        for arm, shape in TUNED
        if (arm, shape) != (ALPHA_ZERO, BASE) and _mean(found[arm.name, shape.name], ["reward"]) >= least
    ]
    return sorted(good, key=lambda pair: _mean(found[pair[0].name, pair[1].name], TAILS))[:CANDIDATES]


def _mean(rows: Sequence[Row], names: Sequence[str]) -> float:
    return float(np.mean([float(row[name]) for row in rows for name in names]))


def primaries(rows: Sequence[Row], arm: str, shape: str) -> Decided:
    """Over worlds × seeds, with Holm over the five."""
    fresh = [row for row in rows if int(row["seed"]) != TUNING_SEED]

    def of(name: str, form: str) -> dict[tuple[str, str], Row]:
        return {(row["world"], str(row["seed"])): row for row in fresh if (row["arm"], row["shape"]) == (name, form)}

    mine, base = of(arm, shape), of(ALPHA_ZERO.name, BASE.name)
    shared = sorted(mine.keys() & base.keys())
    found = {}
    for name in PRIMARIES:
        differences = np.array([float(mine[key][name]) - float(base[key][name]) for key in shared])
        # Without two pairs that differ there is nothing to test.
        p = float(ttest_1samp(differences, 0).pvalue) if len(differences) > 1 and differences.std() else 1.0
        found[name] = float(differences.mean()), p
    decided = standing({name: p for name, (_, p) in found.items()})
    return {name: (*found[name], decided[name]) for name in PRIMARIES}


def ships(verdicts: Decided) -> bool:
    """Reward is not lower (not significantly below, and not by `SLACK` on average), and two tails are."""
    difference, _, stands = verdicts["reward"]
    lower = difference < -SLACK or (stands and difference < 0)
    return not lower and sum(stands and d < 0 for d, _, stands in (verdicts[name] for name in TAILS)) >= 2
