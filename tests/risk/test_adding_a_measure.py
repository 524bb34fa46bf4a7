"""A new measure is a class and a line in the table of names: CONTRIBUTING.md, "A risk measure".

The measure is half the mean and half the largest loss, which is MeanCVaR with a tail of next to nothing. Ours runs on
the dense path, that one in the fused kernel, and both train the same model.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.risk import RISK_MEASURES, MeanCVaR, RiskMeasure


@dataclass(frozen=True)
class MeanAndWorst:
    """(1 − weight)·E X + weight·max X, with the two methods that any measure has."""

    weight: float = 0.5

    def __call__(self, x: Tensor, log_p: Tensor) -> Tensor:
        return (self.tilt(x, log_p) * x).sum(-1)

    @torch.no_grad()
    def tilt(self, x: Tensor, log_p: Tensor) -> Tensor:
        worst = log_p.masked_fill(x.max(-1, keepdim=True).values - x > 1e-5, -torch.inf).softmax(-1)
        return (1 - self.weight) * log_p.softmax(-1) + self.weight * worst


@pytest.fixture
def with_a_name(monkeypatch):
    monkeypatch.setitem(RISK_MEASURES, "mean_and_worst", (MeanAndWorst, ("weight",)))


def test_its_value_by_hand():
    """Losses 0, 2, 4 with law ½, ¼, ¼: mean 1½, worst 4, half of each 2¾."""
    x, log_p = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, 0.25]).log()
    assert isinstance(MeanAndWorst(), RiskMeasure)
    assert MeanAndWorst()(x, log_p).item() == pytest.approx(2.75)
    assert MeanAndWorst().tilt(x, log_p).tolist() == pytest.approx([0.25, 0.125, 0.625])


def train(model_path, dataset, args, **given):
    """The losses of two steps, and the risk that was logged."""
    trainer = RSATrainer(model=model_path, train_dataset=dataset, args=RSAConfig(**args), **given)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [(entry["loss"], entry["risk/chosen"], entry["risk/rejected"]) for entry in log], trainer


def test_it_trains_as_an_object_and_by_its_name(tiny_model_path, preference_dataset, tiny_args, with_a_name):
    args = tiny_args(max_steps=3, seed=0, loss_type="rsa1")
    expected, _ = train(tiny_model_path, preference_dataset, args, risk_measure=MeanCVaR(tail=1e-30, weight=0.5))
    assert abs(expected[-1][1]) > 1e-3, "after two steps the policy should have left its reference"
    as_object, _ = train(tiny_model_path, preference_dataset, args, risk_measure=MeanAndWorst(0.5))
    named = args | {"risk_measure": "mean_and_worst", "risk_weight": 0.5}
    by_name, trainer = train(tiny_model_path, preference_dataset, named)
    assert trainer.risk_measure == MeanAndWorst(0.5)
    assert by_name == as_object
    assert torch.tensor(as_object) == pytest.approx(torch.tensor(expected), rel=1e-3, abs=1e-4)


def test_a_parameter_that_it_does_not_take_is_refused(tiny_args, with_a_name):
    with pytest.raises(ValueError, match="'mean_and_worst' takes only weight"):
        RSAConfig(**tiny_args(risk_measure="mean_and_worst", risk_theta=1.0))


def test_without_the_line_in_the_table_the_name_does_not_exist(tiny_args):
    with pytest.raises(ValueError, match="'mean_and_worst', which does not exist"):
        RSAConfig(**tiny_args(risk_measure="mean_and_worst"))
