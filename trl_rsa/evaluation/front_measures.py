"""Models that answered the same prompts, as points of reward against risk: front.json from records.

Every model's risk and reward are read from the same resamples of the prompts. So the interval of a difference, or of
an area, is a paired one: what is easy or hard about the prompts is the same for all models.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_rsa.evaluation.bootstrap import Bootstrap, resamples
from trl_rsa.evaluation.columns import Columns
from trl_rsa.evaluation.front import hypervolume, pareto_front, reward_within, risk_for
from trl_rsa.evaluation.front_file import (
    FrontDifference,
    FrontFile,
    FrontMethod,
    FrontPoint,
    FrontReference,
    RewardWithin,
)
from trl_rsa.evaluation.intervals import Estimate, EstimateJSON
from trl_rsa.evaluation.tails import check_tail, sorted_cvar
from trl_rsa.storage.provenance import now


Array = NDArray[np.float64]

SCHEMA_VERSION = 1
# A reading may fall beyond what was measured in some resamples. In more than this share of them, the interval of the
# others would be that of a luckier reading, and none is given.
_MOST_UNREAD = 0.01


@dataclass(frozen=True)
class Spot:
    """A model on the front's picture.

    Args:
        name (`str`):
            Its name in the records.
        settings (`Mapping[str, Any]`, *optional*):
            What it differs from the others of its method in.
        budget (`float`, *optional*), met (`bool`, *optional*):
            The budget it was made for, and whether the search says that it is met.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: float | None = None
    met: bool | None = None


class PairedPoints:
    """CVaR of cost and mean reward of several models, as measured and under resamples of their prompts.

    Responses without a cost or without a reward are left out, and with them the prompts of which another model has
    none left: all models are read on the same prompts.

    Args:
        parts (`Mapping[str, Columns]`):
            The records of each model.
        tail (`float`):
            Tail of the CVaR.
        bootstrap ([`Bootstrap`], *optional*):
            How many resamples, by which seed. Its intervals are percentiles.

    Attributes:
        n_prompts (`int`): Prompts that all models answered.
        risks, rewards (`np.ndarray` of shape `[1 + resamples, m]`): The first row is as measured.

    Raises:
        ValueError: if the models share no prompt with a cost and a reward.
    """

    def __init__(self, parts: Mapping[str, Columns], tail: float, bootstrap: Bootstrap | None = None) -> None:
        self.tail, self.bootstrap = check_tail(tail), bootstrap or Bootstrap()
        self.place = {name: i for i, name in enumerate(parts)}
        scored = {name: c.take(np.isfinite(c.cost) & np.isfinite(c.reward)) for name, c in parts.items()}
        common = _common_prompts(scored)
        self.n_prompts = common.size
        weights = np.concatenate([np.ones((1, common.size)), *self._resamples(common.size)])
        kept = [columns.take(np.isin(columns.group, common)) for columns in scored.values()]
        found = [_risk_and_reward(columns, common, weights, self.tail) for columns in kept]
        self.risks: Array = np.stack([risk for risk, _ in found], axis=-1)
        self.rewards: Array = np.stack([reward for _, reward in found], axis=-1)

    def estimate(self, measure: Callable[[Array, Array], float], names: Sequence[str] | None = None) -> EstimateJSON:
        """`measure` of the risks `[k]` and rewards `[k]` of the models `names` (all by default), with its interval."""
        places = [self.place[name] for name in (self.place if names is None else names)]
        value, *draws = (
            measure(risk, reward) for risk, reward in zip(self.risks[:, places], self.rewards[:, places], strict=True)
        )
        read = np.array([draw for draw in draws if not np.isnan(draw)])
        if np.isnan(value) or not draws or read.size < (1 - _MOST_UNREAD) * len(draws):
            return Estimate(value, None, None, "none").to_dict()
        outside = (1 - self.bootstrap.confidence) / 2
        low, high = np.quantile(read, [outside, 1 - outside])
        return Estimate(float(value), float(low), float(high), "percentile by prompt").to_dict()

    def _resamples(self, units: int) -> list[Array]:
        """One prompt alone has no interval."""
        rng = np.random.default_rng(self.bootstrap.seed)
        return list(resamples(units, self.bootstrap.n_resamples, rng)) if units > 1 else []


def _common_prompts(parts: Mapping[str, Columns]) -> NDArray[np.uint64]:
    common: NDArray[Any] | None = None
    for columns in parts.values():
        common = np.unique(columns.group) if common is None else np.intersect1d(common, columns.group)
    if common is None or not common.size:
        raise ValueError(
            f"You compare {', '.join(parts) or 'no models'} by reward and cost, but there is no prompt of which all "
            "have an answer with both scores. Evaluate them on the same prompts, with a reward and a cost."
        )
    return common


def _risk_and_reward(columns: Columns, common: NDArray[np.uint64], weights: Array, tail: float) -> tuple[Array, Array]:
    """CVaR and mean reward `[r]` under weights `[r, n_prompts]`; the responses to a prompt share its weight."""
    columns = columns.take(np.argsort(-columns.cost, kind="stable"))
    codes = np.searchsorted(common, columns.group)
    share = 1 / np.bincount(codes, minlength=common.size)[codes]
    risks, rewards = [], []
    # A few hundred rows at a time: with many responses all of them would fill the memory.
    for rows in np.array_split(weights, max(1, weights.shape[0] * codes.size // 2**20)):
        counts = rows[:, codes] * share
        risks.append(sorted_cvar(columns.cost, np.cumsum(counts, axis=-1), [tail])[:, 0])
        rewards.append(counts @ columns.reward / counts.sum(-1))
    return np.concatenate(risks), np.concatenate(rewards)


def measure_front(
    methods: Mapping[str, Sequence[Spot]],
    parts: Mapping[str, Columns],
    tail: float = 0.05,
    limits: Sequence[float] = (),
    reference: tuple[float, float] | None = None,
    bootstrap: Bootstrap | None = None,
) -> FrontFile:
    """Fronts, hypervolumes, rewards within limits, and every point against the other methods' fronts.

    Args:
        methods (`Mapping[str, Sequence[Spot]]`):
            The models of each method, in the order of their setting. A model may stand in several.
        parts (`Mapping[str, Columns]`):
            The records of each model.
        tail (`float`, *optional*, defaults to 0.05):
            Tail of the CVaR of cost.
        limits (`Sequence[float]`, *optional*):
            CVaRs within which rewards are read; by default the budgets of the models, or else the quarters of the
            range that was measured.
        reference (`tuple[float, float]`, *optional*):
            CVaR and reward of the hypervolumes' reference point; by default the worst of all points in each.
        bootstrap ([`Bootstrap`], *optional*):
            How intervals are made.

    Returns:
        [`~evaluation.front_file.FrontFile`]
    """
    points = PairedPoints(parts, tail, bootstrap)
    at = FrontReference(
        risk=float(points.risks[0].max()) if reference is None else float(reference[0]),
        reward=float(points.rewards[0].min()) if reference is None else float(reference[1]),
        given=reference is not None,
    )
    limits = list(limits) or _limits(methods, points)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": now(),
        "tail": points.tail,
        "confidence": points.bootstrap.confidence,
        "n_resamples": points.bootstrap.n_resamples,
        "seed": points.bootstrap.seed,
        "n_prompts": points.n_prompts,
        "reference": at,
        "methods": [_method(points, name, spots, at, limits) for name, spots in methods.items()],
        "differences": [
            _difference(points, spot.name, other, [one.name for one in methods[other]])
            for name, spots in methods.items()
            for spot in spots
            for other in methods
            if other != name and spot.name not in {one.name for one in methods[other]}
        ],
    }


def _method(
    points: PairedPoints, name: str, spots: Sequence[Spot], reference: FrontReference, limits: Sequence[float]
) -> FrontMethod:
    names = [spot.name for spot in spots]
    places = [points.place[name] for name in names]
    front = {names[i] for i in pareto_front(points.risks[0, places], points.rewards[0, places])}
    corner = reference["risk"], reference["reward"]
    return {
        "name": name,
        "points": [_point(points, spot, spot.name in front) for spot in spots],
        "hypervolume": points.estimate(lambda risks, rewards: hypervolume(risks, rewards, corner), names),
        "within": [
            RewardWithin(limit=limit, reward=points.estimate(partial(reward_within, limit=limit), names))
            for limit in limits
        ],
    }


def _point(points: PairedPoints, spot: Spot, on_front: bool) -> FrontPoint:
    found: FrontPoint = {
        "name": spot.name,
        "settings": dict(spot.settings),
        "risk": points.estimate(lambda risks, rewards: float(risks[0]), [spot.name]),
        "reward": points.estimate(lambda risks, rewards: float(rewards[0]), [spot.name]),
        "on_front": on_front,
    }
    if spot.budget is not None:
        found["budget"] = spot.budget
    if spot.met is not None:
        found["met"] = spot.met
    return found


def _difference(points: PairedPoints, name: str, method: str, front: Sequence[str]) -> FrontDifference:
    """The point comes first, the front's models after it."""
    return {
        "point": name,
        "method": method,
        "reward_at_the_same_tail": points.estimate(
            lambda risks, rewards: float(rewards[0] - reward_within(risks[1:], rewards[1:], risks[0])), [name, *front]
        ),
        "risk_at_the_same_reward": points.estimate(
            lambda risks, rewards: float(risks[0] - risk_for(risks[1:], rewards[1:], rewards[0])), [name, *front]
        ),
    }


def _limits(methods: Mapping[str, Sequence[Spot]], points: PairedPoints) -> list[float]:
    budgets = {spot.budget for spots in methods.values() for spot in spots if spot.budget is not None}
    if budgets:
        return sorted(budgets)
    low, high = float(points.risks[0].min()), float(points.risks[0].max())
    if low == high:
        return [low]
    # Two digits of the range: with two digits of the numbers, all could fall below what was measured.
    digits = 1 - math.floor(math.log10(high - low))
    return sorted({round(low + share * (high - low), digits) for share in (0.25, 0.5, 0.75)})


def front_table(front: FrontFile) -> str:
    """One row per point, as CSV: method, name, what is set, risk and reward with their intervals."""
    names = list(
        dict.fromkeys(name for method in front["methods"] for point in method["points"] for name in point["settings"])
    )
    numbers = [f"{of}{end}" for of in ("cvar", "reward") for end in ("", "_low", "_high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "model", *names, *numbers, "on_front", "budget", "met"])
    for method in front["methods"]:
        for point in method["points"]:
            cells = [of[end] for of in (point["risk"], point["reward"]) for end in ("value", "low", "high")]
            settings = [point["settings"].get(name, "") for name in names]
            rest = [point["on_front"], point.get("budget", ""), point.get("met", "")]
            writer.writerow([method["name"], point["name"], *settings, *cells, *rest])
    return buffer.getvalue()
