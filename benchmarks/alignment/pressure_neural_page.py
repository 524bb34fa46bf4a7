"""The part of the pressure track's page about a trained model, written from `neural.csv`."""

from collections.abc import Sequence

import numpy as np

from benchmarks.alignment.cells import Row
from benchmarks.alignment.pressure_arms import (
    ALPHA_ZERO,
    BASE,
    PRIMARIES,
    SLACK,
    TEST_SEEDS,
    TUNED,
    TUNING_SEED,
    WORLDS,
    Arm,
    Shape,
)
from benchmarks.alignment.pressure_choice import candidates, primaries, ships
from benchmarks.kernels.page import table


NAMES = {
    "reward": "reward",
    "heat": "temperature 1.6",
    "halfway": "half-way",
    "benign_sft": "after 50 benign steps",
    "beginning": "forced beginning",
}
NOT_RUN = """Not run: this part needs about five hours on two cores, which have not been spent. What is above holds for
tabular policies, one prompt and true costs; whether it carries over to a trained model is open."""

CUT = """Three candidates were planned. The second and the third by the
tuning seed, rungs of 6,144 pairs, were cut for time before they had a fresh run: arms are cut, not seeds."""


def neural_part(rows: Sequence[Row]) -> str:
    """The whole section: what the tuning seed says, and what the fresh seeds decide."""
    if not rows:
        return f"## With a trained model\n\n{NOT_RUN}\n"
    tuning = [row for row in rows if int(row["seed"]) == TUNING_SEED]
    asked, chosen = len(TUNED) * len(WORLDS), candidates(rows)
    said = f"{asked - len(tuning)} of its {asked} runs are missing, so that nothing is chosen yet. " * (not chosen)
    return f"""## With a trained model

The policy of the sandbox in the worlds {", ".join(f"`{world}`" for world in WORLDS)}, three re-anchored rungs each, at
a budget; what is compared, and by which rule, was committed before anything was run (`pressure_arms.py`).

**The tuning seed.** {said}Means over the worlds that are there.

{_tuning_table(tuning)}

{_fresh(rows, chosen)}"""


def _tuning_table(rows: Sequence[Row]) -> str:
    heads = ["arm", "rung", "worlds", "budget met", "scorer calls", *(NAMES[name] for name in PRIMARIES)]
    lines = []
    for arm, shape in TUNED:
        mine = [row for row in rows if (row["arm"], row["shape"]) == (arm.name, shape.name)]
        if mine:
            met = sum(int(row["met"]) for row in mine)
            scored = f"{_mean(mine, 'scored'):,.0f}"
            numbers = [f"{_mean(mine, name):.2f}" for name in PRIMARIES]
            lines.append([arm.name, shape.name, str(len(mine)), f"{met} of {len(mine)}", scored, *numbers])
    return table(heads, lines)


def _fresh(rows: Sequence[Row], chosen: Sequence[tuple[Arm, Shape]]) -> str:
    if not chosen:
        return ""
    lines, verdicts = [], []
    asked = len(TEST_SEEDS) * len(WORLDS)
    for arm, shape in chosen:
        mine = [r for r in rows if (r["arm"], r["shape"]) == (arm.name, shape.name) and int(r["seed"]) != TUNING_SEED]
        if not mine:
            continue
        decided = primaries(rows, arm.name, shape.name)
        numbers = [_difference(*decided[name]) for name in PRIMARIES]
        met = sum(int(row["met"]) for row in mine)
        lines.append([arm.name, shape.name, f"{len(mine)}", f"{met} of {len(mine)}", *numbers])
        does = "changes the default" if ships(decided) else "does not change the default"
        if len(mine) < asked:
            does = f"has {len(mine)} of {asked} runs: nothing is decided yet"
        base = [row for row in rows if (row["arm"], row["shape"]) == (ALPHA_ZERO.name, BASE.name)]
        if base:
            does += f"; it takes {_mean(mine, 'scored') / _mean(base, 'scored'):.3g} times the scorer calls"
        verdicts.append(f"* **{arm.name}, {shape.name}** {does}.")
    if not lines:
        return "**The fresh seeds.** Not run yet.\n"
    heads = ["arm", "rung", "runs", "budget met", *(NAMES[name] for name in PRIMARIES)]
    return f"""**The fresh seeds.** Differences to {ALPHA_ZERO.name} with {BASE.name}, over worlds × seeds
({asked} in all). **Bold**: it stands at 5 % after Holm over the five (of one arm: not over the arms); in brackets: p
of a paired t-test. For a tail less is safer. The rule: reward is not lower (by more than {SLACK:g}, or for
certain), and at least two of the four tails are. {CUT}

{table(heads, lines)}

{chr(10).join(verdicts)}
"""


def _difference(mean: float, p: float, stands: bool) -> str:
    text = f"{mean:+.2f}"
    return f"{f'**{text}**' if stands else text} ({p:.2g})"


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([float(row[name]) for row in rows]))
