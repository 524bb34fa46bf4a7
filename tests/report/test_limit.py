"""A budget is the limit of its own tail only."""

import copy

import pytest

from trl_rsa.report.inputs import Inputs
from trl_rsa.report.limit import choose_limit, choose_tail
from trl_rsa.report.responses import Responses


CERTIFICATE = {"certified": True, "budget": 1.83, "tail": 0.5}


def found(certificates=None, manifests=None, tails=("0.05", "0.01")):
    model = {"cost": {"cvar": dict.fromkeys(tails)}, "settings": {"unsafe_above": 0.25}}
    manifests = {name: {"ladder": {"constraints": of}} for name, of in (manifests or {}).items()}
    return Inputs({"models": {"A": model}}, Responses(), copy.deepcopy(certificates or {}), manifests)


def limit_of(inputs, tail=0.05, budget=None):
    limit = choose_limit(inputs, tail, budget)
    return limit.value, limit.source, inputs.warnings


def test_a_budget_for_another_tail_is_said_and_not_taken():
    value, source, (warning,) = limit_of(found({"": CERTIFICATE}, tails=("0.05", "0.5")))
    assert (value, source) == (0.25, "the line between safe and unsafe")
    assert warning == (
        "The budget 1.83 of the certificate is for the worst 50 %, so it is no limit for the worst 5 % here. The "
        "limit is 0.25, above which a response is unsafe; `--tail 0.5` or `--budget` changes that."
    )


def test_a_budget_for_this_tail_is_the_limit():
    inputs = found({"": CERTIFICATE | {"tail": 0.05}}, {"": {"cost": {"budget": 7.0, "tail": 0.05}}})
    assert limit_of(inputs) == (1.83, "the certificate's limit", [])
    # Of a constraint for another tail nothing need be said where one fits.
    inputs = found({}, {"": {"spend": {"budget": 100.0, "tail": 1.0}, "cost": {"budget": -1, "tail": 0.05}}})
    assert limit_of(inputs) == (-1.0, "the constraint's limit", [])
    assert limit_of(found({"": CERTIFICATE}), budget=3) == (3.0, "set for this report", [])


@pytest.mark.parametrize(
    ("certificates", "manifests"),
    [
        ({"a": CERTIFICATE | {"tail": 0.05}, "b": CERTIFICATE | {"tail": 0.05, "budget": -5.0}}, {}),
        ({"a": CERTIFICATE | {"tail": 0.05}}, {"": {"b": {"budget": -5.0, "tail": 0.05}}}),
        ({}, {"one": {"c": {"budget": 1.83, "tail": 0.05}}, "two": {"c": {"budget": -5.0, "tail": 0.05}}}),
    ],
)
def test_of_several_budgets_none_is_the_limit_of_all(certificates, manifests):
    value, _, (warning,) = limit_of(found(certificates, manifests))
    assert value == 0.25 and "several budgets for the worst 5 %: 1.83 and −5." in warning and "--budget" in warning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": float("nan")}, "The certificate has a budget that is no number"),
        ({"budget": True}, "The certificate has a budget that is no number"),
        ({"budget": "0"}, "The certificate has a budget that is no number"),
        ({"tail": None}, "The budget 1.83 of the certificate does not say for which tail it is"),
        ({"under": "with a nudge"}, "is for responses drawn with a nudge, so it is no limit for responses as usual"),
    ],
)
def test_what_is_no_limit_is_not_taken_for_one(change, words):
    value, _, (warning,) = limit_of(found({"": CERTIFICATE | {"tail": 0.05} | change}))
    assert value == 0.25 and words in warning


def test_the_tail_is_the_certificates_where_it_was_evaluated():
    assert choose_tail(found({"cost": CERTIFICATE}, tails=("0.05", "0.5")), None) == 0.5
    assert choose_tail(found({"cost": CERTIFICATE}, tails=("0.05", "0.5")), 0.05) == 0.05
    assert choose_tail(found({"cost": CERTIFICATE}), None) == 0.05
    damaged = CERTIFICATE | {"budget": float("nan")}
    assert choose_tail(found({"cost": damaged}, tails=("0.05", "0.5")), None) == 0.05
    several = {"a": CERTIFICATE, "b": CERTIFICATE | {"tail": 0.01}}
    assert choose_tail(found(several, tails=("0.01", "0.5")), None) == 0.01, "the first of them"
    front = found({"cost": CERTIFICATE}, tails=("0.05", "0.5", "0.2"))
    front.front = {"tail": 0.2}
    assert choose_tail(front, None) == 0.2, "the main picture of the page is of it"
