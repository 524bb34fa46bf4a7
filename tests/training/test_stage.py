"""What is said of a stage that has been trained."""

import pytest

from trl_rsa.training.stage import rise_of


@pytest.mark.parametrize(
    ("losses", "risen"),
    [
        ([0.70, 0.69, 0.70, 0.71, 0.80, 0.85, 0.90, 0.95], True),
        ([0.70, 0.69, 0.68, 0.66, 0.64, 0.60, 0.58, 0.55], False),
        ([0.70, 0.60, 0.75, 0.65, 0.62, 0.78, 0.60, 0.76], False),  # noise
        ([0.70, 0.69, 0.70, 0.71, 0.80, 0.85, float("nan"), float("nan")], True),
        ([0.1, 0.9], False),  # too few to tell
    ],
    ids=["rises", "falls", "noise", "nan", "two"],
)
def test_a_loss_that_rises_is_named(losses, risen):
    said = rise_of(losses)
    assert (said is not None) == risen
    assert not risen or said.startswith("the loss ROSE from 0.695 to ")
