"""What prompts can show at best: too few are told, and how many would do."""

import pytest

from trl_rsa import RiskConstraint
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.tails import cvar
from trl_rsa.ladder import feasibility
from trl_rsa.ladder.feasibility import (
    bound_at_best,
    bound_within_the_budget,
    describe_prompts,
    describe_train_prompts,
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


def test_a_policy_one_margin_inside_its_budget(monkeypatch):
    """Margin 0.2: the CVaR of the costs is −0.2 whatever the bounds leave room for, and the bound is above it."""
    for changes in ({}, {"budget": 1.9, "margin": 0.1}, {"budget": -1.9, "margin": 0.05}):
        constraint, seen = make(**changes), []

        def recorded(costs, *arguments, seen=seen, **options):
            seen.append(costs)
            return cvar_upper_bound(costs, *arguments, **options)

        monkeypatch.setattr(feasibility, "cvar_upper_bound", recorded)
        bound, wish = bound_within_the_budget(constraint, 4000), constraint.budget - constraint.allowed_margin
        assert cvar(seen[0], 0.05) == pytest.approx(wish, abs=0.01)
        assert seen[0].min() >= -2.0 and seen[0].max() <= 2.0 + 1e-9
        assert bound > max(wish, bound_at_best(constraint, 4000))


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
        bound_within_the_budget(constraint, enough) <= 0.0 < bound_within_the_budget(constraint, round(0.8 * enough))
    )
    few = describe_prompts(constraint, "decide", enough // 2)
    assert f"above the budget 0; about {enough} prompts would bring it within. Where costs are all or nothing" in few
    assert "within the budget 0. Where" in describe_prompts(constraint, "decide", enough)


def test_a_certificate_is_made_at_the_confidence_of_a_first_attempt():
    """What the sentence calls enough certifies where every response costs the least, and a little less does not."""
    constraint = make()
    least = least_prompts(constraint, split="certify")
    assert least > least_prompts(constraint)
    for n, certified in ((least, True), (round(0.9 * least), False)):
        about = {"tail": 0.05, "bounds": (-2.0, 2.0), "scorer": "len"}
        found = certify([-2.0] * n, 0.0, prompts=[f"p{i}" for i in range(n)], **about)
        assert found.certified == certified == (too_few_prompts(constraint, "certify", n) is None)


def test_a_wish_below_all_costs_is_not_named():
    assert "a policy whose CVaR is 0 would" in describe_prompts(make(bounds=(0.0, 1.0), budget=0.03), "decide", 4000)


def test_a_number_that_nobody_has_is_not_called_impossible():
    few = too_few_prompts(make(bounds=(0.0, 100.0), budget=0.01), "decide", 500)
    assert few.endswith("more than 100,000 would be needed, at the least.")


def test_with_an_audit_the_labels_count():
    """60 labels show nothing of a tail of a twentieth, however many prompts; a bootstrap has no such limit."""
    scale = {"bounds": (-1.0, 10.0), "budget": 2.0}
    audit = AuditSettings(labeller=len, certify_labels=60)
    few = too_few_prompts(make(**scale, audit=audit), "certify", 2000)
    assert few.startswith("60 labels on 2000 certify prompts are too few: even if every label were 'safe'")
    assert few.endswith("Raise certify_labels (`trl-rsa audit plan` says how far), or the budget.")
    assert too_few_prompts(make(**scale, audit=audit), "decide", 60) is None
    assert describe_prompts(make(**scale, audit=audit), "decide", 60) is None
    enough = make(**scale, audit=AuditSettings(labeller=len, certify_labels=1900))
    assert too_few_prompts(enough, "certify", 2000) is None
    assert describe_prompts(enough, "certify", 2000).startswith("1900 labels on 2000 certify prompts: the bound is ")
    betting = make(**scale, audit=AuditSettings(labeller=len, labels=60, bound="betting"))
    assert "60 labels on 2000 decide prompts are too few" in too_few_prompts(betting, "decide", 2000)


def test_few_train_prompts_are_told_what_more_were_good_for():
    assert describe_train_prompts(100).startswith("100 train prompts. Rungs of 768 instead of 192 made models")
    assert describe_train_prompts(768) is None
