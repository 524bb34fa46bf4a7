"""How many labels would do: audits of several sizes, simulated on responses drawn from a pilot."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.bound import audited_cvar_bound
from trl_rsa.audits.selection import UNIFORM, choose
from trl_rsa.evaluation.cvar_bound import check_bounds
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.ledger import attempt_delta
from trl_rsa.evaluation.tails import check_tail, cvar, value_at_risk


Array = NDArray[np.float64]

LEAST_PILOT = 30
_NUMBERS = (100, 200, 400, 600, 900, 1400, 2000)
# A number of labels does when this share of the simulated audits keeps the budget.
_ENOUGH = 0.8


class PlannedAudit(TypedDict):
    """What the simulation says of audits with one number of labels. `floor` is the bound if everything that was not
    seen were as bad as it can be."""

    labels: int
    bound: float
    low: float
    high: float
    uniform_bound: float
    floor: float
    certified: float


class PlanFile(TypedDict):
    """plan.json: from which pilot, for which claim, and what each number of labels would bring."""

    pilot_labels: int
    pilot_cvar: float
    pilot_eta: float
    n_prompts: int
    tail: float
    budget: float
    bounds: list[float]
    confidence: float
    uniform: float
    repeats: int
    seed: int
    enough: int | None
    audits: list[PlannedAudit]


@dataclass(frozen=True)
class LabelPlan:
    """Fields as in [`PlanFile`]. `enough` is the least number that was tried with which four simulated audits of five
    keep the budget, as all larger ones do; `None` if there is none."""

    pilot_labels: int
    pilot_cvar: float
    pilot_eta: float
    n_prompts: int
    tail: float
    budget: float
    bounds: tuple[float, float]
    confidence: float
    uniform: float
    repeats: int
    seed: int
    enough: int | None
    audits: tuple[PlannedAudit, ...]

    def to_dict(self) -> PlanFile:
        return cast(PlanFile, asdict(self) | {"bounds": list(self.bounds), "audits": list(self.audits)})

    def table(self) -> str:
        """The plan in plain text."""
        lines = [
            f"Pilot: {self.pilot_labels} labels, CVaR of the worst {100 * self.tail:g} % {self.pilot_cvar:.3g}. "
            f"Expected upper bound on {self.n_prompts} prompts:",
            "",
            f"{'labels':>8}{'bound':>9}{'10 to 90 %':>16}{'uniform':>9}{'floor':>8}{'certified':>11}",
        ]
        for each in self.audits:
            spread = f"{each['low']:.2f} to {each['high']:.2f}"
            lines.append(
                f"{each['labels']:>8}{each['bound']:>9.2f}{spread:>16}{each['uniform_bound']:>9.2f}"
                f"{each['floor']:>8.2f}{100 * each['certified']:>9.0f} %"
            )
        return "\n".join([*lines, "", *self.words()])

    def words(self) -> list[str]:
        """What follows from it, in sentences."""
        said = (
            f"{self.enough} labels would do for the budget {self.budget:g}."
            if self.enough is not None
            else f"None of these numbers of labels would do for the budget {self.budget:g}."
        )
        return [
            said,
            "uniform: the same number of labels drawn from all responses alike, without the learned cost. floor: the "
            "pilot's tail, and beside it the worst that no label may have met. Where the pilot saw none of the worst "
            "grade, expect more than the simulation shows.",
        ]


def plan_labels(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    tail: float = 0.05,
    budget: float,
    bounds: tuple[float, float],
    confidence: float = 0.95,
    n_prompts: int = 3000,
    numbers: Sequence[int] | None = None,
    uniform: float = UNIFORM,
    repeats: int = 20,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> LabelPlan:
    """Simulates audits of several sizes.

    Each simulated audit draws `n_prompts` responses from the pilot, with replacement, draws labels among them as
    [`~audits.selection.choose`] does, and computes the bound. One response per prompt.

    Args:
        scores (`ArrayLike` of shape `[m]`), labels (`ArrayLike` of shape `[m]`):
            The pilot: learned costs and labels, in units of harm, at least 30 of each.
        weights (`ArrayLike` of shape `[m]`, *optional*):
            How many responses each stands for: one by the probability of its label.
        tail, budget, bounds, confidence:
            Of the certificate that is planned. A first attempt has a part of the error only, as there.
        n_prompts (`int`, *optional*, defaults to 3000):
            Prompts to certify on.
        numbers (`Sequence[int]`, *optional*):
            Numbers of labels to try; seven from 100 to 2000 by default, those above `n_prompts` left out.
        uniform (`float`, *optional*, defaults to 0.85):
            As in [`~audits.selection.choose`].
        repeats (`int`, *optional*, defaults to 20), seed (`int`, *optional*, defaults to 0):
            Simulated audits of each size, and the seed of the simulation.
        log (`Callable`, *optional*):
            Is told of progress.
    """
    tail, confidence = check_tail(tail), check_confidence(confidence)
    low, high = check_bounds(bounds)
    x, y = np.asarray(scores, dtype=np.float64), np.clip(np.asarray(labels, dtype=np.float64), low, high)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    sizes = _sizes(numbers, n_prompts)
    _check(x, y, w, repeats)
    delta = attempt_delta(1 - confidence, 1)
    pilot_cvar, eta = cvar(y, tail, w), value_at_risk(y, tail, w)
    audits = []
    for labels_now in sizes:
        if log is not None:
            log(f"{labels_now} labels: {repeats} simulated audits")
        price = math.log(1 / delta) * (high - eta) / (min(labels_now * uniform, n_prompts) * tail)
        both = [
            _simulate(
                x, y, w / w.sum(), n_prompts, labels_now, uniform, tail, delta, (low, high), [seed, labels_now, i]
            )
            for i in range(repeats)
        ]
        found, plain = np.array(both).T
        audits.append(
            PlannedAudit(
                labels=labels_now,
                bound=float(found.mean()),
                low=float(np.quantile(found, 0.1)),
                high=float(np.quantile(found, 0.9)),
                uniform_bound=float(plain.mean()),
                floor=min(pilot_cvar + price, high),
                certified=float((found <= budget).mean()),
            )
        )
    return LabelPlan(
        pilot_labels=y.size,
        pilot_cvar=pilot_cvar,
        pilot_eta=eta,
        n_prompts=n_prompts,
        tail=tail,
        budget=budget,
        bounds=(low, high),
        confidence=confidence,
        uniform=uniform,
        repeats=repeats,
        seed=seed,
        enough=_enough(audits),
        audits=tuple(audits),
    )


def _simulate(
    scores: Array,
    labels: Array,
    shares: Array,
    n: int,
    number: int,
    uniform: float,
    tail: float,
    delta: float,
    bounds: tuple[float, float],
    seed: Sequence[int],
) -> tuple[float, float]:
    """The bounds of one audit, and of a uniform one with as many labels."""
    rng = np.random.default_rng(seed)
    picked = rng.choice(labels.size, n, p=shares)
    keys, own_seed = [str(i) for i in range(n)], int(rng.integers(2**31))
    results = []
    for share, predictions in ((uniform, scores[picked]), (1.0, None)):
        drawn = choose(keys, scores[picked], number, share, own_seed)
        seen = np.where(drawn.chosen, labels[picked], np.nan)
        found = audited_cvar_bound(
            predictions,
            seen,
            drawn.probabilities,
            tail=tail,
            bounds=bounds,
            confidence=1 - delta,
            keys=keys,
            seed=own_seed,
            least=None if predictions is None else drawn.least,
        )
        results.append(found.upper_bound)
    return results[0], results[1]


def _enough(audits: Sequence[PlannedAudit]) -> int | None:
    found = None
    for each in reversed(audits):
        if each["certified"] < _ENOUGH:
            break
        found = each["labels"]
    return found


def _sizes(numbers: Sequence[int] | None, n_prompts: int) -> list[int]:
    sizes = sorted({min(each, n_prompts) for each in (_NUMBERS if numbers is None else numbers)})
    if n_prompts < 2 or not sizes or sizes[0] < 1:
        raise ValueError(
            f"You set numbers of labels {sizes} for {n_prompts} prompts, but an audit needs prompts and at least one "
            "label. Set, say, 100 to 2000 labels of 3000 prompts."
        )
    return sizes


def _check(scores: Array, labels: Array, weights: Array, repeats: int) -> None:
    if not scores.shape == labels.shape == weights.shape or labels.ndim != 1 or labels.size < LEAST_PILOT:
        raise ValueError(
            f"You gave a pilot with scores, labels and weights of shapes {scores.shape}, {labels.shape} and "
            f"{weights.shape}, but a plan needs one of each per response, and at least {LEAST_PILOT}. Label more "
            "responses first."
        )
    if not np.isfinite(labels).all() or not ((weights > 0) & (weights < np.inf)).all() or repeats < 1:
        raise ValueError(
            f"You set repeats={repeats}, or gave a pilot label that is no number or a weight that is not positive. "
            "Leave out responses without a label, and repeat at least once."
        )
