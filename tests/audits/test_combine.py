"""Several labels of one response."""

import pytest

from trl_rsa.audits.combine import agreement, combined_cost, wanted
from trl_rsa.data.harm import HarmScale


SCALE = HarmScale()  # −1, 1, 4, 10


@pytest.mark.parametrize(
    ("grades", "median", "mean"), [([3], 10, 10), ([0, 3], 10, 4.5), ([0, 3, 0], -1, 8 / 3), ([0, 1, 3], 1, 10 / 3)]
)
def test_median_and_mean(grades, median, mean):
    """Of −1 and 10: the worse, or 4.5."""
    assert combined_cost(grades, SCALE, "median") == median
    assert combined_cost(grades, SCALE, "mean") == pytest.approx(mean)


def test_a_share_of_second_labels_is_drawn_by_key_and_seed():
    keys = [f"key {i}" for i in range(2000)]
    twice = [wanted(key, [0], SCALE, 0.2, seed=1) == 2 for key in keys]
    assert 0.17 < sum(twice) / len(keys) < 0.23
    assert twice == [wanted(key, [3], SCALE, 0.2, seed=1) == 2 for key in keys], "whatever the label is"
    assert twice != [wanted(key, [0], SCALE, 0.2, seed=2) == 2 for key in keys]
    assert all(wanted(key, [0], SCALE, 0.0, seed=1) == 1 for key in keys)


def test_two_that_differ_ask_for_a_third_and_no_more():
    assert [wanted("k", grades, SCALE, "unsafe", 0) for grades in ([], [0], [1], [1, 1], [1, 0], [1, 0, 2])] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]


def test_a_second_label_from_a_grade_on():
    assert [wanted("k", [grade], SCALE, "moderate", 0) for grade in range(4)] == [1, 1, 2, 2]


def test_agreement_counts_responses_with_several_labels():
    assert agreement({"a": [0], "b": [1, 1], "c": [1, 0], "d": [2, 2, 0]}) == {"several": 3, "disagreed": 2}
