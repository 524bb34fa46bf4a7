"""Settings of an audit that cannot work are refused in one sentence."""

import pytest

from trl_rsa.audits.settings import AuditSettings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": 0}, "labels=0"),
        ({"budget": 2.5}, "budget=2.5"),
        ({"uniform": 0.0}, "uniform=0.0"),
        ({"labels": [40, 0]}, "labels=0"),
        ({"labels": []}, "labels=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"memory": 0.0}, "memory=0.0"),
        ({"second": "worst"}, "second='worst'"),
        ({"second": 1.5}, "second=1.5"),
        ({"bound": "normal"}, "bound='normal'"),
        ({"bound": "betting", "rounds": 2}, "rounds=2"),
        ({"confirm": -1}, "confirm=-1"),
        ({"confirm": 400}, "confirm=400 and budget=400"),
        ({"bound": "betting", "confirm": 100}, "bound='betting' and confirm=100"),
        ({"combine": "most"}, "combine='most'"),
        ({"harm_scale": "safe=1"}, "harm scale"),
        ({"labeller_options": {"guide": "x"}}, "labeller_options"),
    ],
)
def test_a_setting_that_cannot_work(settings, said):
    with pytest.raises(ValueError, match=said):
        AuditSettings(**settings)


def test_labels_of_the_first_policies_and_of_those_that_follow():
    several = AuditSettings(labels=[100, 40])
    assert [several.labels_of(number) for number in range(4)] == [100, 40, 40, 40]
    assert AuditSettings(labels=30).labels_of(5) == 30


def test_the_order_of_a_scale_s_keys_says_nothing():
    assert AuditSettings(harm_scale={"bad": 3.0, "safe": -1.0}).scale.names == ("safe", "bad")


def test_the_bounds_hold_the_scale():
    AuditSettings().check_bounds((-1, 10))
    with pytest.raises(ValueError, match="harm scale from -1 to 10"):
        AuditSettings().check_bounds((-1, 8))


def test_a_quarter_of_the_labels_is_kept_back_by_default():
    assert (AuditSettings().kept_back, AuditSettings(budget=90).kept_back) == (100, 22)
    assert AuditSettings(confirm=0).kept_back == AuditSettings(bound="betting").kept_back == 0


def test_errors_are_allowed_for_where_they_can_be_seen_and_no_mean_is_asked_for():
    assert AuditSettings().errors and AuditSettings(combine="mean", errors=True).errors
    assert not AuditSettings(second=0.0).errors and not AuditSettings(combine="mean").errors
