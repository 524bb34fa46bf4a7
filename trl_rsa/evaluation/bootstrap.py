"""The bootstrap, as weights: a resample counts how often each record was drawn.

A statistic is a function of weights `[b, n]` that returns `[b, m]`, for b resamples at once. The resamples come in
chunks, so that memory does not grow with their number, and all m statistics see the same ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.evaluation.intervals import Estimate, check_confidence


Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # [b, n] -> [b, m]

# Weights held at once: 2 MiB of float64. Larger chunks leave the processor's cache and are slower.
_CHUNK = 2**18
# BCa needs the skewness of the leave-one-out values. It is the same, in expectation, when whole blocks of units are
# left out, and 400 blocks give it to ±0.002.
_JACKKNIFE_BLOCKS = 400


def cluster_codes(clusters: ArrayLike | None, n: int) -> NDArray[np.intp] | None:
    """Numbers the clusters 0 … G−1; None when every record is its own cluster."""
    if clusters is None:
        return None
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(
            f"You gave clusters of shape {labels.shape} for {n} records, but each record needs the cluster (the "
            "prompt) it belongs to. Give one label per record."
        )
    names, codes = np.unique(labels, return_inverse=True)
    return None if names.size == n else codes.reshape(n)


def chunk_rows(width: int) -> int:
    """How many rows of `width` numbers are worked on at once."""
    return max(1, _CHUNK // width)


def resamples(units: int, count: int, rng: np.random.Generator, width: int | None = None) -> Iterator[Array]:
    """Yields `count` bootstrap resamples of `units` units, as counts `[b, units]`, in chunks.

    `width` is the number of records that a resample of the units becomes, by default as many.
    """
    step = chunk_rows(width or units)
    for start in range(0, count, step):
        b = min(step, count - start)
        draws = rng.integers(0, units, size=(b, units)) + units * np.arange(b)[:, None]
        yield np.bincount(draws.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)


def deletions(units: int, width: int | None = None) -> Iterator[Array]:
    """Yields the jackknife's weights `[b, units]`: 1, and 0 for the block that is left out."""
    block = np.arange(units) * min(units, _JACKKNIFE_BLOCKS) // units
    # Whoever asks may have sorted the records: blocks of neighbours would be slices of the law, not samples of it.
    block = np.random.default_rng(0).permutation(block)
    step = chunk_rows(width or units)
    count = int(block.max()) + 1
    for start in range(0, count, step):
        left_out = np.arange(start, min(start + step, count))
        yield (block != left_out[:, None]).astype(np.float64)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        confidence (`float`, *optional*, defaults to 0.95):
            Coverage of the two-sided intervals.
        n_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples.
        method (`str`, *optional*, defaults to `"percentile"`):
            `"percentile"`, or `"bca"` (bias-corrected and accelerated; Efron, 1987).
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
    """

    confidence: float = 0.95
    n_resamples: int = 1000
    method: str = "percentile"
    seed: int = 0

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.method not in ("percentile", "bca"):
            raise ValueError(
                f'You set method={self.method!r}, but intervals are made by "percentile" or "bca". Set one of them.'
            )
        if self.n_resamples < 1:
            raise ValueError(
                f"You set n_resamples={self.n_resamples}, but at least one resample is needed. Set it to 1000."
            )

    def estimates(
        self, statistic: Statistic, n: int, clusters: ArrayLike | None = None, width: int | None = None
    ) -> list[Estimate]:
        """The m estimates with their intervals. One unit alone gets no interval.

        Args:
            statistic (`Callable`):
                Weights `[b, n]` to values `[b, m]`.
            n (`int`):
                Number of records.
            clusters (`ArrayLike` of shape `[n]`, *optional*):
                What is resampled instead of records: the prompts of the records.
            width (`int`, *optional*):
                Numbers that the statistic holds per resample, when it is more than n. Keeps memory flat.
        """
        width = max(n, width or n)
        codes = cluster_codes(clusters, n)
        units = n if codes is None else int(codes.max()) + 1
        value = statistic(np.ones((1, n)))[0]
        if units < 2:
            return [Estimate(float(v), None, None, "none") for v in value]
        rng = np.random.default_rng(self.seed)
        draws = _apply(statistic, resamples(units, self.n_resamples, rng, width), codes)
        levels = np.tile([(1 - self.confidence) / 2, (1 + self.confidence) / 2], (value.size, 1))
        if self.method == "bca":
            levels = _bca_levels(value, draws, _apply(statistic, deletions(units, width), codes), levels)
        method = self.method + ("" if codes is None else " by prompt")
        return [_estimate(*row, method) for row in zip(value, draws.T, levels, strict=True)]


def _estimate(value: float, draws: Array, levels: Array, method: str) -> Estimate:
    # A resample without any record that the statistic is about (a rare category) gives no number.
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or draws.size == 0:
        return Estimate(float(value), None, None, "none")
    low, high = np.quantile(draws, levels)
    return Estimate(float(value), float(low), float(high), method)


def _apply(statistic: Statistic, chunks: Iterator[Array], codes: NDArray[np.intp] | None) -> Array:
    return np.concatenate([statistic(w if codes is None else w[:, codes]) for w in chunks])


def _bca_levels(value: Array, draws: Array, jackknife: Array, levels: Array) -> Array:
    """The percentile levels `[m, 2]` that BCa reads instead of `levels` (Efron, 1987, eq. 6.8)."""
    # Ties count half; a value outside all draws is kept at a finite bias.
    below = ((draws < value).mean(0) + (draws <= value).mean(0)) / 2
    half = 0.5 / len(draws)
    from scipy.special import ndtr, ndtri  # not scipy.stats, whose import takes half a second more

    bias = ndtri(np.clip(below, half, 1 - half))[:, None]
    deviation = jackknife.mean(0) - jackknife
    spread = (deviation**2).sum(0) ** 1.5
    skew = (deviation**3).sum(0)
    acceleration = np.divide(skew, 6 * spread, out=np.zeros_like(skew), where=spread > 0)[:, None]
    z = bias + ndtri(levels)
    return ndtr(bias + z / (1 - acceleration * z))
