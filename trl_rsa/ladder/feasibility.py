"""What a constraint's prompts and labels can show at best, before anything is sampled: too few make it hopeless."""

from collections.abc import Callable
from statistics import median

import numpy as np

from trl_rsa.audits.bound import audited_cvar_bound
from trl_rsa.audits.selection import choose
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.ledger import attempt_delta
from trl_rsa.ladder.constraint import RiskConstraint


# Beyond this many prompts nobody is asked to go.
MOST_PROMPTS = 100_000
# A bound over fewer prompts says nothing for any tail.
LEAST_PROMPTS = 8
# A bound depends on the order of the costs, which is random: the median of so many orders, where there are few enough.
_ORDERS, _FEW = 5, 20_000


def confidence_of(constraint: RiskConstraint, split: str, among: int = 1) -> float:
    """Of the bound on the prompts of a set: a certificate is the first of perhaps several attempts, and has a higher
    one ([`~evaluation.ledger.attempt_delta`])."""
    confidence = constraint.confidence_among(among)
    return 1 - attempt_delta(1 - confidence, 1) if split == "certify" else confidence


def bound_at_best(constraint: RiskConstraint, n: int, among: int = 1, split: str = "decide") -> float:
    """The bound on CVaR from `n` prompts if every response had the least cost: no sample gives a lower one.

    Args:
        constraint ([`RiskConstraint`]):
            Its tail, confidence and bounds.
        n (`int`):
            Prompts, one response each.
        among (`int`, *optional*, defaults to 1):
            How many constraints share the allowed error.
        split (`str`, *optional*, defaults to `"decide"`):
            What the prompts are for: `"decide"` or `"certify"`.
    """
    return _bound(constraint, np.full(n, constraint.bounds[0]), confidence_of(constraint, split, among), 0)


def bound_within_the_budget(constraint: RiskConstraint, n: int, among: int = 1, split: str = "decide") -> float:
    """The bound for a policy that is one margin inside its budget, about.

    Its costs fall evenly from the worst response to one at twice the tail; the others cost the least. Costs that are
    all or nothing have the same CVaR and a far less certain one.
    """
    low, high = constraint.bounds
    wish = max(low, constraint.budget - constraint.allowed_margin)
    # From a worst cost of low + top, over `width` tails: their mean over the first of these is the wish.
    width = max(2.0, 0.5 / max(1 - (wish - low) / (high - low), 1e-9))
    top = (wish - low) / (1 - 0.5 / width)
    shares = (np.arange(n) + 0.5) / (n * constraint.tail * width)
    costs = low + top * np.maximum(0.0, 1 - shares)
    confidence = confidence_of(constraint, split, among)
    orders = _ORDERS if n <= _FEW else 1
    return median(_bound(constraint, costs, confidence, seed) for seed in range(orders))


def least_prompts(
    constraint: RiskConstraint,
    among: int = 1,
    bound: Callable[[RiskConstraint, int, int, str], float] = bound_at_best,
    split: str = "decide",
) -> int | None:
    """The least number of prompts from which the bound can meet the budget, about: at all, or for the policy of
    [`bound_within_the_budget`]. None beyond [`MOST_PROMPTS`]."""
    low, high = LEAST_PROMPTS, LEAST_PROMPTS
    while bound(constraint, high, among, split) > constraint.budget:
        if high == MOST_PROMPTS:
            return None
        low, high = high, min(2 * high, MOST_PROMPTS)
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if bound(constraint, middle, among, split) > constraint.budget else (low, middle)
    return high


def can_be_shown(constraint: RiskConstraint, split: str, n: int, among: int = 1) -> bool:
    """Whether anything that `n` prompts of a set may show, or an audit's labels on them, would meet the budget."""
    at_best = _at_best(constraint, split, n, among)
    return at_best is None or at_best <= constraint.budget


def too_few_prompts(constraint: RiskConstraint, split: str, n: int, among: int = 1) -> str | None:
    """A sentence where nothing can be shown ([`can_be_shown`]), with what would do."""
    at_best = _at_best(constraint, split, n, among)
    if at_best is None or at_best <= constraint.budget:
        return None
    above = f"the bound would be {at_best:.3g}, above the budget {constraint.budget:g}"
    audit = _audit_of(constraint, split)
    if audit is not None:
        name = "certify_labels" if split == "certify" else "labels"
        return (
            f"{audit.drawn_of(split)[0]} labels on {n} {split} prompts are too few: even if every label were "
            f"{audit.scale.names[0]!r}, {above}. Raise {name} (`trl-rsa audit plan` says how far), or the budget."
        )
    least = least_prompts(constraint, among, split=split)
    needed = f"about {least} would do" if least is not None else f"more than {MOST_PROMPTS:,} would be needed"
    return (
        f"{n} {split} prompts are too few: even if every response cost {constraint.bounds[0]:g}, {above}; {needed}, "
        "at the least."
    )


# Rungs of so many prompts, at four responses each, were compared with rungs of a quarter of them: PRESSURE.md.
MANY_TRAIN_PROMPTS = 768


def describe_train_prompts(n: int) -> str | None:
    """What more train prompts than `n` are good for, by the pressure track; None where there are as many as there."""
    if n >= MANY_TRAIN_PROMPTS:
        return None
    return (
        f"{n} train prompts. Rungs of {MANY_TRAIN_PROMPTS} instead of {MANY_TRAIN_PROMPTS // 4} made models that were "
        "safer when pushed (sampled hotter, half-way back, made to begin badly) at the same reward, for four times "
        "the scored responses: benchmarks/alignment/PRESSURE.md"
    )


def describe_prompts(constraint: RiskConstraint, split: str, n: int, among: int = 1) -> str | None:
    """What `n` prompts can show; None where they are too few ([`too_few_prompts`]), or nothing limits the bound."""
    at_best = _at_best(constraint, split, n, among)
    if at_best is None or at_best > constraint.budget:
        return None
    audit = _audit_of(constraint, split)
    if audit is not None:
        return f"{audit.drawn_of(split)[0]} labels on {n} {split} prompts: the bound is {at_best:.3g} at best."
    inside = bound_within_the_budget(constraint, n, among, split)
    wish = max(constraint.bounds[0], constraint.budget - constraint.allowed_margin)
    verdict = f"within the budget {constraint.budget:g}"
    if inside > constraint.budget:
        least = least_prompts(constraint, among, bound_within_the_budget, split)
        verdict = f"above the budget {constraint.budget:g}"
        verdict += "" if least is None else f"; about {least} prompts would bring it within"
    return (
        f"{n} {split} prompts: the bound is {at_best:.3g} at best; a policy whose CVaR is {wish:.3g} would get about "
        f"{inside:.3g}, {verdict}. Where costs are all or nothing it takes several times as many."
    )


def _audit_of(constraint: RiskConstraint, split: str) -> AuditSettings | None:
    """The audit whose labels the bound on these prompts rests on."""
    audit = constraint.audit
    return audit if audit is not None and (split == "decide" or audit.certify_labels > 0) else None


def _at_best(constraint: RiskConstraint, split: str, n: int, among: int) -> float | None:
    """The bound if every response, or every label that is asked for, were the mildest. None where it is a bootstrap's,
    which labels do not limit."""
    audit = _audit_of(constraint, split)
    if audit is None:
        return bound_at_best(constraint, n, among, split)
    if split == "decide" and audit.bound == "bootstrap":
        return None
    keys, scores = [str(i) for i in range(n)], np.zeros(n)
    drawn = choose(keys, scores, *audit.drawn_of(split))
    return audited_cvar_bound(
        scores,
        np.where(drawn.chosen, audit.scale.costs[0], np.nan),
        drawn.probabilities,
        tail=constraint.tail,
        bounds=constraint.bounds,
        confidence=confidence_of(constraint, split, among),
        keys=keys,
        seed=0,
        least=drawn.least,
    ).upper_bound


def _bound(constraint: RiskConstraint, costs: np.ndarray, confidence: float, seed: int) -> float:
    """In one order of many: what to expect, and no promise."""
    return float(cvar_upper_bound(np.sort(costs), constraint.tail, confidence, constraint.bounds, seed=seed))
