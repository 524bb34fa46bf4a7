"""Upper confidence bounds on a mean and on CVaR: arrays and numbers in, one number out.

All hold with probability at least 1 − δ over the draw of independent values; none says anything about how the values
were gathered. [`~evaluation.cvar_bound.cvar_upper_bound`] is the careful way to use them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from trl_rsa.evaluation.intervals import clopper_pearson_upper
from trl_rsa.evaluation.tails import sorted_cvar, value_at_risk


Array = NDArray[np.float64]

# A bet may lose at most this share of the capital on one value (Waudby-Smith and Ramdas suggest 1/2 or 3/4).
_LARGEST_BET = 0.75
# 2^-30 of the range: far below what a cost model can tell apart. The upper end is returned, so rounding is safe.
_BISECTIONS = 30
# η and the variance of the excess over it are read again whenever the past has grown by this share (and by so many).
_GROWTH, _LEAST_GROWTH = 0.2, 5
# The variance of an excess in [0, 1] before any is seen, and the number of values that this guess weighs.
_GUESSED_VARIANCE, _GUESS_WEIGHT = 0.25, 2.0


def betting_mean_upper_bound(values: Array, delta: float) -> float:
    """One-sided upper bound on the mean of values in [0, 1]: betting (Waudby-Smith and Ramdas, 2024, JRSS-B 86, 1–27).

    For a candidate mean m, a gambler stakes a share λ_t of the capital on "the next value is below m", λ_t fixed by
    the values before it. If the mean is at least m, the capital Π(1 + λ_t(m − y_t)) is a supermartingale and exceeds
    1/δ at any time with probability at most δ (Ville). The bound is the smallest m at which the gambler gets there.

    The order of the values matters: sorted values are not independent draws. Shuffle them first.
    """
    n = values.size
    steps = np.arange(1, n + 1)
    # The mean and variance seen so far, with one imagined value of mean ½ and variance ¼ before the first.
    mean = (0.5 + np.cumsum(values)) / (steps + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (steps + 1)
    past = np.concatenate([[0.25], variance[:-1]])
    goal = math.log(1 / delta)
    stake = np.sqrt(2 * goal / (n * past))
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        m = (low + high) / 2
        # Each factor grows with m, also where the stake is capped (its derivative is then ∝ 1 − y ≥ 0): so the
        # capital is monotone in m, and bisection finds the bound.
        capped = np.minimum(stake, _LARGEST_BET / (1 - m))
        if np.cumsum(np.log1p(capped * (m - values))).max() >= goal:
            high = m
        else:
            low = m
    return high


def betting_cvar_upper_bound(
    costs: Array, sizes: NDArray[np.intp], tail: float, delta: float, smallest: float, largest: float
) -> tuple[float, float]:
    """Upper bound on CVaR of costs in [smallest, largest] by betting, without setting values aside for η.

    If CVaR is at least c, then tail·(c − η) ≤ E(C − η)₊ for every η (Rockafellar and Uryasev, 2000). So for η_t and
    stakes λ_t ≥ 0 that depend on earlier prompts only, each factor 1 + λ_t(tail·(c − η_t) − (C_t − η_t)₊) has mean at
    most 1, and their product exceeds 1/δ at any time with probability at most δ (Ville). The bound is the least c at
    which it gets there. η_t is the VaR of the earlier costs; λ_t is the stake that is best for the variance of their
    excess, below 1/((largest − η_t) − tail·(c − η_t)), where a factor could become negative.

    Args:
        costs (`np.ndarray` of shape `[n]`):
            Prompt after prompt, the prompts in random order.
        sizes (`np.ndarray` of shape `[G]`):
            Costs of each prompt. A prompt enters with the mean excess of its costs.
        tail, delta, smallest, largest (`float`):
            Mass of the tail that is kept; δ; the range of the costs.

    Returns:
        `tuple[float, float]`: the bound, and the last η.
    """
    ends = np.cumsum(sizes)
    share = 1 / np.repeat(sizes, sizes)  # each prompt weighs the same
    eta, excess, variance = largest, [np.empty((0, 3))], 0.0
    # The first prompts only show where the tail begins: before them there is nothing to bet on.
    start = math.ceil(1 / tail)
    while start < sizes.size:
        end = min(sizes.size, start + max(_LEAST_GROWTH, int(_GROWTH * start)))
        past = slice(0, ends[start - 1])
        eta = value_at_risk(costs[past], tail, share[past])
        width = largest - eta
        if width > 0:  # else nothing can exceed η, and nothing can be won
            seen, new = (
                _mean_excess(costs, sizes, ends, eta, part) / width for part in (slice(0, start), slice(start, end))
            )
            spread = _GUESS_WEIGHT * _GUESSED_VARIANCE + ((seen - seen.mean()) ** 2).sum()
            variance = spread / (start + _GUESS_WEIGHT)
            excess.append(np.stack([new, np.full_like(new, eta), np.full_like(new, variance)], axis=-1))
        start = end
    value, etas, variances = np.concatenate(excess).T
    return least_refuted(value, etas, variances, sizes.size, tail, delta, smallest, largest), float(eta)


def _mean_excess(costs: Array, sizes: NDArray[np.intp], ends: NDArray[np.intp], eta: float, part: slice) -> Array:
    """(C − η)₊ of the prompts in `part`, the mean of each one's costs."""
    begins = ends[part] - sizes[part]
    values = np.maximum(costs[begins[0] : ends[part][-1]] - eta, 0.0)
    return np.add.reduceat(values, begins - begins[0]) / sizes[part]


def least_refuted(
    excess: Array,
    etas: Array,
    variances: Array,
    n: int,
    tail: float,
    delta: float,
    smallest: float,
    largest: float,
    highest: float = 1.0,
    largest_bet: float = _LARGEST_BET,
) -> float:
    """The least c whose capital reaches 1/δ, by bisection; `largest` if none does.

    Args:
        excess, etas, variances (`np.ndarray` of shape `[T]`):
            The excess over η_t in units of largest − η_t, η_t, and the variance by which the stake is chosen.
        n, tail, delta, smallest, largest:
            Prompts in all; as in [`betting_cvar_upper_bound`].
        highest (`float`, *optional*, defaults to 1):
            No value of `excess` can exceed this. A label that was drawn with probability p counts 1/p times.
        largest_bet (`float`, *optional*, defaults to 0.75):
            Share of the capital that one value may cost, below 1.
    """
    goal = math.log(1 / delta)
    # Of the excess in units of largest − η: the stake of Waudby-Smith and Ramdas for n values.
    stake = np.sqrt(2 * goal / (n * np.maximum(variances, 1e-300)))
    low, high = smallest, largest
    for _ in range(_BISECTIONS):
        c = (low + high) / 2
        fair = tail * (c - etas) / (largest - etas)
        # Monotone in c, as for the mean: each factor grows with c, also where its stake is capped.
        capped = np.minimum(stake, largest_bet / (highest - fair))
        if excess.size and np.cumsum(np.log1p(capped * (fair - excess))).max() >= goal:
            high = c
        else:
            low = c
    return high


def dkw_cvar_upper_bound(costs: Array, tail: float, delta: float, largest: float) -> float:
    """Upper bound on CVaR of costs that never exceed `largest` (Thomas and Learned-Miller, 2019, Theorem 3).

    It is the CVaR of the worst law inside the one-sided Dvoretzky–Kiefer–Wolfowitz band: ε = √(ln(1/δ)/2n) of the
    mass is moved from the mildest costs to `largest`. It says nothing (`largest`) until ε < tail.
    """
    band = math.sqrt(math.log(1 / delta) / (2 * costs.size))
    if band >= tail:
        return float(largest)
    # The band is a reweighting: `largest` gets mass ε, and the rest keeps 1/n each; CVaR never reads the end of it.
    descending = np.concatenate([[largest], np.sort(costs)[::-1]])
    mass = np.concatenate([[band], band + np.arange(1, costs.size + 1) / costs.size])
    mass = np.minimum(mass, 1.0)
    return min(float(sorted_cvar(descending, mass[None], [tail])[0, 0]), float(largest))


def brown_cvar_upper_bound(costs: Array, tail: float, delta: float, smallest: float, largest: float) -> float:
    """Upper bound on CVaR of costs in [smallest, largest], stated for continuous laws (Brown, 2007, OR Letters 35).

    The empirical CVaR + (largest − smallest)·√(5 ln(3/δ) / (tail · n)).
    """
    n = costs.size
    mass = np.arange(1, n + 1, dtype=np.float64)[None]
    estimate = float(sorted_cvar(np.sort(costs)[::-1], mass, [tail])[0, 0])
    return min(estimate + (largest - smallest) * math.sqrt(5 * math.log(3 / delta) / (tail * n)), float(largest))


def binary_cvar_upper_bound(k: int, n: int, tail: float, delta: float) -> float:
    """Upper bound on CVaR of a yes/no cost (1 unsafe, 0 safe) after `k` unsafe of `n`: min(1, p/tail).

    p is the exact Clopper–Pearson upper bound, and CVaR of a yes/no cost is exactly min(1, p/tail). After 0 of 600
    with tail 0.05 and δ 0.05 it is 0.0996.
    """
    return min(1.0, clopper_pearson_upper(k, n, 1 - delta) / tail)
