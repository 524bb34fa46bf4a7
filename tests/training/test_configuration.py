"""make_config: what would fail when the training begins is said when the plan is read."""

import pytest

from trl_rsa.risk import CVaR
from trl_rsa.training.configuration import make_config, risk_arguments


ARGS = {"output_dir": "o", "use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lrr": 1e-6}}, "min_lrr"),
        ({"lr_scheduler_kwargs": {"min_lr": 1e-6}}, "'linear' with lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 in the args of stage 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"seed": -1}, "seed=-1"),
        ({"data_seed": 2**32}, "data_seed=4294967296"),
        ({"adam_beta2": 1.5}, "adam_beta2"),
        ({"optim_args": "3x"}, "optim_args='3x' in the args of stage 1, but '3x' is no argument"),
        ({"optim_args": "beta=1,"}, "but '' is no argument"),
        ({"optim": "lomo"}, "optim='lomo' in the args of stage 1, but it is not installed here"),
    ],
)
def test_a_mistake_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_config("stage 1", ARGS | changes)


def test_an_optimizer_that_is_there_is_taken():
    for optim in ("adafactor", "adamw_torch", "sgd"):
        assert make_config("stage 1", ARGS | {"optim": optim, "optim_args": "scale=1, other=x"}).optim == optim


def test_a_scheduler_with_its_own_arguments_is_made():
    config = make_config(
        "stage 1", ARGS | {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}
    )
    assert config.lr_scheduler_kwargs == {"min_lr": 1e-6}


@pytest.mark.parametrize(
    ("measure", "args", "added"),
    [
        (None, {}, {"risk_alpha": 0.0}),
        (None, {"loss_type": "rsa2"}, {"risk_alpha": 0.0}),
        (None, {"risk_theta": 5.0}, {}),
        (None, {"risk_alpha": 0.3}, {}),
        (None, {"loss_type": ["rsa1"]}, {}),
        (None, {"loss_type": "ipo"}, {}),
        ("cvar", {}, {"risk_measure": "cvar"}),
        (CVaR(0.1), {}, {}),
    ],
    ids=str,
)
def test_there_is_no_risk_unless_a_part_of_it_is_named(measure, args, added):
    assert risk_arguments(measure, args) == added
