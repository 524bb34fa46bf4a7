"""Tails of an empirical cost distribution: quantiles, VaR, CVaR, exceedance. Higher cost is worse.

`tail` is the probability mass of the tail that is *kept*, in (0, 1]: finance's "95 % CVaR" is `tail=0.05`.

Everything is written on costs sorted once, from the worst down, and on batches of weights `[r, n]`: a bootstrap
resample or a permutation is nothing but another weighting of the same sorted costs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


Array = NDArray[np.float64]

# 0.07 · 100 is 7.000000000000001 in floating point; the seventh cost still fills the tail.
_ROUNDING = 1e-12
# No file of responses is long enough for a smaller tail, and 1/tail must be a number.
_LEAST_TAIL = 1e-9


def check_tail(tail: float, name: str = "tail") -> float:
    """Returns `tail`, or raises `ValueError` when it is not in (0, 1], or too small for any sample."""
    if not 0.0 < tail <= 1.0:
        raise ValueError(
            f"You set {name}={tail!r}, but the tail is the probability mass that is kept, in (0, 1]. Set it to, for "
            "example, 0.05 for the worst twentieth, or 1 for the mean."
        )
    if tail < _LEAST_TAIL:
        raise ValueError(
            f"You set {name}={tail!r}, but no file of responses is long enough to show a tail below {_LEAST_TAIL:g}. "
            "Set it to, for example, 0.05 for the worst twentieth."
        )
    return float(tail)


def finite(values: ArrayLike, name: str = "costs") -> Array:
    """`values` as a one-dimensional float64 array `[n]`, n ≥ 1, or a `ValueError` that names the first bad place."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"You gave {name} of shape {array.shape}, but a list of at least one number is needed. Give one number "
            "per response."
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"You gave {name} with {bad.size} value(s) that are not finite (the first at index {bad[0]}), but a tail "
            "without them would look better than it is. Score these responses again, or remove them knowingly."
        )
    return array


def _weights(weights: ArrayLike | None, n: int) -> Array:
    if weights is None:
        return np.ones(n)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,) or not np.all(array >= 0) or not 0 < array.sum() < np.inf:
        raise ValueError(
            f"You gave weights of shape {array.shape} for {n} values, but one non-negative finite weight per value "
            "is needed, not all zero. Give as many weights as values."
        )
    return array


def _places(mass: Array, tails: Sequence[float]) -> tuple[NDArray[np.intp], Array]:
    """Where each row's cumulative weight `[r, n]` reaches each tail: places and masses, both `[r, k]`."""
    masses = mass[:, -1:] * np.asarray(tails)
    # A bisection per row reads a few numbers where a comparison would read them all.
    rows = zip(mass, masses * (1 - _ROUNDING), strict=True)
    return np.stack([np.searchsorted(row, at) for row, at in rows]), masses


def sorted_cvar(descending: Array, mass: Array, tails: Sequence[float]) -> Array:
    """CVaR of sorted costs under many weightings.

    Args:
        descending (`np.ndarray` of shape `[n]`):
            Costs, the worst first.
        mass (`np.ndarray` of shape `[r, n]`):
            Cumulative weights in that order, one row per weighting. A row without any weight gives NaN.
        tails (`Sequence[float]`):
            Masses of the tails, k of them.

    Returns:
        `np.ndarray` of shape `[r, k]`.
    """
    places, masses = _places(mass, tails)
    gaps = descending[:-1] - descending[1:]
    result = np.full(masses.shape, np.nan)
    for (r, k), eta in np.ndenumerate(places):
        if masses[r, k] > 0:
            # η + E(C − η)₊ / tail, the excess summed by parts: the gap x_i − x_{i+1} counts with the mass above it.
            excess = mass[r, :eta] @ gaps[:eta]
            result[r, k] = descending[eta] + excess / masses[r, k]
    return result


def sorted_var(descending: Array, mass: Array, tails: Sequence[float]) -> Array:
    """VaR `[r, k]` of sorted costs; arguments as in [`sorted_cvar`]."""
    places, masses = _places(mass, tails)
    return np.where(masses > 0, descending[places], np.nan)


def _sorted(costs: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    costs = finite(costs)
    order = np.argsort(-costs, kind="stable")
    return costs[order], np.cumsum(_weights(weights, costs.size)[order])[None]


def cvar(costs: ArrayLike, tail: float, weights: ArrayLike | None = None) -> float:
    """Conditional value at risk: the mean of the worst mass `tail` of the costs.

    It is the exact value for the empirical law: where `tail · n` is not an integer, the cost at the quantile counts
    with the fraction that fits. `tail=1` is the mean. For costs 4, 3, 2, 1 and tail 0.375 it is
    (1·4 + 0.5·3) / 1.5 = 11/3.

    Args:
        costs (`ArrayLike` of shape `[n]`):
            Costs, higher is worse.
        tail (`float`):
            Mass of the tail that is kept, in (0, 1].
        weights (`ArrayLike` of shape `[n]`, *optional*):
            Non-negative weights; they need not sum to one.
    """
    return float(sorted_cvar(*_sorted(costs, weights), [check_tail(tail)])[0, 0])


def value_at_risk(costs: ArrayLike, tail: float, weights: ArrayLike | None = None) -> float:
    """Value at risk: the largest cost x with P(cost ≥ x) ≥ `tail`, which is the mildest cost inside the tail.

    Arguments as in [`cvar`]. Of 1, 2, …, 100 with tail 0.05 it is 96.
    """
    return float(sorted_var(*_sorted(costs, weights), [check_tail(tail)])[0, 0])


def quantile(values: ArrayLike, q: float, weights: ArrayLike | None = None) -> float:
    """The quantile q ∈ [0, 1): [`value_at_risk`] with tail 1 − q. The median of 1, 2, 3, 4 is 3 (no interpolation)."""
    return value_at_risk(values, check_tail(1.0 - q, "1 - q"), weights)


def exceedance(costs: ArrayLike, unsafe_above: float = 0.0, weights: ArrayLike | None = None) -> float:
    """P(cost > unsafe_above). With Safe RLHF's sign (a cost above 0 is unsafe) it is the unsafe rate."""
    costs = finite(costs)
    return float(np.average(costs > unsafe_above, weights=_weights(weights, costs.size)))


def worst(costs: ArrayLike, k: int) -> NDArray[np.intp]:
    """Indices of the `k` highest costs, the worst first; ties in the order given. NaN is left out."""
    costs = np.asarray(costs, dtype=np.float64)
    order = np.argsort(-costs, kind="stable")  # NaN sorts last
    return order[: min(k, int(np.isfinite(costs).sum()))]
