"""Which responses are labelled: a draw with known probabilities, part of it uniform, part where the score is high."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.shuffle import prompt_places, uniforms


Array = NDArray[np.float64]

UNIFORM = 0.85
# The highest share q of the scores gets the share q^_CONCENTRATION of the labels that follow the score. Both numbers
# were chosen in simulation, on other data sets than those of benchmarks/audits.py.
_CONCENTRATION = 1 / 3


@dataclass(frozen=True)
class Selection:
    """A draw of responses.

    Attributes:
        probabilities (`np.ndarray` of shape `[n]`): With which each response was drawn, in (0, 1].
        chosen (`np.ndarray` of shape `[n]`, bool): Whether it was.
        least (`float`): No probability can be less, by design: labels · uniform / n.
    """

    probabilities: Array
    chosen: NDArray[np.bool_]
    least: float


def choose(
    keys: Sequence[str],
    scores: ArrayLike,
    labels: int,
    uniform: float = UNIFORM,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
) -> Selection:
    """Draws responses for labelling, each with a known probability and independently of the others.

    The prompts are gone through in a random order. A response's probability is the uniform part plus a part that
    depends on its score's rank among the scores *before* it, and on what the earlier ones have spent. So nothing that
    comes later has an influence, and a bound by betting in the same order
    ([`~audits.bound.audited_cvar_bound`] with the same prompts and seed) is exact. A draw that looked at all scores
    at once would make early terms depend on late ones.

    Args:
        keys (`Sequence[str]` of length n):
            Names of the responses, all different. The draw follows from keys, scores and seed: the order in which
            they are given, and the batch, have no influence.
        scores (`ArrayLike` of shape `[n]`):
            Learned costs. NaN counts as the highest.
        labels (`int`):
            How many responses are to be labelled. The number drawn has this mean, nearly, and a standard deviation of
            at most its root.
        uniform (`float`, *optional*, defaults to 0.85):
            The share of the labels that falls everywhere alike, in (0, 1]. It must be large: what a label with a
            small probability p finds counts 1/p times, and that sets the price of a blind spot.
        seed (`int`, *optional*, defaults to 0):
            Of the draw.
        prompts (`Sequence[str]` of length n, *optional*):
            The prompt's key of each response, if a prompt has several. Defaults to `keys`.

    Returns:
        [`Selection`].
    """
    values = np.asarray(scores, dtype=np.float64)
    _check(keys, values, labels, uniform)
    values = np.where(np.isnan(values), np.inf, values)
    names = keys if prompts is None else prompts
    n = len(keys)
    least = min(1.0, labels * uniform / n)
    if labels >= n:
        return Selection(np.ones(n), np.ones(n, dtype=bool), 1.0)
    probabilities = _probabilities(values, prompt_places(names, seed), labels, least)
    return Selection(probabilities, uniforms(keys, seed, "label") < probabilities, least)


def _probabilities(scores: Array, places: NDArray[np.intp], labels: int, least: float) -> Array:
    """The uniform part, plus what is left of the labels where the score is high among those before."""
    n = scores.size
    result, before, spent = np.empty(n), list[float](), 0.0
    budget = labels - least * n
    order = np.argsort(places, kind="stable")
    ends = np.flatnonzero(np.diff(places[order], append=n)) + 1
    start = 0
    for end in ends.tolist():
        block = order[start:end]
        rate = max(0.0, budget - spent) / (n - start)
        extra = [min(1 - least, rate * _emphasis(before, score)) for score in scores[block]]
        result[block] = least + np.asarray(extra)
        spent += sum(extra)
        for score in scores[block]:
            insort(before, score)
        start = end
    return np.minimum(result, 1.0)


def _emphasis(before: list[float], score: float) -> float:
    """The weight of a score by its rank among those before. Its mean over ranks is 1, whatever the ties."""
    above = len(before) - bisect_right(before, score)
    ties = len(before) - above - bisect_left(before, score)
    low, high = above / (len(before) + 1), (above + ties + 1) / (len(before) + 1)
    return (high**_CONCENTRATION - low**_CONCENTRATION) / (high - low)


def _check(keys: Sequence[str], scores: Array, labels: int, uniform: float) -> None:
    if scores.shape != (len(keys),) or len(set(keys)) != len(keys) or not len(keys):
        raise ValueError(
            f"You gave {len(keys)} keys, {len(set(keys))} of them different, and scores of shape {scores.shape}, but "
            "each response needs a key of its own and one score. Give one of each per response."
        )
    if labels < 1:
        raise ValueError(f"You set labels={labels}, but an audit needs at least one label. Set more.")
    if not 0 < uniform <= 1:
        raise ValueError(
            f"You set uniform={uniform!r}, but it is the share of labels that falls everywhere alike, in (0, 1]: "
            f"without it nothing is known about responses with a low score. Set, say, {UNIFORM:g}."
        )
