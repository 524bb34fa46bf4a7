"""An upper confidence bound on the CVaR of people's labels, where only a part of the responses is labelled."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.shuffle import prompt_places
from trl_rsa.evaluation.bounds import least_refuted
from trl_rsa.evaluation.cvar_bound import check_bounds
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.tails import check_tail, value_at_risk


Array = NDArray[np.float64]

# η, the calibration and the variance are read again whenever the past has grown by this share (and by so many).
_GROWTH, _LEAST_GROWTH = 0.2, 5
# The variance of an excess in [0, 1] before any is seen, and the number of values that this guess weighs.
_GUESSED_VARIANCE, _GUESS_WEIGHT = 0.25, 2.0
# What one label may cost of the capital. More than the plain bound's 0.75: where labels are few, their largest excess
# has often not been seen, and the stake ends at this cap. In simulation 0.9 left less gap on most laws, not on all.
_LARGEST_BET = 0.9
_ETAS = 64  # places at which the estimate looks for the η of the smallest value


@dataclass(frozen=True)
class AuditedBound:
    """An upper confidence bound on the CVaR of labels. `float(bound)` is the bound.

    Attributes:
        estimate (`float`): CVaR of the labels, estimated from the labels and the calibrated predictions.
        upper_bound (`float`): With probability ≥ `confidence`, CVaR is at most this. Never below `estimate`.
        tail, confidence, bounds, seed: As set.
        method (`str`): `"audited-betting"`, or `"betting"` if it is the plain bound on the labels.
        n (`int`), n_groups (`int`), n_labelled (`int`): Responses, prompts, and labelled responses.
        least_probability (`float`): The least with which a response is labelled. The price of a blind spot is about
            3(b − η) / (n_groups · least_probability · tail).
        eta (`float` or `None`): The last place from which the excess was counted.
        n_clipped_above, n_clipped_below (`int`): Labels outside the bounds.
    """

    estimate: float
    upper_bound: float
    tail: float
    confidence: float
    method: str
    bounds: tuple[float, float]
    n: int
    n_groups: int
    n_labelled: int
    least_probability: float
    eta: float | None
    n_clipped_above: int
    n_clipped_below: int
    seed: int

    def __float__(self) -> float:
        return self.upper_bound

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self) | {"bounds": list(self.bounds)}


def audited_cvar_bound(
    predictions: ArrayLike | None,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    tail: float,
    bounds: tuple[float, float],
    confidence: float = 0.95,
    keys: Sequence[str],
    seed: int = 0,
    least: float | None = None,
    pilot: Calibration | None = None,
) -> AuditedBound:
    """Upper confidence bound on the CVaR of labels, from independent prompts of which a part is labelled.

    If CVaR is at least c, then tail·(c − η) ≤ E(h − η)₊ for every η (Rockafellar and Uryasev, 2000). The excess y of a
    response is not known for all. In its place stands v = f + (ξ/p)(y − f): ξ says whether the response is labelled, p
    is the probability of that, f any prediction that is made without this label. Its mean is that of y, also where f
    is wrong. So with η, f and stakes λ that depend on earlier prompts only, the factors 1 + λ(tail·(c − η) − v) are
    fair under "CVaR ≥ c", and the bound is the least c at which their product reaches 1/δ (Ville), as in
    [`~evaluation.bounds.betting_cvar_upper_bound`]. f is an isotonic regression of the excess on the score, from the
    labels of earlier prompts.

    What it rests on:

    * Prompts are independent draws. Several responses to a prompt enter with their mean.
    * Each response is labelled with its probability, independently of its label and of the other draws. A chosen
      response whose label did not come must not be left out: enter it with the upper bound. Probabilities may
      depend on the scores of earlier prompts ([`~audits.selection.choose`] with the same prompts and seed), not on
      later ones or on labels.
    * Labels are clipped to the bounds. The mean of two people's labels may stand for one. The excess is convex: so a
      bound on the CVaR of noisy labels is one on the CVaR of the labels' mean over people too.

    Args:
        predictions (`ArrayLike` of shape `[n]`, *optional*):
            A score of each response, such as a learned cost: any scale, higher is worse. NaN counts as the highest.
            Without it f is the mean excess of earlier labels, the same for all. If all probabilities are equal, too,
            and all prompts have as many responses, those without a label are left out, and the bound is the plain one
            on the labels.
        labels (`ArrayLike` of shape `[n]` or `[n, k]`):
            The harm that people saw, NaN where there is no label. Of several labels of a response the mean counts.
        probabilities (`ArrayLike` of shape `[n]`):
            With which each response is labelled, in (0, 1].
        tail, bounds, confidence:
            As in [`~evaluation.cvar_bound.cvar_upper_bound`].
        keys (`Sequence[str]` of length n):
            The prompt of each response.
        seed (`int`, *optional*, defaults to 0):
            Of the order in which the prompts are gone through.
        least (`float`, *optional*):
            The least probability by design. Defaults to the least there is.
        pilot ([`~audits.calibration.Calibration`], *optional*):
            Labels of other prompts, with which f and η begin.

    Returns:
        [`AuditedBound`].
    """
    tail, confidence = check_tail(tail), check_confidence(confidence)
    low, high = check_bounds(bounds)
    sample, above, below = _sample(predictions, labels, probabilities, keys, seed, (low, high))
    n, n_groups = sample.labels.size, sample.sizes.size
    if least is None:
        least = float(sample.probabilities.min())
    elif not 0 < least <= sample.probabilities.min():
        raise ValueError(
            f"You set least={least!r}, but the least of the probabilities is {sample.probabilities.min():g}. Set what "
            "the draw was designed for, or leave it out."
        )
    if pilot is not None:  # a prediction beyond the bounds would break the cap of the stake
        pilot = Calibration.fit(pilot.scores, np.clip(pilot.labels, low, high), pilot.weights)
    designed = least
    # Of prompts of different sizes the small ones would more often have no label, and be left out.
    if (
        predictions is None
        and pilot is None
        and np.ptp(sample.probabilities) == 0
        and np.ptp(sample.sizes) == 0
        and not np.isnan(sample.labels).all()
    ):
        sample, least = sample.labelled(), 1.0
    bound, eta = _bet(sample, tail, 1 - confidence, low, high, least, pilot)
    estimate = _estimate(sample, tail, low, high, pilot)
    return AuditedBound(
        estimate=estimate,
        upper_bound=max(min(bound, high), estimate),
        tail=tail,
        confidence=confidence,
        method="betting" if least == 1 else "audited-betting",
        bounds=(low, high),
        n=n,
        n_groups=n_groups,
        n_labelled=int((~np.isnan(sample.labels)).sum()),
        least_probability=designed,
        eta=eta,
        n_clipped_above=above,
        n_clipped_below=below,
        seed=seed,
    )


@dataclass(frozen=True)
class _Sample:
    """Responses prompt after prompt, the prompts in random order.

    Attributes:
        scores, labels, probabilities (`np.ndarray` of shape `[n]`): Of each.
        sizes (`np.ndarray` of shape `[G]`): Responses of each prompt.
    """

    scores: Array
    labels: Array
    probabilities: Array
    sizes: NDArray[np.intp]

    @property
    def share(self) -> Array:
        """Weight of each response when every prompt weighs the same."""
        return 1 / np.repeat(self.sizes, self.sizes)

    def first(self, n_prompts: int) -> "_Sample":
        end = self.sizes[:n_prompts].sum()
        return _Sample(self.scores[:end], self.labels[:end], self.probabilities[:end], self.sizes[:n_prompts])

    def labelled(self) -> "_Sample":
        """The labelled responses alone. If all were drawn alike, they stand for the others."""
        known = ~np.isnan(self.labels)
        sizes = np.add.reduceat(known, np.cumsum(self.sizes) - self.sizes, dtype=np.intp)
        return _Sample(self.scores[known], self.labels[known], np.ones(known.sum()), sizes[sizes > 0])

    def calibration(self, pilot: Calibration | None) -> Calibration | None:
        """From these labels and the pilot's. Labels drawn with a small probability stand for more."""
        known = ~np.isnan(self.labels)
        if not known.any():
            return pilot
        parts = [(self.scores[known], self.labels[known], (self.share / self.probabilities)[known])]
        if pilot is not None:
            parts.append((pilot.scores, pilot.labels, pilot.weights))
        return Calibration.fit(*map(np.concatenate, zip(*parts, strict=True)))

    def corrected(self, calibration: Calibration | None, eta: float) -> Array:
        """v of each prompt `[G]`: the predicted excess over η, corrected where a label is known."""
        y = np.maximum(self.labels - eta, 0.0)
        f = np.zeros(y.shape)
        if calibration is not None and (self.probabilities < 1).any():
            f = calibration.excess(self.scores, eta)
        # Written so that a label that is certain is taken as it is.
        v = np.where(np.isnan(y), f, f * (1 - 1 / self.probabilities) + y / self.probabilities)
        return np.add.reduceat(v, np.cumsum(self.sizes) - self.sizes) / self.sizes


def _sample(
    predictions: ArrayLike | None,
    labels: ArrayLike,
    probabilities: ArrayLike,
    keys: Sequence[str],
    seed: int,
    bounds: tuple[float, float],
) -> tuple[_Sample, int, int]:
    given = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(given)
    if given.ndim == 2:
        counts = known.sum(axis=1)
        h = np.where(counts > 0, np.where(known, given, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)
    else:
        h = given
    p = np.asarray(probabilities, dtype=np.float64)
    s = np.zeros(p.shape) if predictions is None else np.asarray(predictions, dtype=np.float64)
    if h.ndim != 1 or not h.size or p.shape != h.shape or len(keys) != h.size or s.shape != h.shape:
        raise ValueError(
            f"You gave labels of shape {given.shape}, probabilities of shape {p.shape}, {len(keys)} keys and "
            f"predictions of shape {s.shape}, but each response needs one of each. Give NaN "
            "where there is no label."
        )
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(
            "You gave a probability of being labelled that is not in (0, 1], but nothing is known about responses "
            "that could not be labelled. Draw with a uniform part."
        )
    if np.isinf(h).any() or (np.isnan(h) & (p == 1)).any():
        raise ValueError(
            "You gave a response without a finite label that was to be labelled for certain, but leaving it out would "
            "make the tail look better than it is. Enter it with the upper bound."
        )
    places = prompt_places(keys, seed)
    if places.max() == 0:
        raise ValueError(
            "You gave the responses to a single prompt, but a bound over prompts needs at least two. Give more."
        )
    s = np.where(np.isnan(s), np.inf, s)
    clipped = np.clip(h, *bounds)
    order = np.lexsort((clipped, p, s, places))
    sample = _Sample(s[order], clipped[order], p[order], np.bincount(places))
    return sample, int((h > bounds[1]).sum()), int((h < bounds[0]).sum())


def _bet(
    sample: _Sample, tail: float, delta: float, low: float, high: float, least: float, pilot: Calibration | None
) -> tuple[float, float | None]:
    """The bound, and the last η."""
    n = sample.sizes.size
    terms = _terms(sample, tail, high, pilot)
    value, etas, variances = terms.T
    eta = float(etas[-1]) if etas.size else None
    if least == 1:  # every response is labelled: the plain bound
        return least_refuted(value, etas, variances, n, tail, delta, low, high), eta
    return least_refuted(value, etas, variances, n, tail, delta, low, high, 1 / least, _LARGEST_BET), eta


def _terms(sample: _Sample, tail: float, high: float, pilot: Calibration | None) -> Array:
    """Of each prompt that is bet on `[T, 3]`: v in units of high − η, η, and the variance that sets the stake. What is
    not v depends on earlier prompts only."""
    n = sample.sizes.size
    terms = [np.empty((0, 3))]
    start = 0 if pilot is not None else _begin(sample, tail)
    while start < n:
        end = min(n, start + max(_LEAST_GROWTH, int(_GROWTH * start)))
        past = sample.first(start)
        eta = _eta(past, tail, high, pilot)
        width = high - eta
        if width > 0:  # else nothing can exceed η, and nothing can be won
            values = sample.first(end).corrected(past.calibration(pilot), eta) / width
            new, variance = values[start:], _spread(values[:start])
            terms.append(np.stack([new, np.full_like(new, eta), np.full_like(new, variance)], axis=-1))
        start = end
    return np.concatenate(terms)


def _spread(seen: Array) -> float:
    """The variance of what was seen, with the guess that counts before anything is."""
    squares = ((seen - seen.mean()) ** 2).sum() if seen.size else 0.0
    return float((squares + _GUESS_WEIGHT * _GUESSED_VARIANCE) / (seen.size + _GUESS_WEIGHT))


def _begin(sample: _Sample, tail: float) -> int:
    """The prompts before the first bet, which only show where the tail begins: 1/tail of them with a label."""
    labelled = np.logical_or.reduceat(~np.isnan(sample.labels), np.cumsum(sample.sizes) - sample.sizes)
    enough = np.flatnonzero(np.cumsum(labelled) >= math.ceil(1 / tail))
    return int(enough[0]) + 1 if enough.size else sample.sizes.size


def _eta(past: _Sample, tail: float, high: float, pilot: Calibration | None) -> float:
    """VaR of the labels so far, each counted for those that it stands for."""
    known = ~np.isnan(past.labels)
    labels, weights = past.labels[known], (past.share / past.probabilities)[known]
    if pilot is not None:
        labels = np.concatenate([labels, pilot.labels])
        weights = np.concatenate([weights, pilot.weights])
    return value_at_risk(labels, tail, weights) if labels.size else high


def _estimate(sample: _Sample, tail: float, low: float, high: float, pilot: Calibration | None) -> float:
    """The least of η + mean v / tail, over η. Without any label nothing is known: the upper bound."""
    labels = sample.labels[~np.isnan(sample.labels)]
    etas = np.unique(labels if pilot is None else np.concatenate([labels, pilot.labels]))
    if not etas.size:
        return high
    if etas.size > _ETAS and (sample.probabilities < 1).any():
        etas = np.quantile(etas, np.linspace(0, 1, _ETAS))
    calibration = sample.calibration(pilot)
    values = [eta + sample.corrected(calibration, eta).mean() / tail for eta in etas.tolist()]
    return float(np.clip(min(values), low, high))
