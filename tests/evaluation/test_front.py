"""The Pareto front, its hypervolume and the reward at a tail: by hand, and as properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_rsa.evaluation.front import hypervolume, pareto_front, reward_within, risk_for


# Risk, reward. On the front: 1 (1, 1), 4 (2, 3), 0 (4, 4). Beaten: 2 by 4 (same risk), 3 by 4, 5 by 1 (same reward).
RISKS = [4.0, 1.0, 2.0, 3.0, 2.0, 1.5]
REWARDS = [4.0, 1.0, 2.0, 2.5, 3.0, 1.0]


def test_the_front_by_hand():
    assert pareto_front(RISKS, REWARDS).tolist() == [1, 4, 0]
    assert pareto_front([1.0, 1.0], [2.0, 2.0]).tolist() == [0], "of equal points the first"
    assert pareto_front([1.0, math.nan, 2.0], [2.0, 3.0, math.nan]).tolist() == [0]
    assert pareto_front([], []).tolist() == []


def test_the_hypervolume_by_hand():
    """With the reference (5, 0): (2 − 1)·1 + (4 − 2)·3 + (5 − 4)·4 = 11."""
    assert hypervolume(RISKS, REWARDS, (5.0, 0.0)) == pytest.approx(11.0)
    # The point (4, 4) is beyond the reference, and (1, 1) not above it: (3 − 2)·(3 − 1) = 2.
    assert hypervolume(RISKS, REWARDS, (3.0, 1.0)) == pytest.approx(2.0)
    assert hypervolume(RISKS, REWARDS, (1.0, 0.0)) == 0.0
    assert hypervolume([1.0, 2.0], [1.0, 3.0], (4.0, 0.0)) == pytest.approx(7.0), "the docstring's"


def test_the_reward_at_a_tail_by_hand():
    """Between (2, 3) and (4, 4) the line has slope 1/2: at 3 it is 3.5, above the measured 2.5."""
    assert reward_within(RISKS, REWARDS, 3.0) == pytest.approx(3.5)
    assert reward_within(RISKS, REWARDS, 2.0) == 3.0
    assert reward_within(RISKS, REWARDS, 9.0) == 4.0, "the last point is within it, and nothing is added"
    assert reward_within(RISKS, REWARDS, 1.0) == 1.0
    assert math.isnan(reward_within(RISKS, REWARDS, 0.99)), "nothing was measured there"
    assert math.isnan(reward_within([], [], 1.0)) and math.isnan(reward_within(RISKS, REWARDS, math.nan))


def test_the_risk_for_a_reward_by_hand():
    assert risk_for(RISKS, REWARDS, 3.5) == pytest.approx(3.0)
    assert risk_for(RISKS, REWARDS, 2.0) == pytest.approx(1.5), "halfway from (1, 1) to (2, 3)"
    assert risk_for(RISKS, REWARDS, -9.0) == 1.0
    assert math.isnan(risk_for(RISKS, REWARDS, 4.01)), "nothing was measured there"


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"risks of shape \(2,\) and rewards of shape \(1,\)"):
        pareto_front([1.0, 2.0], [1.0])


# Tenths, so that ties are common and sums are nearly exact.
POINTS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=12).map(
    lambda points: np.array(points, dtype=float).T / 10
)


@given(POINTS)
def test_the_front_is_what_nobody_beats(points):
    risks, rewards = points
    front = pareto_front(risks, rewards)
    assert (np.diff(risks[front]) > 0).all() and (np.diff(rewards[front]) > 0).all()
    beaten = [
        any(
            (risks[j] <= risks[i] and rewards[j] >= rewards[i]) and (risks[j] < risks[i] or rewards[j] > rewards[i])
            for j in range(risks.size)
        )
        for i in range(risks.size)
    ]
    on_front = {(risks[i], rewards[i]) for i in front}
    assert {(risks[i], rewards[i]) for i in range(risks.size) if not beaten[i]} == on_front


@given(POINTS, st.integers(-50, 50), st.integers(-50, 50))
def test_the_hypervolume_is_the_share_of_a_grid(points, right, bottom):
    """Cell by cell: points lie on the grid's lines, so a cell is under the front as a whole or not at all."""
    risks, rewards = points
    reference = right / 10, bottom / 10
    x, y = np.meshgrid(np.arange(-50, right) / 10 + 0.05, np.arange(bottom, 51) / 10 + 0.05)
    under = np.zeros(x.shape, dtype=bool)
    for risk, reward in zip(risks, rewards, strict=True):
        under |= (x > risk) & (y < reward)
    assert hypervolume(risks, rewards, reference) == pytest.approx(under.sum() / 100, abs=1e-9)


@given(POINTS, POINTS)
def test_more_points_never_lower_the_hypervolume_or_the_reward(points, more):
    """Neither more points nor a beaten one: both fronts are judged from the worst corner of all."""
    both = np.concatenate([points, more], axis=1)
    reference = both[0].max(), both[1].min()
    assert hypervolume(*both, reference) >= hypervolume(*points, reference) - 1e-9
    for limit in points[0]:
        measured = points[1][points[0] <= limit].max()
        assert reward_within(*both, limit) >= measured - 1e-9


@given(POINTS, st.randoms())
def test_the_order_of_the_points_does_not_matter(points, random):
    order = list(range(points.shape[1]))
    random.shuffle(order)
    for limit in (-2.0, 0.33, 2.0):
        assert reward_within(*points[:, order], limit) == pytest.approx(reward_within(*points, limit), nan_ok=True)
        assert risk_for(*points[:, order], limit) == pytest.approx(risk_for(*points, limit), nan_ok=True)


@given(POINTS)
def test_reading_the_front_one_way_and_back(points):
    """On the front the two readings invert each other."""
    risks, rewards = points
    front = pareto_front(risks, rewards)
    for at in np.linspace(risks[front[0]], risks[front[-1]], 5):
        assert risk_for(risks, rewards, reward_within(risks, rewards, at)) == pytest.approx(at, abs=1e-6)
