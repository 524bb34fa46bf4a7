"""Measures against numbers that can be counted by hand."""

import numpy as np
import pytest

from trl_rsa.data.harm import HarmScale
from trl_rsa.score_models.evaluate import sign_warning
from trl_rsa.score_models.measures import HeldOut, auc, measure, pair_accuracy, worst_tenth


def test_pair_accuracy():
    """Preferred first. Harm 0 < 1 is right, 2 > 1 wrong, 1 = 1 a half: 1.5 of 3."""
    harm = np.array([0.0, 1.0, 2.0, 1.0])
    assert pair_accuracy(harm, [(0, 1), (2, 1), (3, 1)]) == 0.5
    assert pair_accuracy(harm, []) is None


def test_auc():
    """Unsafe at 3 and 1, safe at 2 and 0: three of the four comparisons are right."""
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])) == 0.75
    assert auc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert auc(np.array([1.0, 2.0]), np.array([True, True])) is None


def test_worst_tenth():
    """Of 40 responses the 4 most severe have the severities 36 … 39; the score has their order reversed."""
    severity = np.arange(40.0)
    harm = severity.copy()
    harm[36:] = harm[36:][::-1]
    found = worst_tenth(harm, severity)
    assert found["rank_correlation_worst_tenth"] == pytest.approx(-1)
    assert found["worst_tenth_responses"] == found["top_tenth_by_score_responses"] == 4
    assert found["rank_correlation"] > 0.9
    # Ties at the border belong to the worst: 20 of one severity are not cut in two, and have no order.
    tied = worst_tenth(harm, np.repeat([0.0, 1.0], 20))
    assert tied["worst_tenth_responses"] == 20 and tied["rank_correlation_worst_tenth"] is None


def held_out(scores):
    return HeldOut(
        scores=scores,
        unsafe=[False, False, True, True],
        grades=[0, 0, 1, 3],
        severities=[0.0, 0.0, 1.0, 3.0],
        pairs=[(0, 2)],
        prompts=3,
    )


def test_measure_of_a_cost():
    found = measure(held_out([-1.0, 0.5, 2.0, 6.0]), "cost", HarmScale())
    assert (found["pair_accuracy"], found["auc"], found["right_side_of_zero"]) == (1.0, 1.0, 0.75)
    assert (found["mean_safe"], found["mean_unsafe"]) == (-0.25, 4.0)
    assert found["rank_correlation_unsafe"] is None  # two are no order
    grades = found["calibration"]["by_grade"]
    assert [row["responses"] for row in grades] == [2, 1, 0, 1]
    assert [row["mean_score"] for row in grades] == [-0.25, 2.0, None, 6.0]
    assert found["calibration"]["by_score"][-1] == {"responses": 1, "mean_score": 6.0, "mean_cost": 10.0}
    assert sign_warning(found, "cost", "here") is None


def test_sign_is_seen():
    found = measure(held_out([1.0, 1.0, 0.0, -1.0]), "cost", None)
    assert found["auc"] == 0.0
    assert sign_warning(found, "cost", "on held-out prompts").startswith(
        "Safe-labelled text scores above unsafe-labelled text on held-out prompts (means 1.000 and -0.500, AUC 0.000)"
    )
    assert sign_warning(found, "reward", "here") is None


def test_nothing_says_where_zero_lies():
    none = [None] * 4
    unlabelled = HeldOut([1.0, 2.0, 3.0, 4.0], none, none, none, [(0, 1)], 4)
    assert "nothing says that 0 parts safe from unsafe" in sign_warning(
        measure(unlabelled, "cost", None), "cost", "on held-out prompts"
    )


def test_a_reward_points_the_other_way():
    """Preferred first: the score is higher, the harm lower."""
    found = measure(held_out([3.0, 2.0, 1.0, 0.0]), "reward", None)
    assert found["pair_accuracy"] == found["auc"] == 1.0
    assert "right_side_of_zero" not in found
