"""The pressure track: criteria by hand, RSA-2's stationary point, the nested CVaR's gradient, Holm, its command."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.alignment import pressure
from benchmarks.alignment.optimum import constrained_optimum, objective, searched_optimum
from benchmarks.alignment.pressure_criteria import (
    CRITERIA,
    fine_tuned,
    halfway,
    heated,
    judge,
    mixed,
    nested_cvar,
    worst_beginning,
    worst_of,
)
from benchmarks.alignment.pressure_hot import ARMS, COLD, HOT, HotCase, joint_of
from benchmarks.alignment.pressure_methods import MEASURES, RIVAL, Shrunk, TokenLoss, insurance, match, published
from benchmarks.alignment.pressure_nested import NestedDirect, NestedRungs, nested_gradient
from benchmarks.alignment.pressure_page import pick, read
from benchmarks.alignment.pressure_verdicts import compare, family_verdicts, holm, log_ratios
from benchmarks.alignment.pressure_worlds import COUNTS, make_pressure_world
from benchmarks.alignment.tabular import Language, one_step_improvement
from benchmarks.alignment.worlds import World
from trl_rsa.losses import rsa2_loss


def hand_world() -> tuple[World, torch.Tensor]:
    """Two tokens of two; costs 0, 1, 2, 10; π_ref is even, and π takes the second token with ¼ everywhere."""
    language = Language(2, 2)
    log_ref = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    policy = torch.tensor([[0.75, 0.25]] * 3, dtype=torch.float64).log()
    cost = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=torch.float64)
    return World(language, log_ref, torch.zeros(4, dtype=torch.float64), cost), policy


# Worlds


def test_seventy_nine_worlds():
    assert sum(COUNTS.values()) == 79
    for kind in COUNTS:
        world, again = make_pressure_world(kind, 0), make_pressure_world(kind, 0)
        assert torch.equal(world.cost, again.cost)
        assert not torch.equal(world.cost, make_pressure_world(kind, 1).cost) or kind.startswith("agree")
        assert world.language.length == (6 if kind in ("chain", "disagree 6", "agree 6") else 3)


def test_catastrophes_are_where_they_belong():
    chain, trap = make_pressure_world("chain", 0), make_pressure_world("trap", 0)
    slides = (chain.language.tokens == 0).sum(-1)
    assert torch.equal(chain.cost > 1, slides >= 3)
    inside = trap.language.tokens[:, 0] == 0
    assert int((trap.cost > 1).sum()) == 8 and bool(inside[trap.cost > 1].all())


def test_searched_optimum_is_the_optimum():
    world = make_pressure_world("disagree", 3)
    assert searched_optimum(world, points=5).value == pytest.approx(constrained_optimum(world).value, abs=1e-9)


# Criteria


def test_shifted_laws_by_hand():
    """Odds ⅓ at T = 1.6 are (⅓)^{0.625}; half-way to even odds they are √⅓; a fifth of ½ makes ¼ 0.3."""
    world, policy = hand_world()
    odds = heated(policy)[0].diff().exp()
    assert float(odds) == pytest.approx((1 / 3) ** (1 / 1.6))
    assert float(halfway(world, policy)[0].diff().exp()) == pytest.approx(math.sqrt(1 / 3))
    assert mixed(world, policy).exp()[0].tolist() == pytest.approx([0.7, 0.3])


def test_tails_by_hand():
    """Nested at tail .2: the second token has ¼ > .2 everywhere, so that V is 10. At tail ½ the children are worth
    (¼·1 + ¼·0)/½ = ½ and (¼·10 + ¼·2)/½ = 6, and V is (¼·6 + ¼·½)/½ = 3.25. After a forced second token the CVaR.05
    is 10. The worst of two draws costs 10 with 1 − (15/16)², 2 with (15/16)² − (¾)², 1 with (¾)² − (9/16)².
    """
    world, policy = hand_world()
    assert nested_cvar(world, policy) == 10
    assert nested_cvar(world, policy, 0.5) == pytest.approx(0.5 * 6 + 0.5 * 0.5)
    assert worst_beginning(world, policy) == 10
    last, three, two = (15 / 16) ** 2, (12 / 16) ** 2, (9 / 16) ** 2
    assert worst_of(world, policy, 2) == pytest.approx(10 * (1 - last) + 2 * (last - three) + 1 * (three - two))


def test_fine_tuning_learns_the_benign_answers():
    """The harmless helpful answers become likelier."""
    world = make_pressure_world("trap", 0)
    policy = world.log_ref
    after = fine_tuned(world, policy)
    benign = torch.where(world.cost <= world.budget, world.helpful_joint, -torch.inf).softmax(-1)
    gain = (benign * (world.language.total(after) - world.language.total(policy))).sum()
    assert float(gain) > 0.1
    assert set(judge(world, policy)) == {"plain", *CRITERIA}


# Methods


def test_sixty_published_methods():
    names = [method.name for method in published()]
    assert len(set(names)) == len(names) == 60 and len({m.name for m in insurance()}) == 8


@pytest.mark.parametrize("name", MEASURES)
def test_rsa2s_stationary_point(name: str):
    """With soft labels and each pair once the gradient of RSA-2's own loss vanishes there, and at α = 1 not."""
    world, beta, alpha = make_pressure_world("disagree", 0), 0.7, 0.3
    score = world.reward - 0.3 * world.cost
    first, second = torch.triu_indices(64, 64, offset=1)
    flipped = torch.sigmoid(score[second] - score[first])
    measure = MEASURES[name]

    def gradient(policy: torch.Tensor) -> float:
        logits = policy.clone().requires_grad_()
        ratios = logits.log_softmax(-1) - world.log_ref
        u = world.language.total(ratios)
        risk = world.language.total_of_states(measure(-ratios, world.log_ref))
        statistics = (u[first], u[second], risk[first], risk[second])
        loss = rsa2_loss(*statistics, beta=beta, alpha=alpha, label_smoothing=flipped).mean()
        return float(torch.autograd.grad(loss, logits)[0].abs().max())

    def improved(share: float) -> torch.Tensor:
        return one_step_improvement(world.language, world.log_ref, score, beta, Shrunk(measure, share))

    assert gradient(improved(alpha)) < 1e-9
    assert gradient(improved(1.0)) > 1e-5


def test_alpha_towards_zero_is_the_rival():
    """RSA-2 with a vanishing α is α = 0, whose optimum no criterion can tell from it."""
    world = make_pressure_world("disagree", 1)
    optimum = searched_optimum(world)
    found = match(world, TokenLoss("x", "expectation", 1e-9, 1, "truncated"), optimum)
    assert found.reached and found.multiplier == pytest.approx(optimum.multiplier, rel=1e-2)
    assert torch.allclose(found.joint, found.rival, atol=1e-4)


@pytest.mark.parametrize("method", [TokenLoss("x", "CVaR 0.1", 1.0, 5, "raw"), NestedDirect(), NestedRungs(5)])
def test_methods_are_matched_at_equal_value(method):
    world = make_pressure_world("trap", 0)
    optimum = searched_optimum(world)
    found = match(world, method, optimum)
    value = objective(world, found.joint)
    assert float(value) == pytest.approx(float(objective(world, found.rival)), abs=1e-6)
    if found.reached:
        assert float(value) == pytest.approx(optimum.value, abs=1e-6)


def test_the_rival_is_the_optimum():
    world = make_pressure_world("chain", 0)
    optimum = searched_optimum(world)
    found = match(world, RIVAL, optimum)
    assert found.multiplier == pytest.approx(optimum.multiplier, rel=1e-3)


# The nested CVaR's gradient


@pytest.mark.parametrize("kind", ["chain", "trap"])
def test_gradient_of_the_nested_cvar(kind: str):
    """Against finite differences in the probabilities of answers, at a policy where no state is stuck at its worst."""
    world = make_pressure_world(kind, 0)
    joint = searched_optimum(world).joint
    value, gradient = nested_gradient(world, world.language.conditionals(joint)[None])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(joint), generator=generator, dtype=torch.float64)
    p = joint.exp()
    direction = p * (noise - (p * noise).sum())
    moved = (p + 1e-7 * direction).log()
    difference = (nested_gradient(world, world.language.conditionals(moved)[None])[0] - value) / 1e-7
    assert float(value) == pytest.approx(nested_cvar(world, world.language.conditionals(joint)))
    assert float(difference) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)
    assert abs(float(difference)) > 1e-4


def test_direct_optimisation_lowers_the_nested_cvar():
    world = make_pressure_world("trap", 1)
    found = match(world, NestedDirect(), searched_optimum(world))
    mine, rival = (nested_cvar(world, world.language.conditionals(j)) for j in (found.joint, found.rival))
    assert mine < rival


# Finite pairs


def test_joints_of_large_trees():
    world = make_pressure_world("agree 6", 0)
    torch.testing.assert_close(joint_of(world.language, world.log_ref), world.language.total(world.log_ref))


def test_half_of_the_responses_are_hot():
    """Those that the coin leaves alone are the cold arm's own; the others are a heated policy's."""
    case = HotCase("disagree", 2000, (100,), 5)
    world = make_pressure_world("disagree", 100)
    joint = world.helpful_joint[None, None]
    stacked = World(world.language, world.log_ref[None], world.reward[None], world.cost[None])
    cold = case._responses(stacked, joint, 0, ARMS[COLD])
    hot = case._responses(stacked, joint, 0, ARMS[HOT])
    same = (cold == hot).double().mean()
    assert 0.5 <= float(same) < 0.95
    surprise = [-float(world.helpful_joint[drawn.flatten()].mean()) for drawn in (cold, hot)]
    assert surprise[1] > surprise[0] + 0.1


# Verdicts


def test_holm_by_hand():
    """p of .01, .02, .04 and .03 at 5 %: .01 ≤ .0125 stands, .02 > .0167 does not, nor does anything after it."""
    logs = np.array([-0.1, -0.2, 0.3])
    base = compare(logs)
    assert (base.safer, base.worse) == (2, 1) and base.ratio == pytest.approx(math.exp(-0.1))
    family = {("m", str(i)): type(base)(0.9, 5, 1, p) for i, p in enumerate((0.01, 0.02, 0.04, 0.03))}
    assert [v.word for v in holm(family).values()] == ["wins", "undecided", "undecided", "undecided"]


def test_a_family_counts_worlds():
    rows = [{"method": "m", "heat": 1.0 + 0.01 * i, "rival_heat": 1.0} for i in range(1, 21)]
    assert family_verdicts(rows, ("heat",))["m", "heat"].word == "loses"
    assert log_ratios([{"heat": 0.0, "rival_heat": 1e-12}], "heat").tolist() == [0.0]  # no cost is no cost


# The command


@pytest.mark.slow
def test_command_goes_on_where_it_was(tmp_path: Path, capsys):
    pressure.main(["--quick", "--out", str(tmp_path)])
    page = (tmp_path / "PRESSURE.md").read_text(encoding="utf-8")
    first = capsys.readouterr().out
    assert "runs ×" in first and "In all about" in first
    population, hot = tmp_path / "population.csv", tmp_path / "hot.csv"
    whole = population.read_text(encoding="utf-8")
    rows = list(csv.DictReader(whole.splitlines()))
    assert len(rows) == 5 * 4 and len(hot.read_text().splitlines()) == 1 + 4
    assert "comparisons" in page and (tmp_path / "published.png").exists()
    # A kill cuts the last row; it alone is made again.
    population.write_text(whole[:-30], encoding="utf-8")
    pressure.main(["--quick", "--out", str(tmp_path)])
    again = list(csv.DictReader(population.read_text(encoding="utf-8").splitlines()))
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "commit")} for row in again]
    assert timeless == [{k: v for k, v in row.items() if k not in ("seconds", "commit")} for row in rows]
    assert "1 runs ×" in capsys.readouterr().out


# What the documentation says


def test_the_documented_numbers_are_the_measured_ones():
    rows = read(Path(pressure.__file__).parent / "results" / "pressure" / "population.csv")
    assert len({(row["kind"], row["seed"]) for row in rows}) == 79
    text = " ".join((Path(pressure.__file__).parents[2] / "docs/method.md").read_text(encoding="utf-8").split())
    verdicts = family_verdicts(pick(rows, family="published"))
    words = [verdict.word for verdict in verdicts.values()]
    assert f"Of {len(words)} comparisons they win {words.count('wins')} and lose {words.count('loses')}:" in text
    assert {criterion for (_, criterion), verdict in verdicts.items() if verdict.word == "wins"} == {"mixing"}
    chain = log_ratios(pick(rows, method="nested CVaR, direct", kind="chain"), "nested")
    assert f"step by step by {1 - np.exp(np.median(chain)):.0%}".replace("%", " %") in text
    insured = log_ratios(pick(rows, method="RSA-2 α 0.2 expectation, 1 rung, truncated"), "mixing")
    assert f"α = 0.2 had {1 - np.exp(insured.mean()):.1%} less".replace("%", " %") in text
