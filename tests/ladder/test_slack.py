"""How far below its budget a ladder ended, in numbers and in one sentence."""

import pytest

from trl_rsa.ladder.slack import Slack, in_words, slack_of


def test_by_hand():
    """Budget 1. Estimates 0.4 and 0.6, bounds 0.9 and 1.25: the last is above it."""
    numbers = dict.fromkeys(("multiplier", "n", "cut", "clipped", "mean_cost", "unsafe_rate", "eta", "violation"), 0)
    found = slack_of(1.0, numbers | {"estimate": 0.4, "upper_bound": 0.9}, {"estimate": 0.6, "bound": 1.25})
    assert [found[name] for name in Slack.__annotations__] == pytest.approx([0.6, 0.1, 0.4, -0.25])
    assert in_words("harm", 1.0, found) == (
        "[ladder] harm: against the budget 1 the cost ended 0.6 below it and its upper bound 0.1 below it; on the "
        "prompts of the certificate 0.4 below and 0.25 above it."
    )
    assert "budget 1 the labelled harm ended 0.6 below" in in_words("harm", 1.0, found, (True, True))
    said = in_words("harm", 1.0, found, (True, False))
    assert "prompts of the certificate the learned cost ended 0.4 below and 0.25 above it." in said
