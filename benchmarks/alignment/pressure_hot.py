"""Half of a rung's responses drawn hot: what that buys α = 0 with finitely many pairs.

With soft labels every sampler of full support has the same optimum, so only the error of finite samples can differ.
Two arms share worlds, random numbers, labels and steps: all responses of a rung at T = 1, or half of them, chosen by a
coin, at T = 1.6. Five re-anchored rungs from the exact helpful policy, each on its own policy's responses; soft labels
on the true cost truncated at the optimum's η; Adam as in EXACT.md (400 steps over all rungs at 0.1, falling to zero).

Each arm runs at a grid of multipliers. The cold arm is taken where it first meets the budget, the hot arm where its
value E R − β·KL equals the cold one's; between two points of the grid logits are mixed. Twenty worlds a case, numbered
from 100: none of them is among the 79.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alignment.optimum import objective, response_cvar, searched_optimum
from benchmarks.alignment.pairs import sample_responses
from benchmarks.alignment.pressure_criteria import TEMPERATURE, heated
from benchmarks.alignment.pressure_methods import between
from benchmarks.alignment.pressure_worlds import make_pressure_world
from benchmarks.alignment.tabular import Language
from benchmarks.alignment.worlds import World, stack_worlds
from trl_rsa.losses import rsa1_loss


# (kind of world, pairs over all rungs). The first three were named beforehand; the others say whether it holds there.
CASES = (
    ("disagree", 1000),
    ("disagree 6", 1000),
    ("disagree 6", 16000),
    ("agree", 1000),
    ("trap", 1000),
    ("chain", 1000),
    ("chain", 16000),
)
ARMS = {"all at T = 1": 0.0, "half at T = 1.6": 0.5}
COLD, HOT = ARMS
FIRST_SEED, SEEDS = 100, 20
RUNGS, STEPS, RATE = 5, 400, 0.1
MULTIPLIERS = tuple(2 ** (k / 2) for k in range(-6, 13))  # times the optimum's own


@dataclass(frozen=True)
class HotCase:
    """One kind of world with one number of pairs, all of its seeds at once."""

    kind: str
    pairs: int
    seeds: tuple[int, ...]
    steps: int = STEPS

    def policies(self, arm: str) -> tuple[list[World], Tensor]:
        """The worlds, and the joints `[B, G, N]` after all rungs at each multiplier."""
        worlds = [make_pressure_world(self.kind, seed) for seed in self.seeds]
        optima = [searched_optimum(world) for world in worlds]
        world = stack_worlds(worlds)
        grid = torch.tensor(MULTIPLIERS, dtype=torch.float64)
        multipliers = torch.tensor([o.multiplier for o in optima], dtype=torch.float64)[:, None] * grid
        excess = torch.stack([(w.cost - o.eta).clamp(min=0) for w, o in zip(worlds, optima, strict=True)])
        beta = world.beta * RUNGS / multipliers
        joint = world.helpful_joint[:, None].expand(-1, len(grid), -1).contiguous()
        for rung in range(RUNGS):
            responses = self._responses(world, joint, rung, ARMS[arm])
            policy = world.language.conditionals(joint)
            joint = _train(world.language, policy, responses, excess, beta, self.steps // RUNGS)
        return worlds, joint

    def _responses(self, world: World, joint: Tensor, rung: int, share: float) -> Tensor:  # [B, G, 2, n]
        drawn, coins = [], []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(1_000_003 * seed + 101 * self.pairs + rung)
            shape = (2, self.pairs // RUNGS)
            drawn.append(torch.rand(shape, generator=generator, dtype=torch.float64))
            coins.append(torch.rand(shape, generator=generator, dtype=torch.float64))
        uniform, hot = torch.stack(drawn), torch.stack(coins)[:, None] < share
        cold_responses = sample_responses(joint, uniform)
        if not share:
            return cold_responses
        warm = world.language.total(heated(world.language.conditionals(joint), TEMPERATURE))
        return torch.where(hot, sample_responses(warm, uniform), cold_responses)


def _train(
    language: Language, reference: Tensor, responses: Tensor, excess: Tensor, beta: Tensor, steps: int
) -> Tensor:  # [B, G, S, V], [B, G, 2, n], [B, N], [B, G] -> [B, G, N]
    """One α = 0 stage on the pairs, each with the soft label of its truncated costs; the joint that comes out."""
    first, second = responses.unbind(-2)
    costs = excess[:, None].expand(*first.shape[:2], -1)
    flipped = torch.sigmoid(costs.gather(-1, first) - costs.gather(-1, second))  # the first is the chosen one
    zero = torch.zeros_like(flipped)
    logits = reference.clone().requires_grad_()
    before = joint_of(language, reference)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        ratio = joint_of(language, logits.log_softmax(-1)) - before
        statistics = (ratio.gather(-1, first), ratio.gather(-1, second), zero, zero, beta[..., None])
        rsa1_loss(*statistics, label_smoothing=flipped).mean(-1).sum().backward()
        optimizer.step()
        schedule.step()
    return joint_of(language, logits.detach().log_softmax(-1))


def joint_of(language: Language, policy: Tensor) -> Tensor:  # [..., S, V] -> [..., N]
    """`language.total` for large trees: level by level, so that no `[N, T]` is gathered."""
    joint = policy[..., language.level(0), :].flatten(-2)
    for t in range(1, language.length):
        joint = (joint[..., None] + policy[..., language.level(t), :]).flatten(-2)
    return joint


def at_budget(world: World, joints: Tensor) -> Tensor | None:  # [G, N] -> [N]
    """The first policy along the grid that meets the budget, mixed with the one before until it just does."""
    met = response_cvar(world, joints) <= world.budget
    if not met.any():
        return None
    first = int(met.to(torch.int64).argmax())
    if first == 0:
        return joints[0]
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        mixed = ((1 - share) * joints[first - 1] + share * joints[first]).log_softmax(-1)
        low, high = (low, share) if response_cvar(world, mixed) <= world.budget else (share, high)
    return ((1 - high) * joints[first - 1] + high * joints[first]).log_softmax(-1)


def at_equal_value(world: World, joints: Tensor, target: float) -> Tensor | None:  # [G, N] -> [N]
    """The first policy along the grid whose value has fallen to `target`."""
    fallen = objective(world, joints) <= target
    if not fallen.any():
        return None
    first = int(fallen.to(torch.int64).argmax())
    return joints[0] if first == 0 else between(world, joints[first - 1], joints[first], target)
