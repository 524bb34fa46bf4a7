"""Dual ascent, by hand."""

import pytest

from trl_rsa.training.methods.dual_ascent import DualAscent


def test_the_mean_by_hand():
    """λ = 1, rate .5, budget 1. Costs 2, 4: mean 3, 2 above the budget, λ = 1 + .5·2 = 2. Then −5, −5: the window of 4
    has mean −1, 2 below, λ = 2 − .5·2 = 1. The penalty of a cost of 3 is λ·3."""
    dual = DualAscent(budget=1.0, rate=0.5, window=4)
    assert dual.penalty(3.0) == 3.0
    assert dual.update([2.0, 4.0]) == (3.0, 2.0)
    assert dual.multiplier == 2.0 and dual.penalty(3.0) == 6.0 and dual.penalty(-1.0) == -2.0
    assert dual.update([-5.0, -5.0]) == (-1.0, -2.0)
    assert dual.multiplier == 1.0 and dual.eta == 0.0


def test_cvar_by_hand():
    """tail .5, η = 0, budget 1, rates .5 and .2. Costs −1, 1, 2, 3: E(C − η)₊ = 6/4, so that the form of Rockafellar
    and Uryasev is 0 + 1.5/.5 = 3, 2 above; λ = 1 + .5·2 = 2. P(C > 0) = 3/4, η = 0 − .2·(1 − .75/.5) = .1. The
    penalty of a cost of 1.1 is then 2·(1.1 − .1)/.5 = 4, and that of 0 is nothing."""
    dual = DualAscent(budget=1.0, tail=0.5, rate=0.5, eta_rate=0.2)
    assert dual.update([-1.0, 1.0, 2.0, 3.0]) == (3.0, 2.0)
    assert dual.multiplier == 2.0
    assert dual.eta == pytest.approx(0.1)
    assert dual.penalty(1.1) == pytest.approx(4.0) and dual.penalty(0.0) == 0.0


def test_the_multiplier_stays_in_its_range():
    dual = DualAscent(budget=0.0, multiplier=0.1, rate=1.0, most=2.0)
    dual.update([-3.0])
    assert dual.multiplier == 0.0
    dual.update([20.0])
    assert dual.multiplier == 2.0


def test_the_window_forgets():
    dual = DualAscent(budget=0.0, window=2)
    dual.update([100.0, 1.0])
    assert dual.update([3.0]).estimate == 2.0 and dual.costs == [1.0, 3.0]


def test_eta_ends_at_the_quantile():
    """Of costs 1 … 20 with tail .25 every η in [15, 16) has P(C > η) = .25, where the CVaR is the mean of 16 … 20."""
    dual = DualAscent(budget=0.0, tail=0.25, eta_rate=0.5, multiplier=0.0, most=0.0, window=20)
    costs = [float(cost) for cost in range(1, 21)]
    for _ in range(200):
        numbers = dual.update(costs)
    assert 15.0 <= dual.eta < 16.0
    assert numbers.estimate == pytest.approx(18.0)


def test_the_state_is_all_that_counts():
    one = DualAscent(budget=0.5, tail=0.5, window=3)
    one.update([1.0, 2.0])
    two = DualAscent(budget=0.5, tail=0.5, window=3, multiplier=7.0)
    two.state = one.state
    for costs in ([3.0], [0.1, 0.7]):
        assert one.update(costs) == two.update(costs)
    assert one.state == two.state
