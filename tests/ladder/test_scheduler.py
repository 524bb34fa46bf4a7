"""The scheduler on simulated plants: how many rungs, that it ends, what it pays, and that it resumes."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ladder.plants import MARGIN, PLANTS, Plant, least_multiplier, simulate
from trl_rsa import ConstraintScheduler
from trl_rsa.ladder.joint import JointScheduler
from trl_rsa.ladder.scheduler import RULES


FINITE = st.floats(allow_nan=False, allow_infinity=False)
BOUNDS = st.floats(-10, 10)


def observe(scheduler, bound):
    return scheduler.observe(estimate=bound, upper_bound=bound)


def follow(scheduler, bounds):
    """Decisions on `bounds`, up to the stop."""
    decisions = []
    for bound in bounds:
        decisions.append(observe(scheduler, bound))
        if decisions[-1].action == "stop":
            break
    return decisions


def test_bracket_by_hand():
    """Budget 0, margin 0.5, so the target is −0.25.

    λ=0: bound 3, no slope yet: a rung of initial_delta = 1. λ=1: bound 2, slope −1, so 2.25 further, to 3.25.
    There the bound is −2.25: too low. The line from (1, 2) to (3.25, −2.25) meets −0.25 at the share
    2.25/4.25 = 9/17 of the rung, λ = 1 + 9/17·2.25. Its bound 1 does not hold: back to the model of observation 2.
    That walk-back shrank the bracket to 8/17, by more than half, so the line from (λ, 1) to (3.25, −2.25) is followed:
    the share 1.25/3.25 = 5/13 of what is left, at 9/17 + 5/13·8/17 = 157/221 of the rung.
    """
    scheduler = ConstraintScheduler(budget=0.0, margin=0.5)
    first, second, third, fourth, fifth = (observe(scheduler, bound) for bound in (3.0, 2.0, -2.25, 1.0, -0.5))
    assert (first.action, first.delta_multiplier, first.rung) == ("next_rung", 1.0, 1)
    assert (second.action, second.delta_multiplier, second.multiplier) == ("next_rung", 2.25, 3.25)
    assert not second.met and second.best.number == 1
    assert third.action == "walk_back" and third.met and not third.restore
    assert third.fraction == pytest.approx(9 / 17)
    assert third.delta_multiplier == pytest.approx(-8 / 17 * 2.25)
    assert fourth.action == "walk_back" and fourth.restore and fourth.start.number == fourth.best.number == 2
    assert fourth.fraction == pytest.approx(157 / 221)
    assert fourth.delta_multiplier == pytest.approx(-(1 - 157 / 221) * 2.25)
    assert (fifth.action, fifth.delta_multiplier, fifth.met, fifth.restore) == ("stop", 0.0, True, False)
    assert fifth.best.number == 4 and fifth.multiplier == pytest.approx(1 + 157 / 221 * 2.25)


def test_bisection_where_false_position_is_slow():
    """From (0, 1) to (1, −9), target −0.25: the share 1.25/10 = 0.125. Its bound still fails, by 0.5, so 0.875 of the
    bracket is left, more than half: the middle of 0.125 and 1 comes next, not 0.125 + 0.75/9.5·0.875 ≈ 0.19."""
    scheduler = ConstraintScheduler(budget=0.0, margin=0.5)
    decisions = follow(scheduler, (1.0, -9.0, 0.5))
    assert [decision.fraction for decision in decisions[1:]] == [0.125, 0.5625]


def test_dual_ascent_by_hand():
    """λ_1 = initial_delta = 2; violation 3 at rate 0.5 adds 1.5; then −4 takes 2 from 3.5, but the model before the
    rung is at 2, and a walk-back keeps at least a tenth of the rung: λ = 2 + 0.15."""
    scheduler = ConstraintScheduler(1.0, 0.5, rule="dual_ascent", initial_delta=2.0, learning_rate=0.5)
    first, second, third = (observe(scheduler, bound) for bound in (5.0, 4.0, -3.0))
    assert (first.multiplier, second.multiplier) == (2.0, 3.5)
    assert third.multiplier == pytest.approx(2.15) and third.fraction == pytest.approx(0.1)


def test_log_dual_ascent_by_hand():
    """Safe RLHF's values, λ_init 1 and rate 0.1: violation 3 gives λ = e^{0.3}; then violation −1 gives
    λ = e^{0.3}·exp(−0.1·e^{0.3}), between 1 and e^{0.3}."""
    scheduler = ConstraintScheduler(0.0, 0.5, rule="log_dual_ascent")
    first, second, third = (observe(scheduler, bound) for bound in (4.0, 3.0, -1.0))
    assert first.multiplier == 1.0
    assert second.multiplier == pytest.approx(math.exp(0.3))
    assert third.action == "walk_back"
    assert third.multiplier == pytest.approx(math.exp(0.3 - 0.1 * math.exp(0.3)))


@pytest.mark.parametrize(
    ("plant", "rungs", "walk_backs"),
    [
        ("linear", 3, 0),
        ("convex", 4, 0),
        ("tilted tail", 3, 0),
        ("steep", 2, 4),  # the margin is 1/40 of its fall: it ends feasible, a little below the margin
        ("slow", 6, 0),
        ("delayed", 3, 0),
        ("plateau", 3, 4),
        ("kink", 3, 2),
        ("already feasible", 0, 0),
    ],
)
def test_rungs_needed_with_the_defaults(plant, rungs, walk_backs):
    """At most these many, and never more than 15 % above the least feasible multiplier."""
    end = simulate(ConstraintScheduler(0.0, MARGIN), PLANTS[plant])
    assert end.met and end.bound <= 0.0
    assert end.rungs <= rungs and end.walk_backs <= walk_backs
    assert end.position <= 1.15 * least_multiplier(PLANTS[plant].curve)
    if walk_backs < 4:
        assert end.bound >= -MARGIN or plant == "already feasible"


@pytest.mark.parametrize("seed", range(20))
def test_noisy_plant(seed):
    """Noise of 0.6 margins: at most 5 rungs, believed feasible, and truly within three deviations of feasible."""
    end = simulate(ConstraintScheduler(0.0, MARGIN), PLANTS["noisy"], seed)
    assert end.met and end.rungs <= 5 and end.walk_backs <= 4
    assert end.bound <= 3 * PLANTS["noisy"].noise


@pytest.mark.parametrize("rule", RULES)
def test_already_feasible_pays_nothing(rule):
    decision = observe(ConstraintScheduler(0.0, MARGIN, rule=rule), -50.0)
    assert (decision.action, decision.delta_multiplier, decision.multiplier) == ("stop", 0.0, 0.0)
    assert decision.met and "nothing to pay" in decision.reason


@pytest.mark.parametrize("rule", RULES)
def test_infeasible_ends_with_the_best_model_and_says_so(rule):
    scheduler = ConstraintScheduler(0.0, MARGIN, rule=rule, max_rungs=4)
    decisions = follow(scheduler, (4.0, 3.0, 1.0, 2.0, 2.5))
    assert [decision.action for decision in decisions] == ["next_rung"] * 4 + ["stop"]
    end = decisions[-1]
    assert not end.met and end.restore and end.best.number == end.start.number == 2
    assert end.multiplier == scheduler.observations[2].multiplier
    assert end.reason.startswith("NOT met: after 4 rungs no bound holds.")
    assert "observation 2" in end.reason and "more decide prompts" not in end.reason


def test_infeasible_for_want_of_prompts_says_so():
    scheduler = ConstraintScheduler(0.0, MARGIN, max_rungs=1)
    observe(scheduler, 1.0)
    assert "a new run with more decide prompts" in scheduler.observe(estimate=-0.5, upper_bound=0.25).reason


@pytest.mark.parametrize("joint", [False, True])
def test_unmet_the_least_estimate_is_handed_out_not_the_least_bound(joint):
    """Bounds of 0.704 and 0.721 on 100 prompts differ by noise; the estimates −0.06 and −0.21 do not lie."""
    scheduler = ConstraintScheduler(-0.4, MARGIN, max_rungs=2)
    if joint:
        scheduler = JointScheduler({"cost": scheduler})
    for estimate, bound in ((0.9, 1.4), (-0.06, 0.704), (-0.21, 0.721)):
        if joint:
            end = scheduler.observe(estimates={"cost": estimate}, upper_bounds={"cost": bound})
        else:
            end = scheduler.observe(estimate=estimate, upper_bound=bound)
    assert end.action == "stop" and not end.met and end.best.number == 2 and not end.restore


def test_no_fall_grows_as_far_as_allowed():
    """On flat ground the secant has no zero: λ = 1, 3, 9, 27."""
    scheduler = ConstraintScheduler(0.0, MARGIN, max_growth=3.0, max_rungs=4)
    assert [decision.multiplier for decision in follow(scheduler, (2.0,) * 4)] == [1.0, 3.0, 9.0, 27.0]


def test_a_step_is_bracketed_down_to_a_hundredth_of_a_rung():
    """A cliff at λ = 0.3 leaves nothing within the margin. Bisection needs 7 halvings for 1/100, and the first step
    is a false position: 8."""
    end = simulate(ConstraintScheduler(0.0, MARGIN, max_walk_backs=50), Plant(lambda x: 1.0 if x < 0.3 else -1.0))
    assert end.met and end.walk_backs <= 8
    assert 0.3 <= end.multiplier <= 0.3 + 0.01


@st.composite
def falling_curves(draw):
    """b(λ) = level − Σ drops · a saturating or a linear share of λ."""
    level = draw(st.floats(-1, 5))
    drops = draw(st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 50), st.booleans()), min_size=1, max_size=3))

    def curve(x):
        return level - sum(drop * (-math.expm1(-x / s) if saturates else x / s) for drop, s, saturates in drops)

    return curve


SETTINGS = st.fixed_dictionaries(
    {
        "budget": st.floats(-2, 2),
        "margin": st.floats(0.01, 2),
        "rule": st.sampled_from(RULES),
        "max_rungs": st.integers(1, 8),
        "max_growth": st.floats(1.1, 10),
        "initial_delta": st.floats(0.01, 20),
        "max_walk_backs": st.integers(0, 6),
    }
)


@given(SETTINGS, falling_curves(), st.floats(0, 2), st.floats(0, 0.9), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_always_ends_in_bounded_time(parameters, curve, noise, lag, seed):
    scheduler = ConstraintScheduler(**parameters)
    end = simulate(scheduler, Plant(curve, noise, lag), seed)
    assert end.rungs <= scheduler.max_rungs and end.walk_backs <= scheduler.max_walk_backs
    # What was once found is never lost.
    assert end.met == any(observation.upper_bound <= scheduler.budget for observation in scheduler.observations)


@given(SETTINGS, st.lists(FINITE | BOUNDS, min_size=16, max_size=16))
@settings(max_examples=200, deadline=None)
def test_any_observations_give_sound_decisions(parameters, bounds):
    """Whatever is observed: λ climbs rung by rung within its growth, walk-backs close in, and it stops."""
    scheduler = ConstraintScheduler(**parameters)
    decisions = follow(scheduler, bounds)
    assert decisions[-1].action == "stop"
    for number, decision in enumerate(decisions):
        assert decision.restore == (decision.start.number != number)
        assert decision.multiplier - decision.start.multiplier == decision.delta_multiplier
        assert math.isfinite(decision.multiplier) and decision.reason
    climbing = [decision for decision in decisions if decision.action == "next_rung"]
    for decision in climbing:
        assert decision.delta_multiplier > 0 and decision.fraction == 1.0 and not decision.restore
        if decision.start.multiplier:
            assert decision.multiplier <= decision.start.multiplier * scheduler.max_growth
    brackets = [(0.0, 1.0)]
    for decision in decisions:
        if decision.action == "walk_back":
            assert decision.met and decision.delta_multiplier < 0
            low, high = brackets[-1]
            assert low < decision.fraction < high
            bound = bounds[decisions.index(decision) + 1]
            brackets.append((low, decision.fraction) if bound <= scheduler.budget else (decision.fraction, high))


@given(SETTINGS, falling_curves())
@settings(max_examples=200, deadline=None)
def test_never_pays_more_than_the_growth_above_the_least(parameters, curve):
    """Without noise the last λ is at most max(initial_delta, max_growth·λ*), under every rule."""
    parameters |= {"budget": 0.0}
    scheduler = ConstraintScheduler(**parameters)
    end = simulate(scheduler, Plant(curve))
    if end.met:
        assert end.bound <= 0.0
        least = least_multiplier(curve, largest=1e12)
        assert end.multiplier <= max(scheduler.initial_delta, scheduler.max_growth * least) * (1 + 1e-9)
        if -scheduler.margin <= end.bound or end.multiplier == 0.0 or end.walk_backs == scheduler.max_walk_backs:
            return
        # Neither within the margin nor out of walk-backs: it is within a hundredth of the rung of λ*.
        before, top = (scheduler.observations[rung].multiplier for rung in (end.rungs - 1, end.rungs))
        assert end.multiplier <= (least + 0.01 * (top - before)) * (1 + 1e-9)


@given(st.floats(0.02, 20), st.floats(0.1, 5))
@settings(max_examples=100, deadline=None)
def test_an_overshoot_ends_within_the_margin(scale, depth):
    """A first rung far too long, on a convex curve: with walk-backs enough, the bound ends within the margin, or,
    where the curve falls through the margin in less than that, within a hundredth of the rung."""

    def curve(x):
        return (1 + depth) * math.exp(-x / scale) - depth

    end = simulate(ConstraintScheduler(0.0, MARGIN, initial_delta=50.0, max_walk_backs=20), Plant(curve))
    assert end.met and end.bound <= 0.0
    assert end.bound >= -MARGIN or end.multiplier <= least_multiplier(curve) + 0.01 * 50.0


@given(SETTINGS, st.lists(BOUNDS, min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_resumed_after_any_observation_it_goes_on_alike(parameters, bounds):
    scheduler = ConstraintScheduler(**parameters)
    expected = follow(ConstraintScheduler(**parameters), bounds)
    for number, decision in enumerate(expected):
        assert observe(scheduler, bounds[number]) == decision
        resumed = ConstraintScheduler(**parameters)
        resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict(), allow_nan=False)))
        assert resumed.decision == decision and resumed.observations == scheduler.observations
        assert resumed.state_dict() == scheduler.state_dict()
        scheduler = resumed


DYADIC = st.lists(st.integers(-512, 512).map(lambda k: k / 64), min_size=16, max_size=16)


@given(DYADIC, st.sampled_from([0.125, 8.0]), st.sampled_from([0.25, 4.0]), st.integers(-4, 4))
@settings(max_examples=100, deadline=None)
def test_units_do_not_matter_to_the_bracket(bounds, cost_unit, multiplier_unit, shift):
    """Costs in other units, λ in other units, costs counted from elsewhere: the same decisions, bit by bit (powers of
    two and small shifts of 64ths lose no digit)."""
    plain = follow(ConstraintScheduler(0.0, 0.5, max_rungs=8), bounds)
    moved = ConstraintScheduler(shift * cost_unit, 0.5 * cost_unit, max_rungs=8, initial_delta=multiplier_unit)
    other = follow(moved, [(bound + shift) * cost_unit for bound in bounds])
    assert [(d.action, d.fraction, d.best.number, d.met) for d in plain] == [
        (d.action, d.fraction, d.best.number, d.met) for d in other
    ]
    assert [d.multiplier * multiplier_unit for d in plain] == [d.multiplier for d in other]


@given(SETTINGS, st.lists(st.tuples(BOUNDS, st.floats(0, 5)), min_size=16, max_size=16))
@settings(max_examples=50, deadline=None)
def test_the_search_rests_on_the_bound_alone(parameters, observations):
    plain, other = ConstraintScheduler(**parameters), ConstraintScheduler(**parameters)
    for bound, width in observations:
        one = plain.observe(estimate=bound, upper_bound=bound)
        two = other.observe(estimate=bound - width, upper_bound=bound)
        assert (one.action, one.met) == (two.action, two.met)
        # The estimates have a say only at the end, if no bound holds.
        if one.met or one.action != "stop":
            assert (one.multiplier, one.start.number) == (two.multiplier, two.start.number)
        if one.action == "stop":
            break


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"budget": math.nan}, "You set budget to nan, but it must be a finite number"),
        ({"budget": "0"}, "You set budget to '0', but it must be a finite number"),
        ({"margin": 0}, "You set margin to 0, but it must be positive"),
        ({"margin": math.inf}, "You set margin to inf"),
        ({"rule": "newton"}, "You set rule to 'newton', but there is no such rule. Set one of bracket"),
        ({"max_rungs": 0}, "You set max_rungs to 0, but it must be a whole number of at least 1"),
        ({"max_rungs": 2.5}, "You set max_rungs to 2.5"),
        ({"max_growth": 1.0}, "You set max_growth to 1.0, but the multiplier must be able to grow"),
        ({"max_growth": 1e300}, "could then grow beyond every number"),
        ({"initial_delta": -1}, "You set initial_delta to -1, but it must be positive"),
        ({"max_walk_backs": -1}, "You set max_walk_backs to -1"),
        ({"learning_rate": 0.1}, "the rule 'bracket' has none"),
        ({"rule": "dual_ascent", "learning_rate": 0}, "You set learning_rate to 0, but it must be positive"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError) as error:
        ConstraintScheduler(**{"budget": 0.0, "margin": 0.5} | parameters)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("estimate", "bound", "message"),
    [
        (math.nan, 1.0, "You set estimate to nan"),
        (0.0, math.inf, "You set upper_bound to inf"),
        (None, 1.0, "You set estimate to None"),
        (1.0, 0.5, "You set upper_bound to 0.5, but that is below the estimate 1"),
    ],
)
def test_bad_observations_leave_no_trace(estimate, bound, message):
    scheduler = ConstraintScheduler(0.0, 0.5)
    with pytest.raises(ValueError, match=message):
        scheduler.observe(estimate=estimate, upper_bound=bound)
    assert scheduler.observations == () and scheduler.decision is None


def test_nothing_is_decided_after_the_stop():
    scheduler = ConstraintScheduler(0.0, 0.5)
    observe(scheduler, -1.0)
    with pytest.raises(ValueError, match="has stopped"):
        observe(scheduler, -1.0)


def test_states_that_are_not_its_own():
    scheduler = ConstraintScheduler(0.0, 0.5)
    follow(scheduler, (3.0, 2.0))
    state = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"with margin=0\.5, but this one has margin=0\.25"):
        ConstraintScheduler(0.0, 0.25).load_state_dict(state)
    state["observations"][1]["multiplier"] = 7.0
    fresh = ConstraintScheduler(0.0, 0.5)
    with pytest.raises(ValueError, match="does not reproduce"):
        fresh.load_state_dict(state)
    broken: dict
    for broken in ({}, {"settings": None, "observations": []}, {"settings": {}, "observations": [1]}):
        with pytest.raises(ValueError, match="without settings or observations"):
            fresh.load_state_dict(broken)
    assert fresh.observations == ()


def joint(*margins, **parameters):
    return JointScheduler(
        {name: ConstraintScheduler(0.0, margin, **parameters) for name, margin in zip("abc", margins, strict=False)}
    )


def observe_jointly(scheduler, **bounds):
    return scheduler.observe(estimates=bounds, upper_bounds=bounds)


@given(DYADIC, st.sampled_from(RULES))
@settings(max_examples=100, deadline=None)
def test_one_constraint_alone_is_the_plain_scheduler(bounds, rule):
    plain, alone = follow(ConstraintScheduler(0.0, 0.3, rule=rule), bounds), joint(0.3, rule=rule)
    for decision, bound in zip(plain, bounds, strict=False):
        other = observe_jointly(alone, a=bound)
        for name in ("action", "rung", "fraction", "start", "restore", "best", "met", "reason"):
            assert getattr(other, name) == getattr(decision, name), name
        assert other.multipliers["a"] == decision.multiplier
        assert other.delta_multipliers["a"] == pytest.approx(decision.delta_multiplier)


def test_two_constraints_by_hand():
    """Margins 0.5 (target −0.25) for both, costs a and b.

    Rung 1: only a is above, so b's λ stays 0. It helps a (2 → 1), but b rises to 1: both get a rung, a by its secant
    (1.25 further), b its first, 1. Then both hold by more than the margin, a = −1 and b = −2: the worse, a, goes in
    margins from 2 before the rung to −2, and meets −1/2 at 5/8 of it. There a is within its margin: stop.
    """
    scheduler = joint(0.5, 0.5)
    first = observe_jointly(scheduler, a=2.0, b=-1.0)
    assert first.delta_multipliers == {"a": 1.0, "b": 0.0} and first.unmet == ("a",)
    second = observe_jointly(scheduler, a=1.0, b=1.0)
    assert second.delta_multipliers == {"a": 1.25, "b": 1.0}
    third = observe_jointly(scheduler, a=-1.0, b=-2.0)
    assert third.action == "walk_back" and third.fraction == 0.625
    assert third.delta_multipliers == {"a": pytest.approx(-0.375 * 1.25), "b": pytest.approx(-0.375)}
    end = observe_jointly(scheduler, a=-0.25, b=-1.5)
    assert end.action == "stop" and end.met and end.unmet == ()
    assert end.multipliers == {"a": pytest.approx(1 + 0.625 * 1.25), "b": pytest.approx(0.625)}


def test_a_constraint_left_out_of_a_rung_keeps_its_slope():
    """b: rung 1 takes it from 2 to −0.5, so rung 2 is for a alone; then b is at 1, its λ still 1. Its slope is taken
    to the last *different* λ, from (0, 2) to (1, 1): −1, and the target −0.25 is 1.25 away."""
    scheduler = joint(0.5, 0.5)
    observe_jointly(scheduler, a=8.0, b=2.0)
    assert observe_jointly(scheduler, a=7.0, b=-0.5).delta_multipliers["b"] == 0.0
    assert observe_jointly(scheduler, a=4.0, b=1.0).delta_multipliers["b"] == 1.25


def test_an_infeasible_pair_names_what_is_not_met():
    scheduler = joint(0.5, 0.5, max_rungs=2)
    for bounds in ({"a": 2.0, "b": 4.0}, {"a": -1.0, "b": 1.0}):
        observe_jointly(scheduler, **bounds)
    end = observe_jointly(scheduler, a=-1.0, b=2.0)
    assert end.action == "stop" and not end.met and end.unmet == ("b",)
    assert end.restore and end.best.number == 1 and end.reason.startswith("NOT met: b.")


@given(st.lists(st.tuples(BOUNDS, BOUNDS), min_size=16, max_size=16))
@settings(max_examples=50, deadline=None)
def test_joint_schedulers_end(observations):
    scheduler = joint(0.5, 0.25)
    for number, (a, b) in enumerate(observations):
        decision = observe_jointly(scheduler, a=a, b=b)
        assert number <= 6 + 4 and decision.met == (not decision.unmet)
        if decision.action == "stop":
            return
    raise AssertionError("it never stopped")


def test_what_a_joint_scheduler_refuses():
    with pytest.raises(ValueError, match="no constraints"):
        JointScheduler({})
    used = ConstraintScheduler(0.0, 0.5)
    observe(used, 1.0)
    with pytest.raises(ValueError, match="'a' that has observations already"):
        JointScheduler({"a": used})
    scheduler = joint(0.5, 0.5)
    with pytest.raises(ValueError, match=r"estimates of \['a'\], but the constraints are \['a', 'b'\]"):
        observe_jointly(scheduler, a=1.0)
    with pytest.raises(ValueError, match="For the constraint 'b': You set estimate to nan"):
        observe_jointly(scheduler, a=1.0, b=math.nan)


def test_standard_library_only():
    code = "import sys, trl_rsa.ladder.joint; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
