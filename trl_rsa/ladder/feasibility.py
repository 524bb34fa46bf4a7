"""What a constraint's prompts can show at best, before anything is sampled: too few make a budget hopeless."""

import math
from collections.abc import Callable

import numpy as np

from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.ladder.constraint import RiskConstraint


# Beyond this many prompts nobody is asked to go.
MOST_PROMPTS = 1_000_000
# A bound over fewer prompts says nothing for any tail.
LEAST_PROMPTS = 8


def bound_at_best(constraint: RiskConstraint, n: int, among: int = 1) -> float:
    """The bound on CVaR from `n` prompts if every response had the least cost: no sample gives a lower one.

    Args:
        constraint ([`RiskConstraint`]):
            Its tail, confidence and bounds.
        n (`int`):
            Prompts, one response each.
        among (`int`, *optional*, defaults to 1):
            How many constraints share the allowed error.
    """
    return _bound(constraint, np.full(n, constraint.bounds[0]), among)


def bound_within_the_budget(constraint: RiskConstraint, n: int, among: int = 1) -> float:
    """The bound for a policy that is one margin inside its budget: the worst share `tail` of its responses costs
    budget − margin each, and the others the least."""
    low = constraint.bounds[0]
    costs = np.full(n, low)
    costs[: math.ceil(n * constraint.tail)] = max(low, constraint.budget - constraint.allowed_margin)
    return _bound(constraint, costs, among)


def least_prompts(
    constraint: RiskConstraint, among: int = 1, bound: Callable[[RiskConstraint, int, int], float] = bound_at_best
) -> int | None:
    """The least number of prompts from which the bound can meet the budget: at all, or for the policy of
    [`bound_within_the_budget`]. None beyond [`MOST_PROMPTS`]."""
    low, high = LEAST_PROMPTS, LEAST_PROMPTS
    while bound(constraint, high, among) > constraint.budget:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            return None
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if bound(constraint, middle, among) > constraint.budget else (low, middle)
    return high


def too_few_prompts(constraint: RiskConstraint, split: str, n: int, among: int = 1) -> str | None:
    """A sentence if no responses whatever to `n` prompts can show that the budget is met."""
    at_best = bound_at_best(constraint, n, among)
    if at_best <= constraint.budget:
        return None
    least = least_prompts(constraint, among)
    needed = f"about {least} would do" if least is not None else "no number of prompts would do for this tail"
    return (
        f"{n} {split} prompts are too few: even if every response cost {constraint.bounds[0]:g}, the bound would "
        f"be {at_best:.3g}, above the budget {constraint.budget:g}; {needed}, at the least."
    )


def describe_prompts(constraint: RiskConstraint, split: str, n: int, among: int = 1) -> str | None:
    """What `n` prompts can show; None where they are too few ([`too_few_prompts`])."""
    at_best = bound_at_best(constraint, n, among)
    if at_best > constraint.budget:
        return None
    inside = bound_within_the_budget(constraint, n, among)
    wish = constraint.budget - constraint.allowed_margin
    verdict = f"within the budget {constraint.budget:g}"
    if inside > constraint.budget:
        least = least_prompts(constraint, among, bound_within_the_budget)
        verdict = f"above the budget {constraint.budget:g}"
        verdict += "" if least is None else f"; about {least} prompts would bring it within"
    return (
        f"{n} {split} prompts: the bound is {at_best:.3g} at best; a policy whose CVaR is {wish:.3g} would get about "
        f"{inside:.3g}, {verdict}."
    )


def _bound(constraint: RiskConstraint, costs: np.ndarray, among: int) -> float:
    """In one order of many: what to expect, and no promise."""
    confidence = constraint.confidence_among(among)
    return float(cvar_upper_bound(np.sort(costs), constraint.tail, confidence, constraint.bounds, seed=0))
