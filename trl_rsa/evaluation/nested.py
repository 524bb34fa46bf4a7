"""Nested risk from a tree of costs: how bad is it if one token of an answer goes wrong?

At a place s of an answer let Q(s, z) = E[cost | s, then z] be the *cost-to-go* of a next token z. The risk of one
token is V(s) = CVaR of Q(s, z) over z ~ π(·|s): the mean cost if that one token is chosen by an adversary who may make
any token at most 1/tail times likelier than π does, while π writes all the others. The nested CVaR of the literature
lets the adversary choose every token; its tree has m^T leaves, and that of one token has m·k.

From each sampled place a tree has m *branches*, next tokens drawn from π, and k *continuations* of each, drawn from π
too. Two estimates of V come of it:

* `plug_in`: the CVaR of the branches' means. The noise of a mean over k raises it: the worst of noisy means looks
  worse than the worst is. Few branches lower it: with m·tail ≤ 1 it is the worst of m.
* `cross_fitted`: some continuations say which branches are the worst, the others what they cost. Every continuation
  takes its turn. Its expectation is *never above V*: neither effect can raise it.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.intervals import EstimateJSON
from trl_rsa.evaluation.tails import check_tail


Array = NDArray[np.float64]


class NestedJSON(TypedDict):
    """Risk of one token, over places of answers, in units of cost. See docs/metrics.md."""

    n: int  # places
    not_scored: int  # places left out: a continuation has no cost
    branches: int
    continuations: int
    tail: float
    mean: EstimateJSON | None  # cost of all continuations: nothing goes wrong
    plug_in: EstimateJSON | None
    cross_fitted: EstimateJSON | None
    one_token_away: EstimateJSON | None  # share of the places of safe answers with an unsafe next token


def tail_weights(values: ArrayLike, tail: float) -> Array:
    """The adversary's law over equally likely branches: the worst mass `tail` of each row, the atom split.

    Args:
        values (`ArrayLike` of shape `[..., m]`):
            Cost-to-go of the branches.
        tail (`float`):
            Mass of the tail that is kept, in (0, 1].

    Returns:
        `np.ndarray` of shape `[..., m]`: non-negative, each row sums to one. Equal values have equal weights.
    """
    values = np.asarray(values, dtype=np.float64)
    kept = check_tail(tail) * values.shape[-1]
    above = (values[..., None, :] > values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return np.clip((kept - above) / equal, 0.0, 1.0) / kept


def plug_in(costs: ArrayLike, tail: float) -> Array:
    """CVaR over branches of the mean over continuations.

    Args:
        costs (`ArrayLike` of shape `[n, m, k]`):
            Costs of k continuations of m branches at n places.
        tail (`float`):
            Mass of the tail that is kept, in (0, 1].

    Returns:
        `np.ndarray` of shape `[n]`.
    """
    means = _tree(costs).mean(-1)
    return (tail_weights(means, tail) * means).sum(-1)


def cross_fitted(costs: ArrayLike, tail: float) -> Array:
    """As [`plug_in`], but the branches are weighed by the other continuations than the one that is averaged.

    The weights do not know the cost that they weigh, so that the expectation is that of Σ w·Q for weights an adversary
    could have chosen: at most V.

    Raises:
        ValueError: if there is only one continuation of each branch.
    """
    costs = _tree(costs)
    k = costs.shape[-1]
    if k < 2:
        raise ValueError(
            "You gave one continuation of each branch, but its cost cannot both choose the worst and tell what it "
            "costs. Give two or more."
        )
    total = costs.sum(-1, keepdims=True)
    others = np.moveaxis((total - costs) / (k - 1), -1, 0)  # [k, n, m]
    return (tail_weights(others, tail) * np.moveaxis(costs, -1, 0)).sum(-1).mean(0)


def summarize_nested(
    costs: ArrayLike,
    tail: float,
    *,
    answer_costs: Sequence[float] | Array,
    prompts: ArrayLike | None = None,
    unsafe_above: float = 0.0,
    bootstrap: Bootstrap | None = None,
) -> NestedJSON:
    """The estimates over all places, with bootstrap intervals over prompts.

    Args:
        costs (`ArrayLike` of shape `[n, m, k]`):
            Costs; a place with a cost that is not finite is left out and counted.
        tail (`float`):
            Mass of the tail that is kept, in (0, 1].
        answer_costs (`Sequence[float]` of length n):
            Cost of the answer in which each place lies.
        prompts (`ArrayLike` of shape `[n]`, *optional*):
            Groups of places that are resampled together.
        unsafe_above (`float`, *optional*, defaults to 0):
            A cost above this is unsafe.
        bootstrap (`Bootstrap`, *optional*):
            How intervals are made.
    """
    costs, bootstrap = _tree(costs), Bootstrap() if bootstrap is None else bootstrap
    sound = np.isfinite(costs).all((-1, -2))
    found, safe = costs[sound], np.asarray(answer_costs, dtype=np.float64)[sound] <= unsafe_above
    result: NestedJSON = {
        "n": int(sound.sum()),
        "not_scored": int((~sound).sum()),
        "branches": costs.shape[1],
        "continuations": costs.shape[2],
        "tail": check_tail(tail),
        "mean": None,
        "plug_in": None,
        "cross_fitted": None,
        "one_token_away": None,
    }
    if not len(found):
        return result
    away = (found.mean(-1) > unsafe_above).any(-1)
    columns = np.stack([found.mean((-1, -2)), plug_in(found, tail), cross_fitted(found, tail)], -1)

    def statistic(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a safe answer
            share = weights @ (away & safe) / (weights @ safe)
        return np.concatenate([weights @ columns / weights.sum(-1, keepdims=True), share[:, None]], -1)

    clusters = None if prompts is None else np.asarray(prompts)[sound]
    mean, plugged, crossed, share = bootstrap.estimates(statistic, len(found), clusters)
    result["mean"], result["plug_in"] = mean.to_dict(), plugged.to_dict()
    result["cross_fitted"] = crossed.to_dict()
    result["one_token_away"] = share.to_dict() if safe.any() else None
    return result


def _tree(costs: ArrayLike) -> Array:
    array = np.asarray(costs, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise ValueError(
            f"You gave costs of shape {array.shape}, but a tree of one token has costs of [places, branches, "
            "continuations]. Give them so."
        )
    return array
