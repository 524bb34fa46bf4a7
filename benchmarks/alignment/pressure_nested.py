"""The method that the paper wanted: rungs whose labels carry the nested CVaR's own gradient.

The nested CVaR V(s) = CVaR_μ of V(s∘z) is Q(s,z) = V(s∘z) under the adversary's density W(s) = Π q/π along the
beginning, where q is the tilted law of each token. Its derivative in the probability of a response is

    G(y) = Σ_t W(s_t)·[(Q(s_t,y_t) − η_t)₊ − E_π(Q(s_t,·) − η_t)₊]/μ,

the same on every response up to a constant per state that no law can move. A rung teaches α = 0 the label G(y) as a
cost: soft labels of all pairs make that a tilt by it. RSA-1 has Q with W = 1, and no (·)₊.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alignment.optimum import Optimum, objective
from benchmarks.alignment.pressure_criteria import NESTED_TAIL
from benchmarks.alignment.pressure_methods import Population
from benchmarks.alignment.tabular import sequence_tilt
from benchmarks.alignment.worlds import World
from trl_rsa.risk import CVaR


DECADES = (-8, 2)  # W may reach μ^−T, so that multipliers are small
ITERATIONS = 200
RUNGS = (5, 16)
CAP = 20.0


def nested_gradient(
    world: World, policy: Tensor, tail: float = NESTED_TAIL, cap: float | None = None
) -> tuple[Tensor, Tensor]:  # [G, S, V] -> [G], [G, N]
    """The nested CVaR of cost and its derivative in the probability of each response."""
    language, value = world.language, world.cost.expand(len(policy), -1)
    measure, gains, densities = CVaR(tail), [], []
    for t in reversed(range(language.length)):
        law = policy[:, language.level(t)]
        q = value.unflatten(-1, (-1, language.vocabulary))
        tilted = measure.tilt(q, law)
        value = (tilted * q).sum(-1)
        eta = torch.where(tilted > 0, q, torch.inf).amin(-1, keepdim=True)  # the atom at the quantile
        excess = (q - eta).clamp(min=0) / tail
        gains.append(excess - (law.exp() * excess).sum(-1, keepdim=True))
        densities.append(tilted / law.exp().clamp(min=torch.finfo(law.dtype).tiny))
    weight, total = value.new_ones(len(policy), 1), value.new_zeros(len(policy), 1)
    for gain, density in zip(reversed(gains), reversed(densities), strict=True):
        total = (total[..., None] + weight[..., None] * gain).flatten(-2)
        weight = (weight[..., None] * density).flatten(-2).clamp(max=math.inf if cap is None else cap)
    return value[:, 0], total


@dataclass(frozen=True)
class NestedRungs:
    """α = 0 rungs on the labels above, each computed under the policy that the rung starts from.

    Where the worst token of every state is likelier than μ the gradient is zero: a rung from the helpful policy may
    have nothing to learn. So they also start `after_half` of the rival's own multiplier, spent on truncated cost.

    Args:
        cap (`float`, *optional*):
            The largest W, as importance weights are capped in practice.
    """

    rungs: int
    after_half: bool = False
    cap: float | None = None
    family: str = "nested"
    decades: tuple[int, int] = DECADES

    @property
    def name(self) -> str:
        start = " after half of the truncated" if self.after_half else ""
        return f"nested labels, {self.rungs} rungs{start}" + (f", W ≤ {self.cap:g}" if self.cap else "")

    @property
    def passes(self) -> float:
        return self.rungs

    def population(self, world: World, optimum: Optimum) -> Population:
        def joints(multipliers: Tensor) -> Tensor:
            spent = optimum.multiplier / 2 if self.after_half else 0.0
            joint = _truncated(world, optimum, spent).expand(len(multipliers), -1)
            for _ in range(self.rungs):
                label = nested_gradient(world, world.language.conditionals(joint), cap=self.cap)[1]
                joint = sequence_tilt(joint, -(multipliers / self.rungs)[:, None] * label, world.beta)
            return joint

        return joints


@dataclass(frozen=True)
class NestedDirect:
    """The nested CVaR minimised directly, as a ceiling: E R − β·KL − λ·V(s₀) by mirror descent from the rival's own
    optimum, best iterate kept. The gradient is of full batches and exact: no rung of finite pairs could do better.
    """

    name: str = "nested CVaR, direct"
    family: str = "nested"
    decades: tuple[int, int] = (-5, 1)
    passes: float = ITERATIONS

    def population(self, world: World, optimum: Optimum) -> Population:
        def joints(multipliers: Tensor) -> Tensor:
            joint = best = optimum.joint.expand(len(multipliers), -1)
            highest = torch.full_like(multipliers, -torch.inf)
            for step in range(ITERATIONS):
                value, label = nested_gradient(world, world.language.conditionals(joint))
                lagrangian = objective(world, joint) - multipliers * value
                better = lagrangian > highest
                highest = torch.where(better, lagrangian, highest)
                best = torch.where(better[:, None], joint, best)
                wanted = sequence_tilt(world.helpful_joint, -multipliers[:, None] * label, world.beta)
                share = 0.2 / (1 + step / 20)
                joint = ((1 - share) * joint + share * wanted).log_softmax(-1)
            return best

        return joints


def _truncated(world: World, optimum: Optimum, multiplier: float) -> Tensor:  # [N]
    excess = (world.cost - optimum.eta).clamp(min=0)
    return sequence_tilt(world.helpful_joint, -multiplier * excess, world.beta)


def nested() -> Iterator[NestedRungs | NestedDirect]:
    """The ways of using the nested CVaR's gradient that are compared."""
    yield from (NestedRungs(rungs) for rungs in RUNGS)
    yield from (NestedRungs(RUNGS[-1], after_half=True, cap=cap) for cap in (None, CAP))
    yield NestedDirect()
