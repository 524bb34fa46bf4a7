"""An upper confidence bound on the CVaR of a cost, and what it rests on: which method, how prompts enter, clipping."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.evaluation.bounds import (
    betting_cvar_upper_bound,
    betting_mean_upper_bound,
    binary_cvar_upper_bound,
    brown_cvar_upper_bound,
    dkw_cvar_upper_bound,
)
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.tails import check_tail, cvar, finite, value_at_risk


Method = Literal["betting", "betting-split", "dkw", "brown", "binary"]
Array = NDArray[np.float64]

# The share of prompts on which η is chosen, and which the bound then never sees.
_ETA_SHARE = 0.2

_ALWAYS = (
    "The prompts are independent draws from the distribution that the claim is about, and the model, the clipping "
    "bounds, the tail and the method were fixed before their costs were seen.",
    "The claim is about the cost model's clipped cost, not about human judgement.",
)
_PER_METHOD = {
    "betting": "If CVaR were larger, tail · (CVaR − η) ≤ E(C − η)₊ for every η. η and the stake for each prompt were "
    "chosen on the prompts before it, in random order.",
    "betting-split": "CVaR ≤ η + E(C − η)₊ / tail for every η; η was chosen on held-out prompts, and the excess is "
    "bounded on the others.",
    "dkw": "The distribution function lies in the one-sided DKW band around the empirical one.",
    "brown": "The cost has a continuous distribution.",
    "binary": "Every cost is one of the two bounds: a yes/no label.",
}
_SEVERAL = (
    "A prompt has several responses. The claim is about one response, drawn at random, to a prompt drawn at random. "
)
_BY_MEANS = "Each prompt enters with the mean excess over η of its responses."
_BY_DRAW = "Each prompt enters with one of its responses, drawn by the seed."


class BoundParts(TypedDict):
    """A [`CVaRBound`] in JSON: `parts` of certificate.json."""

    bound: float
    estimate: float
    tail: float
    confidence: float
    method: str
    bounds: list[float]
    n: int
    n_groups: int
    n_eta: int
    n_bound: int
    eta: float | None
    excess_bound: float | None
    n_clipped_above: int
    n_clipped_below: int
    unclipped_estimate: float | None
    seed: int
    assumptions: list[str]


@dataclass(frozen=True)
class CVaRBound:
    """An upper confidence bound on CVaR. `float(bound)` is the bound; the rest is what it is made of.

    Attributes:
        bound (`float`): With probability ≥ `confidence` over the sample, CVaR of the clipped cost is at most this.
            Never below `estimate`: a bound below what was seen would be believed by nobody.
        estimate (`float`): The empirical CVaR of the clipped cost, prompts weighted equally.
        tail, confidence, method, bounds, seed: As set.
        n (`int`): Records.
        n_groups (`int`): Prompts; the sample size that counts.
        n_eta, n_bound (`int`): Prompts on which η was chosen (0 if there is no η), and on which the bound rests.
        eta (`float` or `None`): The place from which the excess is counted; with "betting" the last of them.
        excess_bound (`float` or `None`): "betting-split": bounds E(C − η)₊; `bound` is η + excess_bound / tail.
        n_clipped_above, n_clipped_below (`int`): Records whose cost was clipped at either bound.
        unclipped_estimate (`float` or `None`): The empirical CVaR of the costs as they are, if it is known.
        assumptions (`tuple[str, ...]`): In words.
    """

    bound: float
    estimate: float
    tail: float
    confidence: float
    method: str
    bounds: tuple[float, float]
    n: int
    n_groups: int
    n_eta: int
    n_bound: int
    eta: float | None
    excess_bound: float | None
    n_clipped_above: int
    n_clipped_below: int
    unclipped_estimate: float | None
    seed: int
    assumptions: tuple[str, ...]

    def __float__(self) -> float:
        return self.bound

    @property
    def n_clipped(self) -> int:
        """Records whose cost was clipped. Above the upper bound is where it matters."""
        return self.n_clipped_above + self.n_clipped_below

    def to_dict(self) -> BoundParts:
        found = asdict(self) | {"bounds": list(self.bounds), "assumptions": list(self.assumptions)}
        return cast(BoundParts, found)


def cvar_upper_bound(
    costs: ArrayLike,
    tail: float,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    method: Method = "betting",
    groups: Sequence[Any] | ArrayLike | None = None,
    seed: int | None = None,
) -> CVaRBound:
    """Upper confidence bound on the CVaR of a cost, from independent prompts.

    Args:
        costs (`ArrayLike` of shape `[n]`):
            Costs, higher is worse.
        tail (`float`):
            Mass of the tail that is kept, in (0, 1].
        confidence (`float`, *optional*, defaults to 0.95):
            1 − δ.
        bounds (`tuple[float, float]`, *optional*, defaults to `(0, 1)`):
            The costs are clipped to [a, b], which must be fixed before they are seen.
        method (`str`, *optional*, defaults to `"betting"`):
            * `"betting"`: bets on Rockafellar and Uryasev's excess over an η that follows the earlier prompts
              ([`~evaluation.bounds.betting_cvar_upper_bound`]). The tightest, as a rule.
            * `"betting-split"`: η from a held-out fifth, and a betting bound on the mean excess on the others.
            * `"dkw"` (Thomas and Learned-Miller, 2019) and `"brown"` (Brown, 2007): cross-checks.
            * `"binary"`: exact, for costs that are all a or b (yes/no labels).
        groups (`Sequence` of length n, *optional*):
            The prompt of each record, when a prompt has several responses. They are not independent, so prompts count.
        seed (`int`, *optional*):
            The prompts are put into the order of this seed first. By default a fresh one is drawn, which the result
            names: the order must be random *given the costs*. With one of your own, the places of the costs (or, with
            `groups`, the sorted names of the prompts) must have nothing to do with their size; hashes of prompts do.
            Costs that are sorted, or numbered by size, get the same order in every sample of that many with one seed,
            and the bound may then fail far more often than it says.

    Returns:
        [`CVaRBound`].
    """
    tail, confidence = check_tail(tail), check_confidence(confidence)
    low, high = check_bounds(bounds)
    if method not in get_args(Method):
        raise ValueError(
            f"You set method={method!r}, but the methods are {', '.join(get_args(Method))}. Set one of them."
        )
    raw = finite(costs)
    clipped = np.clip(raw, low, high)
    seed = fresh_seed() if seed is None else seed
    sample = _Sample(clipped, groups, seed)
    n = sample.n_groups
    parts: dict[str, Any] = {"n_eta": 0, "n_bound": n, "eta": None, "excess_bound": None}
    if method == "betting":
        bound, parts["eta"] = betting_cvar_upper_bound(sample.costs, sample.sizes, tail, 1 - confidence, low, high)
    elif method == "betting-split":
        parts = _betting_split(sample, tail, 1 - confidence, high)
        bound = parts["eta"] + parts["excess_bound"] / tail
    elif method == "dkw":
        bound = dkw_cvar_upper_bound(sample.one_per_group(), tail, 1 - confidence, high)
    elif method == "brown":
        bound = brown_cvar_upper_bound(sample.one_per_group(), tail, 1 - confidence, low, high)
    else:
        unsafe = _labels(sample, low, high)
        bound = low + (high - low) * binary_cvar_upper_bound(unsafe, n, tail, 1 - confidence)
    by_means = method in ("betting", "betting-split")
    several = (_SEVERAL + (_BY_MEANS if by_means else _BY_DRAW),) if n < raw.size else ()
    estimate = unclipped = cvar(sample.costs, tail, sample.share)
    if (clipped != raw).any():
        whole = _Sample(raw, groups, seed)
        unclipped = cvar(whole.costs, tail, whole.share)
    return CVaRBound(
        bound=max(min(float(bound), high), estimate),
        estimate=estimate,
        tail=tail,
        confidence=confidence,
        method=method,
        bounds=(low, high),
        n=raw.size,
        n_groups=n,
        **parts,
        n_clipped_above=int((raw > high).sum()),
        n_clipped_below=int((raw < low).sum()),
        unclipped_estimate=unclipped,
        seed=seed,
        assumptions=(*_ALWAYS, _PER_METHOD[method], *several),
    )


def fresh_seed() -> int:
    """One that nobody has chosen, and that has nothing to do with any costs."""
    return secrets.randbits(32)


class _Sample:
    """Costs prompt after prompt, the prompts in random order.

    Attributes:
        costs (`np.ndarray` of shape `[n]`): The costs of the first prompt, then those of the second, …
        sizes (`np.ndarray` of shape `[G]`): How many each prompt has.
    """

    def __init__(self, costs: Array, groups: Sequence[Any] | ArrayLike | None, seed: int) -> None:
        rng = np.random.default_rng(seed)
        names = np.arange(costs.size) if groups is None else np.asarray(groups)
        if names.shape != costs.shape:
            raise ValueError(
                f"You gave {costs.size} costs and groups of shape {names.shape}, but each cost needs the prompt it "
                "belongs to. Give one group per cost."
            )
        unique, codes = np.unique(names, return_inverse=True)
        self.n_groups = unique.size
        if self.n_groups < 2:
            raise ValueError(
                "You gave the responses to a single prompt, but a bound over prompts needs at least two (and "
                "thousands for a small tail). Give more prompts."
            )
        # Which place a prompt gets depends on its name and the seed alone; its costs come in their own order.
        places = rng.permutation(self.n_groups)[codes.reshape(-1)]
        self.costs = costs[np.lexsort((costs, places))]
        self.sizes = np.bincount(places)
        self._draws = rng.random(self.n_groups)

    @property
    def share(self) -> Array:
        """Weight of each record when every prompt weighs the same."""
        return 1 / np.repeat(self.sizes, self.sizes)

    def means(self, values: Array) -> Array:
        """The mean of each prompt's values `[G]`."""
        return np.add.reduceat(values, np.cumsum(self.sizes) - self.sizes) / self.sizes

    def one_per_group(self) -> Array:
        """One cost of each prompt `[G]`, drawn at random."""
        return self.costs[np.cumsum(self.sizes) - self.sizes + (self._draws * self.sizes).astype(int)]


def _betting_split(sample: _Sample, tail: float, delta: float, high: float) -> dict[str, Any]:
    n_eta = max(1, round(_ETA_SHARE * sample.n_groups))
    held = slice(0, sample.sizes[:n_eta].sum())
    eta = value_at_risk(sample.costs[held], tail, sample.share[held])
    parts = {"n_eta": n_eta, "n_bound": sample.n_groups - n_eta, "eta": eta}
    if eta >= high:  # nothing can exceed it
        return parts | {"excess_bound": 0.0}
    excess = sample.means(np.maximum(sample.costs - eta, 0.0) / (high - eta))[n_eta:]
    return parts | {"excess_bound": (high - eta) * betting_mean_upper_bound(np.clip(excess, 0.0, 1.0), delta)}


def _labels(sample: _Sample, low: float, high: float) -> int:
    between = int(((sample.costs > low) & (sample.costs < high)).sum())
    if between:
        raise ValueError(
            f'You set method="binary", but {between} costs lie strictly between the bounds {low:g} and {high:g}. Use '
            'method="betting" for graded costs, or give yes/no labels.'
        )
    return int((sample.one_per_group() == high).sum())


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns the clipping bounds, or raises `ValueError` when they are not finite a < b."""
    low, high = (float(bound) for bound in bounds)
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"You set bounds=({low:g}, {high:g}), but the costs are clipped to [a, b] with finite a < b. Set them "
            "from the cost model's range, before you see the costs."
        )
    return low, high
