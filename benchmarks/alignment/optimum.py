"""The constrained optimum: maximise E R − β·KL(π‖π_ref) subject to CVaR_μ(C) ≤ d, globally.

CVaR_μ(C) = min_η η + E(C−η)₊/μ (Rockafellar and Uryasev, 2000). In η this is convex and piecewise linear with kinks at
the costs of the responses, so a policy meets the budget if and only if it does so for some η among those costs, and
searching them is exact. For one η the problem is concave in π with one linear constraint: its solution is
π ∝ π_ref·exp{[R − λ(C−η)₊]/β} with the least λ ≥ 0 that meets the constraint (λ here contains the 1/μ).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alignment.tabular import divergence, sequence_tilt
from benchmarks.alignment.worlds import World
from trl_rsa.risk import CVaR


# λ beyond this is as good as forbidding every cost above η.
MAX_MULTIPLIER = 1e6


@dataclass(frozen=True)
class Optimum:
    """The optimum of one world: `value` = E R − β·KL, with its `eta`, `multiplier` and `joint` (`[N]`)."""

    value: float
    eta: float
    multiplier: float
    joint: Tensor


def objective(world: World, joint: Tensor) -> Tensor:  # [..., N] -> [...]
    """E R − β·KL(π‖π_ref), in units of reward."""
    return (joint.exp() * world.reward).sum(-1) - world.beta * divergence(joint, world.ref_joint)


def response_cvar(world: World, joint: Tensor, tail: float | None = None) -> Tensor:  # [..., N] -> [...]
    """CVaR of the response cost; at the constraint's own tail unless `tail` says otherwise."""
    return CVaR(world.tail if tail is None else tail)(world.cost.expand_as(joint), joint)


def candidate_etas(world: World) -> Tensor:  # [A]
    """The costs within the budget, in order: the optimum's η is one of them."""
    etas = world.cost.unique()
    return etas[etas <= world.budget]


def constrained_optimum(world: World, etas: Tensor | None = None) -> Optimum:
    """Searches η over the costs, or over those given, and, for each, λ by bisection.

    Raises:
        ValueError: if no policy meets the budget.
    """
    budget = world.budget
    etas = candidate_etas(world) if etas is None else etas
    excess = (world.cost - etas[:, None]).clamp(min=0)  # [A, N]

    def solve(multiplier: Tensor) -> Tensor:  # [A] -> [A, N]
        return sequence_tilt(world.ref_joint, world.reward - multiplier[:, None] * excess, world.beta)

    def feasible(multiplier: Tensor) -> Tensor:  # [A] -> [A]
        return etas + (solve(multiplier).exp() * excess).sum(-1) / world.tail <= budget

    low, high = torch.zeros_like(etas), torch.full_like(etas, MAX_MULTIPLIER)
    possible = feasible(high)
    if not possible.any():
        raise ValueError(
            f"You set the budget to {float(budget):.3g}, but no policy over the responses meets it. Raise it."
        )
    high = torch.where(feasible(low), low, high)  # the constraint may be slack
    for _ in range(200):
        middle = (low + high) / 2
        met = feasible(middle)
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    joints = solve(high)
    best = objective(world, joints).masked_fill(~possible, -torch.inf).argmax()
    return Optimum(float(objective(world, joints[best])), float(etas[best]), float(high[best]), joints[best])


def searched_optimum(world: World, points: int = 17) -> Optimum:
    """As `constrained_optimum` for a world of many responses: η coarse to fine, `points` at a time.

    This finds the best η if the value has one peak in η, and a good one if it has several.
    """
    etas = candidate_etas(world)
    low, high = 0, len(etas) - 1
    while True:
        places = torch.linspace(low, high, min(points, high - low + 1)).round().long().unique()
        best = constrained_optimum(world, etas[places])
        if high - low < points:
            return best
        at = int((etas[places] == best.eta).nonzero()[0])
        low, high = int(places[max(at - 1, 0)]), int(places[min(at + 1, len(places) - 1)])
