"""What prompts can show at best: too few are told, and how many would do."""

import pytest

from trl_rsa import RiskConstraint
from trl_rsa.evaluation.tails import cvar
from trl_rsa.ladder.feasibility import (
    bound_at_best,
    bound_within_the_budget,
    describe_prompts,
    least_prompts,
    too_few_prompts,
)


def make(**changes):
    settings = {"scorer": len, "prompts": ["p"], "budget": 0.0, "bounds": (-2.0, 2.0), "tail": 0.05}
    return RiskConstraint(**settings | changes)


def test_no_sample_has_a_lower_bound_than_that_of_the_least_cost():
    constraint = make()
    best = bound_at_best(constraint, 400)
    estimate = constraint.estimate([-2.0] * 399 + [-1.0], [f"p{i}" for i in range(400)])
    assert best <= estimate["upper_bound"]
    assert bound_at_best(constraint, 100) > best > bound_at_best(constraint, 1600) > -2.0


def test_the_least_number_of_prompts_is_where_the_budget_can_first_be_met():
    constraint = make()
    least = least_prompts(constraint)
    assert bound_at_best(constraint, least) <= 0.0 < bound_at_best(constraint, round(0.9 * least))
    # Two constraints share the error: more prompts.
    assert least_prompts(constraint, among=2) > least


def test_a_policy_one_margin_inside_its_budget():
    """Margin 0.2: the worst 20 of 400 cost −0.2, so CVaR is −0.2, and the bound is above it."""
    constraint = make()
    assert cvar([-0.2] * 20 + [-2.0] * 380, 0.05) == pytest.approx(-0.2)
    assert bound_within_the_budget(constraint, 400) > max(-0.2, bound_at_best(constraint, 400))


def test_in_words():
    constraint = make()
    least = least_prompts(constraint)
    few = too_few_prompts(constraint, "decide", 20)
    assert few.startswith("20 decide prompts are too few: even if every response cost -2, the bound would be ")
    assert f"about {least} would do" in few
    assert too_few_prompts(constraint, "decide", 2000) is None
    assert "at best; a policy whose CVaR is -0.2 would get about" in describe_prompts(constraint, "certify", 2000)


def test_a_policy_inside_its_budget_that_few_prompts_do_not_show_is_told_how_many_would():
    constraint = make()
    enough = least_prompts(constraint, bound=bound_within_the_budget)
    assert (
        bound_within_the_budget(constraint, enough) <= 0.0 < bound_within_the_budget(constraint, round(0.9 * enough))
    )
    few = describe_prompts(constraint, "decide", enough // 2)
    assert few.endswith(f"above the budget 0; about {enough} prompts would bring it within.")
    assert describe_prompts(constraint, "decide", enough).endswith("within the budget 0.")
