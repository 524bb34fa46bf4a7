"""Losses and the way from logits to costs, against hand arithmetic."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from trl_rsa.data.harm import HarmScale
from trl_rsa.score_models.losses import grade_loss, graded_label_loss, pair_loss, sign_loss
from trl_rsa.scoring.graded import Readout, combine_heads, expected_cost, grade_probabilities


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_pair_loss():
    """Scores 1 and 3: the difference is 2, and a cost wants the preferred one lower."""
    first, second = torch.tensor(1.0), torch.tensor(3.0)
    assert float(pair_loss(first, second, True)) == pytest.approx(-math.log(sigmoid(2)))
    assert float(pair_loss(first, second, False)) == pytest.approx(-math.log(sigmoid(-2)))


def test_sign_loss():
    """A safe response with cost −2 costs −log σ(2), an unsafe one −log σ(−2)."""
    losses = sign_loss(torch.tensor([-2.0, -2.0]), torch.tensor([False, True]))
    assert losses.tolist() == pytest.approx([-math.log(sigmoid(2)), -math.log(sigmoid(-2))])


# σ(0) = 1/2, σ(log 3) = 3/4, σ(−log 4) = 1/5.
LOGITS = torch.tensor([0.0, math.log(3), -math.log(4)], dtype=torch.float64)
# P(grade > 0) = 1/2, > 1: 1/2 · 3/4 = 3/8, > 2: 3/8 · 1/5 = 3/40.
LAW = [1 / 2, 1 / 8, 3 / 8 - 3 / 40, 3 / 40]


def test_law_over_grades():
    assert grade_probabilities(LOGITS).tolist() == pytest.approx(LAW)


def test_expected_cost():
    """−1/2 + 1/8 + 4 · 3/10 + 10 · 3/40 = 1.575."""
    assert float(expected_cost(LOGITS, HarmScale())) == pytest.approx(1.575)
    assert float(expected_cost(LOGITS, HarmScale())) == pytest.approx(
        sum(p * cost for p, cost in zip(LAW, (-1, 1, 4, 10), strict=True))
    )


@pytest.mark.parametrize("grade", range(4))
def test_grade_loss_is_that_of_the_law(grade):
    assert float(grade_loss(LOGITS, torch.tensor(grade))) == pytest.approx(-math.log(LAW[grade]))


@pytest.mark.parametrize("first_unsafe", [1, 2, 3])
def test_label_of_a_graded_model(first_unsafe):
    """ "Unsafe" has the probability of all unsafe grades together, "safe" that of the others."""
    unsafe = sum(LAW[first_unsafe:])
    values = [float(graded_label_loss(LOGITS, torch.tensor(label), first_unsafe)) for label in (True, False)]
    assert values == pytest.approx([-math.log(unsafe), -math.log(1 - unsafe)])


def test_label_loss_keeps_its_gradient_where_the_law_is_sure():
    """log(1 − P) without cancellation: at P = σ(40)³ the loss of "safe" is about 40 − log 3, and far down about 0."""
    logits = torch.full((3,), 40.0, dtype=torch.float64, requires_grad=True)
    loss = graded_label_loss(logits, torch.tensor(False), 3)
    assert loss.item() == pytest.approx(40 - math.log(3), abs=1e-6)
    loss.backward()
    assert logits.grad.tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    low = torch.full((3,), -40.0, dtype=torch.float64, requires_grad=True)
    graded_label_loss(low, torch.tensor(False), 1).backward()
    assert torch.isfinite(low.grad).all() and float(low.grad.abs().max()) < 1e-12


def test_gradients():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    unsafe, grades = torch.tensor([True, False, True, False, True]), torch.tensor([0, 1, 2, 3, 2])
    assert gradcheck(lambda x: graded_label_loss(x, unsafe, 2), logits)
    assert gradcheck(lambda x: grade_loss(x, grades), logits)
    assert gradcheck(lambda x: expected_cost(x, HarmScale()), logits)


def test_cost_is_bounded_by_the_scale():
    costs = expected_cost(torch.tensor([[-1e4] * 3, [1e4] * 3]), HarmScale())
    assert costs.tolist() == [-1.0, 10.0]


def test_heads_and_pessimism():
    """Heads at 1 and 3: mean 2, standard deviation of the two 1."""
    values = torch.tensor([[1.0, 3.0]])
    assert float(combine_heads(values, 0.5, higher_is_worse=True)) == 2.5
    assert float(combine_heads(values, 0.5, higher_is_worse=False)) == 1.5
    # On the scale: an ensemble of one head that is sure of the worst and one that is sure of none does not leave it.
    logits = torch.tensor([[1e4, 1e4, 1e4, -1e4, -1e4, -1e4]])
    readout = Readout("cost", HarmScale(), heads=2, pessimism=5.0)
    assert readout.per_head(logits).tolist() == [[10.0, -1.0]]
    assert float(readout.scores(logits)) == 10.0
    readout.pessimism = 0.0
    assert float(readout.scores(logits)) == 4.5


def test_readout_survives_its_configuration():
    readout = Readout("cost", HarmScale(("ok", "bad"), (-2, 3)), heads=3, pessimism=0.5)
    again = Readout.from_config(readout.to_config())
    assert (again.objective, again.scale, again.heads, again.pessimism) == ("cost", readout.scale, 3, 0.5)
    assert again.logits == 3
    with pytest.raises(ValueError, match="The field score_model of the model's config"):
        Readout.from_config({"objective": "cost", "harm_scale": {"names": ["a"], "costs": [1]}})
