"""RungSettings: what cannot work is said when they are made."""

import pytest

from trl_rsa import RungSettings


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
        ({"reward": {"scorer": len, "weight": float("nan")}}, "rewards are summed"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RungSettings(**changes)


def test_draws_have_defaults_by_set():
    settings = RungSettings(draws={"decide": 3})
    assert [settings.sampling_of(split, seed=1).draws for split in ("train", "decide", "certify")] == [4, 3, 1]
