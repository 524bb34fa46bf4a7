"""Simulated ladders: a curve stands for model, data and cost, and says which bound a multiplier leads to."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from trl_rsa.ladder.scheduler import ConstraintScheduler


BUDGET, MARGIN = 0.0, 0.25


@dataclass(frozen=True)
class Plant:
    """A simulated ladder.

    Args:
        curve (`Callable[[float], float]`):
            Bound of the risk of cost at a multiplier, once training has converged and without noise.
        noise (`float`):
            Standard deviation of the normal noise of each observation.
        lag (`float`):
            Share of the way to its multiplier that a rung leaves undone (training stopped early).
    """

    curve: Callable[[float], float]
    noise: float = 0.0
    lag: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a ladder ended. `position` is the multiplier that the final model truly is at; lag leaves it behind λ."""

    met: bool
    rungs: int
    walk_backs: int
    multiplier: float
    position: float
    bound: float  # of the final model, without noise


def simulate(scheduler: ConstraintScheduler, plant: Plant, seed: int = 0) -> Outcome:
    """Does what the scheduler says, as a caller would: keeps the models, restores, interpolates."""
    draw = random.Random(seed)
    position, tops, seen = 0.0, [0.0], []
    while True:
        bound = plant.curve(position) + draw.gauss(0.0, plant.noise)
        seen.append(position)
        decision = scheduler.observe(estimate=bound - MARGIN, upper_bound=bound)
        start = seen[decision.start.number]
        if decision.action == "stop":
            rungs = max(observation.rung for observation in scheduler.observations)
            walk_backs = len(seen) - 1 - rungs
            return Outcome(decision.met, rungs, walk_backs, decision.multiplier, start, plant.curve(start))
        if decision.action == "next_rung":
            position = start + (1 - plant.lag) * (decision.multiplier - start)
            tops.append(position)
        else:
            position = tops[-2] + decision.fraction * (tops[-1] - tops[-2])


def least_multiplier(curve: Callable[[float], float], largest: float = 1e4) -> float:
    """The least λ that meets the constraint of a falling curve, by bisection; infinite if there is none."""
    if curve(0.0) <= BUDGET:
        return 0.0
    if curve(largest) > BUDGET:
        return math.inf
    low, high = 0.0, largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if curve(middle) <= BUDGET else (middle, high)
    return high


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(min(-x, 700.0)))


def _tilted_tail(multiplier: float) -> float:
    """CVaR, tail 0.05, of 101 costs from −3 to 3 whose normal law is tilted by exp(−λ/4·cost): the α = 0 optimum."""
    costs = [3 - 0.06 * k for k in range(101)]
    weights = [math.exp(-(cost**2) / 2 - multiplier / 4 * (cost + 3)) for cost in costs]
    total, left, tail = sum(weights), 0.05, 0.0
    for cost, weight in zip(costs, weights, strict=True):
        mass = min(weight / total, left)
        tail, left = tail + mass * cost, left - mass
    return tail / 0.05 - 0.5


PLANTS = {
    "linear": Plant(lambda x: 3 - x / 2),
    "convex": Plant(lambda x: 4 * math.exp(-x / 3) - 1),
    "tilted tail": Plant(_tilted_tail),
    "steep": Plant(lambda x: 4 * _sigmoid(20 * (3 - x)) - 2),
    "slow": Plant(lambda x: 2 - math.log1p(x) / 2),
    "noisy": Plant(lambda x: 4 * math.exp(-x / 3) - 1, noise=0.15),
    "delayed": Plant(lambda x: 4 * math.exp(-x / 3) - 1, lag=0.4),
    "plateau": Plant(lambda x: 2 - 3 * _sigmoid(4 * (x - 6))),
    "kink": Plant(lambda x: 2 - x / 2 + 1.5 * math.exp(-((x - 3) ** 2))),
    "already feasible": Plant(lambda x: -1 - x),
    "infeasible": Plant(lambda x: 1 + 3 * math.exp(-x)),
}
