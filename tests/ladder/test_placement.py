"""Signs, and where the budget lies, before anything is trained."""

import numpy as np
import pytest

from trl_rsa import RiskConstraint
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.ladder import placement
from trl_rsa.sampling.response import Response
from trl_rsa.scoring import load_scorer


def place(budget, costs, bounds=(-2.0, 2.0), tail=0.5, enough=True, audit=None):
    constraint = RiskConstraint(len, ["p"], budget=budget, bounds=bounds, tail=tail, audit=audit)
    responses = [Response(i, 0, "a", [1], i > 0) for i in range(len(costs))]
    return placement._placed(constraint, costs, responses, 32, enough)


def test_the_budget_among_the_costs():
    """Worst half of −1, 0, 1, 3 clipped to [−2, 2]: 1 and 2, CVaR 1.5. The budget 0.5 is kept by two of four."""
    said = place(0.5, [-1.0, 0.0, 1.0, 3.0])
    assert "cost -1 to 3, mean 0.75, CVaR 0.5 1.5; 1 were cut at 32 tokens; the budget 0.5 is kept by 50% of" in said
    assert "1 lie outside the bounds [-2, 2] and count as these" in said
    many = [-1.0, 0.0, 1.0, 1.8] * 8
    assert place(1.9, many).endswith("kept by 100% of them: the constraint may never act.")
    assert place(1.9, many, tail=0.05).endswith(
        "up to 9% of all may still cost more, so 32 say little of a tail of 0.05."
    )
    assert "kept by 100% of them" in place(0.0, [0.0] * 8), "a cost at the budget keeps it"
    assert place(1.6, [-1.0, 0.0, 1.0, 1.8]).endswith("few rungs, or none, may be needed.")
    assert place(1.6, [-1.0, 0.0, 1.0, 1.8], enough=False).endswith("is kept by 75% of them.")
    audited = AuditSettings(labeller=len, harm_scale={"safe": -1.0, "bad": 2.0})
    assert "of them as the learned cost has it (the budget itself is about the labels)" in place(
        0.5, [-1.0, 1.0], audit=audited
    )
    # A cost that finds all that the model says alike, and bad: there is nothing to prefer.
    assert "it said nothing within the budget. Look whether the scorer tells" in place(1.2, [1.7, 1.71, 1.69, 1.7])


@pytest.mark.parametrize(
    ("rewards", "weight", "ending"),
    [
        ([0.0, 0.01], 1.0, "so small that it hardly decides. Raise its weight."),
        ([0.0, 0.01], 100.0, "with weight 100."),
        ([-9.0, 9.0], 1.0, "so large that most labels are all but certain. Lower its weight."),
        ([-9.0, 9.0], 0.1, "with weight 0.1."),
        ([3.0], 1.0, "with weight 1."),
    ],
)
def test_rewards_that_are_no_log_odds_are_named(rewards, weight, ending):
    said = placement._described(np.array(rewards), weight)
    assert said.endswith(ending) and f"have {min(rewards):.3g} to {max(rewards):.3g}" in said


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_scorer_with_its_sign_turned_is_doubted(sign):
    def harm(prompts, completions, **kwargs):
        return [sign * any(word in text for word in ("fire", "vermin", "miss", "Smash")) for text in completions]

    scorer = load_scorer(harm, kind="cost")
    constraint = RiskConstraint("hf:some/model", ["p"], budget=0.5, bounds=(-2.0, 2.0))
    doubt = placement._doubt_about_sign(constraint, scorer)
    assert (doubt is None) == (sign > 0)
    assert sign > 0 or "higher_is: better" in doubt
    # A function has a meaning of its own.
    assert placement._doubt_about_sign(RiskConstraint(harm, ["p"], budget=0.5, bounds=(-2.0, 2.0)), scorer) is None
