"""Who wins under pressure: a method against the rival at equal value, world by world, with Holm over a whole family.

The ratio of a criterion is the method's over the rival's; below 1 the method is safer. A comparison is decided by
Wilcoxon's signed-rank test on the logarithms of the ratios over worlds, two-sided at 5 % after Holm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import wilcoxon

from benchmarks.alignment.cells import Row
from benchmarks.alignment.pressure_criteria import CRITERIA


Key = TypeVar("Key")
LEVEL = 0.05
# Costs below this are none: a ratio of two of them is 1.
NOTHING = 1e-6
TIE = 1e-6  # of the logarithm


@dataclass(frozen=True)
class Verdict:
    """One comparison: the median ratio, in how many worlds the method was safer and in how many not, and the test."""

    ratio: float
    safer: int
    worse: int
    p: float
    significant: bool = False

    @property
    def word(self) -> str:
        if not self.significant:
            return "undecided"
        return "wins" if self.safer > self.worse else "loses"


def log_ratios(rows: Sequence[Row], criterion: str) -> np.ndarray:
    """Of the rows of one method, with the rival's number under `rival_…`."""
    mine = np.array([max(float(row[criterion]), NOTHING) for row in rows])
    rival = np.array([max(float(row[f"rival_{criterion}"]), NOTHING) for row in rows])
    return np.log(mine / rival)


def compare(logs: np.ndarray) -> Verdict:
    """The comparison alone, before Holm."""
    decided = logs[np.abs(logs) > TIE]
    p = float(wilcoxon(decided).pvalue) if len(decided) > 1 else 1.0
    return Verdict(float(np.exp(np.median(logs))), int((logs < -TIE).sum()), int((logs > TIE).sum()), p)


def holm(verdicts: Mapping[tuple[str, str], Verdict]) -> dict[tuple[str, str], Verdict]:
    """Decides every comparison of a family together: the k-th smallest p is held against 5 %/(n − k + 1)."""
    decided = standing({key: found.p for key, found in verdicts.items()})
    return {key: Verdict(v.ratio, v.safer, v.worse, v.p, decided[key]) for key, v in verdicts.items()}


def standing(p: Mapping[Key, float]) -> dict[Key, bool]:
    """Which of a family of tests stand after Holm, by their p."""
    decided, open_ = dict[Key, bool](), True
    for place, key in enumerate(sorted(p, key=lambda key: p[key])):
        open_ = open_ and p[key] <= LEVEL / (len(p) - place)
        decided[key] = open_
    return decided


def family_verdicts(rows: Sequence[Row], criteria: Sequence[str] = tuple(CRITERIA)) -> dict[tuple[str, str], Verdict]:
    """(method, criterion) -> its verdict, over the rows of one family of methods."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(str(row["method"]), []).append(row)
    return holm({(name, c): compare(log_ratios(found, c)) for name, found in methods.items() for c in criteria})
