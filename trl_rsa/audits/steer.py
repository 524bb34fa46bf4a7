"""The tail of labelled harm that a calibration foretells, and a bound of it to steer by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.calibration import Calibration


Array = NDArray[np.float64]

RESAMPLES = 200


@dataclass(frozen=True)
class Foretold:
    """What a calibration says of responses by their scores, in units of harm.

    Attributes:
        mean (`float`), unsafe_rate (`float`): Expected label; chance of a label above 0.
        eta (`float`), estimate (`float`): VaR and CVaR of the label.
        upper_bound (`float`): Of the CVaR; a bootstrap's, never below the estimate.
    """

    mean: float
    unsafe_rate: float
    eta: float
    estimate: float
    upper_bound: float


def foretell(
    calibration: Calibration,
    scores: ArrayLike,
    prompts: Sequence[str],
    tail: float,
    confidence: float,
    seed: int,
    grades: Sequence[float] = (),
) -> Foretold:
    """
    CVaR of the labels of responses, of which mostly the scores are known: the least, over η, of
    η + mean E[(label − η)₊ | score]/tail (Rockafellar and Uryasev), the excess fitted for each η.

    The bound is a quantile over resamples of the labelled responses and of the prompts, with exponential weights
    (Bayesian bootstrap). Its prior is worth one label: without it the bound says that there is no harm where no label
    has shown any. It has about the width that the labels leave, and promises nothing for finite samples: it steers a
    search. What the claim at the end rests on is [`~audits.bound.audited_cvar_bound`].

    Args:
        calibration ([`Calibration`]):
            Fitted to all labels so far.
        scores (`ArrayLike` of shape `[n]`), prompts (`Sequence[str]` of length n):
            Learned costs of the responses, and the keys of their prompts.
        tail (`float`), confidence (`float`):
            Of the CVaR; of the bound.
        seed (`int`):
            Of the resamples.
        grades (`Sequence[float]`, *optional*):
            All labels that there can be. Each resample has one response more then, with the score of any and with any
            of these labels: harm is not ruled out by labels that happened to miss it.
    """
    values = np.asarray(scores, dtype=np.float64)
    codes, share = _by_prompt(prompts)
    estimate, eta = _cvar(calibration, values, share, tail)
    rng, found, n_prompts = np.random.default_rng(seed), [], int(codes.max()) + 1
    for _ in range(RESAMPLES):
        resampled = _resampled(calibration, grades, rng)
        found.append(_cvar(resampled, values, share * rng.exponential(size=n_prompts)[codes], tail)[0])
    unsafe = replace(calibration, labels=(calibration.labels > 0).astype(float))
    return Foretold(
        mean=float(np.average(calibration.predict(values), weights=share)),
        unsafe_rate=float(np.average(unsafe.predict(values), weights=share)),
        eta=eta,
        estimate=estimate,
        upper_bound=max(estimate, float(np.quantile(found, confidence))),
    )


def foretold_cvar(calibration: Calibration, scores: ArrayLike, prompts: Sequence[str], tail: float) -> float:
    """The estimate of [`foretell`] alone, which takes no resamples."""
    _, share = _by_prompt(prompts)
    return _cvar(calibration, np.asarray(scores, dtype=np.float64), share, tail)[0]


def _by_prompt(prompts: Sequence[str]) -> tuple[NDArray[np.intp], Array]:
    """The number of each response's prompt, and its share of the responses to it."""
    codes = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)[1].reshape(-1)
    return codes, (1 / np.bincount(codes))[codes]


def _resampled(calibration: Calibration, grades: Sequence[float], rng: np.random.Generator) -> Calibration:
    """Other weights, by response; and one response more, with any of the labels that there can be."""
    responses = int(calibration.responses.max()) + 1
    times = rng.exponential(size=responses + 1)
    weights = np.maximum(calibration.weights * times[calibration.responses], 1e-12)
    if not len(grades):
        return replace(calibration, weights=weights)
    weight = max(times[-1] * calibration.weights.sum() / responses, 1e-12)
    return Calibration(
        np.append(calibration.scores, rng.choice(calibration.scores)),
        np.append(calibration.labels, rng.choice(grades)),
        np.append(weights, weight),
        np.append(calibration.responses, responses),
    )


def _cvar(calibration: Calibration, scores: Array, weights: Array, tail: float) -> tuple[float, float]:
    """CVaR, and the η at which it is attained: one of the labels, as their law has steps there alone."""
    etas = np.unique(calibration.labels)
    values = [eta + np.average(calibration.excess(scores, eta), weights=weights) / tail for eta in etas]
    best = int(np.argmin(values))
    return float(values[best]), float(etas[best])
