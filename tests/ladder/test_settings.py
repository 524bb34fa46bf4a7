"""RungSettings: what cannot work is said when they are made."""

import pytest

from trl_rsa import RungSettings
from trl_rsa.ladder.rung import rung_arguments
from trl_rsa.risk import Entropic


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"draws": {"test": 2}}, "the prompt sets are train, decide, certify"),
        ({"draws": {"train": 1}}, "a pair is made of two responses to one prompt"),
        ({"draws": {"train": 0}}, "draws=0"),
        ({"rule": "guess"}, "there is no such rule"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"batch_size": 0}, "at least one response"),
        ({"cut": "maybe"}, "kept or dropped"),
        ({"max_rungs": 0}, "max_rungs"),
        ({"sft": -1.0}, "the weight of a loss"),
        ({"ties": 0.5, "soft": False}, "You set ties=0.5 and soft=False"),
        ({"pairs_per_prompt": -1}, "You set pairs_per_prompt=-1"),
        ({"pairs_per_prompt": True}, "You set pairs_per_prompt=True"),
        ({"sampling": {"seed": 3}}, "You set 'seed' in sampling"),
        ({"risk_measure": Entropic(2.0)}, r"Set risk_measure='entropic' and args=\{'risk_theta': 2\}"),
        ({"reward": {"scorer": len, "weight": float("nan")}}, "rewards are summed"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RungSettings(**changes)


def test_draws_have_defaults_by_set():
    settings = RungSettings(draws={"decide": 3})
    assert [settings.sampling_of(split, seed=1).draws for split in ("train", "decide", "certify")] == [4, 3, 1]


def test_the_weight_of_a_likelihood_that_is_not_in_the_loss(tmp_path):
    settings = RungSettings(sft=2.0)
    assert rung_arguments({}, settings, 1.0, tmp_path, "", 0)["loss_weights"] == [1.0, 2.0]
    with pytest.raises(ValueError, match="You set sft=2 for the rungs and loss_type in args"):
        rung_arguments({"loss_type": "rsa1"}, settings, 1.0, tmp_path, "", 0)
