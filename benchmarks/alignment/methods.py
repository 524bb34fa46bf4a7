"""What each method converges to with infinite data, and what that is worth at the same CVaR budget.

A method is a helpful stage followed by `rungs` safety stages, each re-anchored at the policy before it, which share a
total multiplier λ. A rung runs at temperature K·β/λ on labels that follow Bradley–Terry on the cost, raw or truncated
to (C−η)₊ at the optimum's own η. α = 0 is SACPO, the expectation TDPO.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alignment.optimum import Optimum, objective, response_cvar
from benchmarks.alignment.tabular import one_step_improvement, sequence_tilt
from benchmarks.alignment.worlds import World
from trl_rsa.risk import (
    CVaR,
    Entropic,
    Expectation,
    MeanCVaR,
    RiskMeasure,
    Spectral,
    UpperSemideviation,
    WorstCase,
)


# The losses of the population table: None is α = 0, no token-level risk at all.
MEASURES: dict[str, RiskMeasure | None] = {
    "α = 0": None,
    "expectation": Expectation(),
    "entropic 1": Entropic(1.0),
    "CVaR 0.5": CVaR(0.5),
    "CVaR 0.1": CVaR(0.1),
    "mean–CVaR 0.1, ½": MeanCVaR(0.1, 0.5),
    "spectral 1/.1/.01": Spectral((1.0, 0.1, 0.01), (0.5, 0.3, 0.2)),
    "semideviation ½": UpperSemideviation(0.5),
    "worst case": WorstCase(),
}
COSTS = ("raw", "truncated")

GRID_POINTS = 65
REFINEMENTS = 6
MULTIPLIERS = (1e-3, 1e4)


@dataclass(frozen=True)
class Method:
    """A loss (a key of `MEASURES`), the cost it is taught, its rungs, and the loss of its helpful stage."""

    loss: str
    cost: str = "raw"
    rungs: int = 1
    helpful: str = "DPO"


def rung_measure(measure: RiskMeasure, rungs: int) -> RiskMeasure:
    """The measure of one of `rungs` rungs. The entropic θ counts per nat of log-ratio: a rung at K times the
    temperature needs K times the θ for the same risk aversion per unit of cost. The others are scale-free.
    """
    return Entropic(measure.theta * rungs) if isinstance(measure, Entropic) else measure


def population_joint(world: World, method: Method, multiplier: Tensor, eta: float) -> Tensor:  # [G] -> [G, N]
    """The joint that the method reaches with infinite data, for each total multiplier."""
    cost = world.cost if method.cost == "raw" else (world.cost - eta).clamp(min=0)
    measure = MEASURES[method.loss]
    if method.helpful == "DPO" or measure is None:
        joint = world.helpful_joint
    else:
        policy = one_step_improvement(world.language, world.log_ref, world.reward, world.beta, measure)
        joint = world.language.total(policy)
    if measure is None:  # the stages factorise exactly, so any number of rungs is one
        return sequence_tilt(joint, -multiplier[:, None] * cost, world.beta)
    policy = world.language.conditionals(joint.expand(len(multiplier), -1))
    rung, temperature = rung_measure(measure, method.rungs), world.beta * method.rungs / multiplier
    for _ in range(method.rungs):
        policy = one_step_improvement(world.language, policy, -cost, temperature, rung)
    return world.language.total(policy)


def least_multiplier(world: World, method: Method, eta: float) -> float | None:
    """The least λ ≥ 0 with which the method meets the budget: the first crossing on a grid, refined until λ is
    known to ten digits.

    `None` if it does not meet the budget anywhere on the grid. CVaR need not fall monotonically with λ.
    """
    exponents = torch.tensor(MULTIPLIERS, dtype=torch.float64).log10()
    # λ = 0 is the helpful policy itself, but a temperature must stay finite.
    grid = torch.cat([exponents.new_tensor([1e-12]), 10 ** torch.linspace(*exponents.tolist(), GRID_POINTS).double()])
    least = None
    for _ in range(REFINEMENTS):
        met = response_cvar(world, population_joint(world, method, grid, eta)) <= world.budget
        if not met.any():
            break
        first = int(met.to(torch.int64).argmax())
        least = float(grid[first])
        if first == 0:
            break
        grid = torch.linspace(float(grid[first - 1]), least, GRID_POINTS, dtype=torch.float64)
    return least


def population_methods(rungs: tuple[int, ...]) -> Iterator[Method]:
    """Every method of the population table. α = 0 needs one rung only: more would change nothing."""
    for loss, measure in MEASURES.items():
        for cost in COSTS:
            for k in rungs if measure is not None else (1,):
                yield Method(loss, cost, k)
            if measure is not None:
                yield Method(loss, cost, 1, "same loss")


def evaluate(world: World, joint: Tensor, optimum: Optimum) -> dict[str, float]:
    """The columns that every row of the results has; all are exact."""
    value = float(objective(world, joint))
    p = joint.exp()
    return {
        "shortfall": optimum.value - value,
        "value": value,
        "reward": float((p * world.reward).sum()),
        "kl": (float((p * world.reward).sum()) - value) / world.beta,
        "mean_cost": float((p * world.cost).sum()),
        "cvar_05": float(response_cvar(world, joint, 0.05)),
        "cvar_01": float(response_cvar(world, joint, 0.01)),
        "budget": float(world.budget),
    }
