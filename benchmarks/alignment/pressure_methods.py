"""The methods of the pressure track with infinite data, and how they are matched at equal value.

Published token-level losses: RSA-1 and RSA-2 with each of five measures (the expectation makes them TDPO1 and TDPO2),
in 1, 5 and 16 rungs, on raw and on truncated cost: 60 methods, 420 comparisons over seven criteria. RSA-2 runs at its
published α of ½. Beside them, in families of their own: RSA-2 with the expectation and a smaller α, and labels of
other kinds for α = 0.

All start from the exact helpful policy. The rival is α = 0 on the cost truncated at the optimum's own η: at its least
multiplier it *is* the constrained optimum. A method gets the least multiplier at which its value E R − β·KL has fallen
to the rival's. Where its value stays above, however large the multiplier, the rival is taken at the method's value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.alignment.methods import rung_measure
from benchmarks.alignment.optimum import Optimum, objective
from benchmarks.alignment.tabular import one_step_improvement, sequence_tilt
from benchmarks.alignment.worlds import World
from trl_rsa.risk import CVaR, Entropic, Expectation, MeanCVaR, RiskMeasure


MEASURES: dict[str, RiskMeasure] = {
    "expectation": Expectation(),
    "entropic 1": Entropic(1.0),
    "CVaR 0.5": CVaR(0.5),
    "CVaR 0.1": CVaR(0.1),
    "mean–CVaR 0.1, ½": MeanCVaR(0.1, 0.5),
}
PUBLISHED_ALPHA = 0.5
SMALL_ALPHAS = (0.05, 0.2)
RUNGS = (1, 5, 16)
COSTS = ("raw", "truncated")

DECADES = (-6, 5)  # multipliers that are looked at: costs may be in the hundreds
PER_DECADE = 4
REFINEMENTS, REFINED = 3, 9

Population = Callable[[Tensor], Tensor]  # multipliers [G] -> joints [G, N]


@dataclass(frozen=True)
class Shrunk:
    """α·ρ + (1 − α)·ERM with θ = −1: the measure whose one-step improvement is RSA-2's stationary
    point with soft labels (docs/method.md)."""

    measure: RiskMeasure
    alpha: float

    def __call__(self, x: Tensor, log_p: Tensor) -> Tensor:
        return self.alpha * self.measure(x, log_p) - (1 - self.alpha) * (log_p - x).logsumexp(-1)

    def tilt(self, x: Tensor, log_p: Tensor) -> Tensor:
        return self.alpha * self.measure.tilt(x, log_p) + (1 - self.alpha) * (log_p - x).softmax(-1)


@dataclass(frozen=True)
class TokenLoss:
    """A token-level loss with the cost that it is taught and its rungs. `alpha` 1 is RSA-1."""

    family: str
    measure: str
    alpha: float
    rungs: int
    cost: str
    decades: tuple[int, int] = DECADES

    @property
    def name(self) -> str:
        form = "RSA-1" if self.alpha == 1 else f"RSA-2 α {self.alpha:g}"
        return f"{form} {self.measure}, {self.rungs} rung{'s' * (self.rungs > 1)}, {self.cost}"

    @property
    def passes(self) -> float:
        return self.rungs

    def population(self, world: World, optimum: Optimum) -> Population:
        cost = world.cost if self.cost == "raw" else (world.cost - optimum.eta).clamp(min=0)
        measure = rung_measure(MEASURES[self.measure], self.rungs)
        measure = measure if self.alpha == 1 else Shrunk(measure, self.alpha)

        def joints(multipliers: Tensor) -> Tensor:
            policy = world.language.conditionals(world.helpful_joint).expand(len(multipliers), -1, -1)
            temperature = world.beta * self.rungs / multipliers
            for _ in range(self.rungs):
                policy = one_step_improvement(world.language, policy, -cost, temperature, measure)
            return world.language.total(policy)

        return joints


@dataclass(frozen=True)
class Labels:
    """α = 0 on another function of the cost: the stages factorise, so one rung is any number of rungs."""

    name: str
    family: str = "labels"
    decades: tuple[int, int] = DECADES
    passes: float = 1

    def population(self, world: World, optimum: Optimum) -> Population:
        excess = (world.cost - optimum.eta).clamp(min=0)
        cost = {"α = 0, truncated": excess, "α = 0, raw": world.cost, "α = 0, squared excess": excess**2}[self.name]
        return lambda multipliers: sequence_tilt(world.helpful_joint, -multipliers[:, None] * cost, world.beta)


RIVAL = Labels("α = 0, truncated")


def published() -> Iterator[TokenLoss]:
    """The 60 methods of the main comparison."""
    for alpha in (1.0, PUBLISHED_ALPHA):
        for measure in MEASURES:
            for rungs in RUNGS:
                yield from (TokenLoss("published", measure, alpha, rungs, cost) for cost in COSTS)


def insurance() -> Iterator[TokenLoss]:
    """RSA-2 with the expectation and α about the share of reference tokens that the sampler may mix in."""
    for alpha in SMALL_ALPHAS:
        for rungs in RUNGS[:2]:
            yield from (TokenLoss("insurance", "expectation", alpha, rungs, cost) for cost in COSTS)


class Method(Protocol):
    """What the track asks of a method. `decades` are the multipliers that are looked at; `passes` through the tree of
    responses say what it costs, one being a rung of a token-level loss.
    """

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def decades(self) -> tuple[int, int]: ...

    @property
    def passes(self) -> float: ...

    def population(self, world: World, optimum: Optimum) -> Population: ...


@dataclass(frozen=True)
class Match:
    """A method and the rival at equal value, as joints `[N]`. `reached`: that value is the constrained optimum's."""

    multiplier: float
    joint: Tensor
    rival: Tensor
    reached: bool


def at_value(
    world: World, population: Population, target: float, decades: tuple[int, int]
) -> tuple[float, Tensor] | None:
    """The least multiplier at which the value has fallen to `target`, with its joint `[N]`; `None` if it stays above.

    A grid finds the first crossing, and finer grids inside it refine the multiplier. Where the value jumps over the
    target, the two policies on either side are mixed in their logits.
    """
    low, high = decades
    exponents = torch.linspace(low, high, (high - low) * PER_DECADE + 1, dtype=torch.float64)
    for _ in range(1 + REFINEMENTS):
        joints = population(10**exponents)
        fallen = objective(world, joints) <= target
        if not fallen.any():
            return None
        first = int(fallen.to(torch.int64).argmax())
        if first == 0:
            break
        above, below = joints[first - 1], joints[first]
        exponents = torch.linspace(float(exponents[first - 1]), float(exponents[first]), REFINED, dtype=torch.float64)
    if first == 0:
        return float(10 ** exponents[0]), joints[0]
    return float(10 ** exponents[-1]), between(world, above, below, target)


def between(world: World, above: Tensor, below: Tensor, target: float) -> Tensor:  # [N], [N] -> [N]
    """The mixture of two policies' logits whose value is `target`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        value = objective(world, ((1 - share) * above + share * below).log_softmax(-1))
        low, high = (share, high) if value > target else (low, share)
    return ((1 - high) * above + high * below).log_softmax(-1)


def match(world: World, method: Method, optimum: Optimum) -> Match:
    """The method at the optimum's value, or as near above it as its largest multiplier brings it."""
    population = method.population(world, optimum)
    found = at_value(world, population, optimum.value, method.decades)
    reached = found is not None
    if found is None:
        largest = torch.tensor([10.0 ** method.decades[1]], dtype=torch.float64)
        found = float(largest), population(largest)[0]
    value = float(objective(world, found[1]))
    opponent = at_value(world, RIVAL.population(world, optimum), value, RIVAL.decades)
    if opponent is None:
        raise RuntimeError(f"{method.name} has the value {value:.4g}, which α = 0 does not come down to.")
    return Match(*found, opponent[1], reached)
