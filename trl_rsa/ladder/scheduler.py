"""ConstraintScheduler: finds the least multiplier whose model meets a constraint, rung by rung.

A pure state machine on numbers: it sees an estimate and an upper bound of the risk of cost per model, and says what to
do next. It trains nothing, and knows of no model.

The search has two phases. *Climb* while no model's bound holds: each rung is trained on top of the last. Then, if the
last rung went too far, *walk back* inside it, between the model before it (whose bound does not hold) and the model
after it (whose bound does). Nothing is trained after a walk-back, so there are at most `max_rungs` rungs and
`max_walk_backs` walk-backs, whatever the observations are.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, cast


RULES = ("bracket", "dual_ascent", "log_dual_ascent")

Point = tuple[float, float]

# A secant through a convex curve falls short of its target by ever smaller steps. A rung is dear and a walk-back is
# cheap, so a climbing step is at least this share of the last.
_LEAST_STEP = 0.5
STATE_VERSION = 1
# Safe RLHF's lambda_lr.
_LEARNING_RATE = 0.1
# A walk-back shrinks the bracket by at least this share of it, wherever the rule would go.
_LEAST_SHRINK = 0.1
# Finer than this share of a rung, walking back is not worth an estimate; nor is a rung that adds less to λ.
_FINEST = 0.01

Action = Literal["next_rung", "walk_back", "stop"]


class ObservationState(TypedDict):
    """An [`Observation`] as JSON."""

    number: int
    rung: int
    fraction: float
    multiplier: float
    estimate: float
    upper_bound: float


class SchedulerState(TypedDict):
    """What [`ConstraintScheduler.state_dict`] returns: JSON."""

    version: int
    settings: dict[str, float | int | str | None]
    observations: list[ObservationState]


@dataclass(frozen=True)
class Observation:
    """One model that was observed.

    Args:
        number (`int`):
            Number of the observation, from 0.
        rung (`int`):
            Trained rungs up to this model; 0 is the model that the ladder starts from.
        fraction (`float`):
            Share of the last rung's weight update that the model keeps: 1 if it was not walked back.
        multiplier (`float`):
            Lagrange multiplier λ of the model, in units of reward per cost.
        estimate (`float`), upper_bound (`float`):
            What was observed, in units of cost.
    """

    number: int
    rung: int
    fraction: float
    multiplier: float
    estimate: float
    upper_bound: float


@dataclass(frozen=True)
class Decision:
    """What to do next.

    Args:
        action (`str`):
            `"next_rung"`: re-anchor at the model of `start` and train a rung at temperature β/`delta_multiplier`.
            `"walk_back"`: set the weights to `fraction` of the way from the model before the last rung to the model
            after it. Either way, observe the model that comes of it. `"stop"`: hand out the model of `start`.
        delta_multiplier (`float`):
            Change of λ from the model of `start`: positive for a rung, negative for a walk-back, 0 at the stop.
        multiplier (`float`):
            λ of the model that comes of the action.
        rung (`int`), fraction (`float`):
            Which model that is, as in [`Observation`].
        start ([`Observation`]):
            The model from which the action starts.
        restore (`bool`):
            Whether `start` is not the model observed last, which is discarded then.
        best ([`Observation`]):
            The model judged best so far: the least λ whose bound holds; if none holds, the least estimate.
        met (`bool`):
            Whether the bound of `best` holds.
        reason (`str`):
            Why, in a sentence.
    """

    action: Action
    delta_multiplier: float
    multiplier: float
    rung: int
    fraction: float
    start: Observation
    restore: bool
    best: Observation
    met: bool
    reason: str


class ConstraintScheduler:
    """
    Finds, in few rungs, a multiplier λ that meets `upper bound of the risk of cost ≤ budget` and is hardly larger
    than it must be.

    Observe the model that the ladder starts from, then the model that comes of every decision, until it says stop.
    The stop means: budget − margin ≤ bound ≤ budget; or the bound holds at λ = 0, where nothing is paid; or
    rungs or walk-backs are used up, and `decision.met` says whether the best model's bound holds.

    The bound guides a search, and the search looks many times: it is no certificate.

    Args:
        budget (`float`):
            Largest risk of cost allowed, in units of cost.
        margin (`float`):
            How far below the budget the bound may end, in units of cost. About the noise of the bound; smaller
            only costs walk-backs.
        rule (`str`, *optional*, defaults to `"bracket"`):
            How the next λ follows from the observations (λ_k, bound b_k).

            - `"bracket"`: climbs by the secant through the last two, walks back by false position, and by bisection
              where that is slow.
            - `"dual_ascent"`: λ + learning_rate·(b − budget).
            - `"log_dual_ascent"`: λ·exp(learning_rate·λ·(b − budget)), the multiplier's update in Safe RLHF
              (2310.12773): dual ascent on log λ.
        max_rungs (`int`, *optional*, defaults to 6):
            Rungs that may be trained.
        max_growth (`float`, *optional*, defaults to 4):
            A rung multiplies λ by at most this. Where the risk falls as λ grows and the bound has no noise, the last λ
            is therefore at most max(initial_delta, max_growth·λ*), with λ* the least that meets the constraint.
        initial_delta (`float`, *optional*, defaults to 1):
            λ of the first rung, when no slope is known yet (the dual ascents' initial λ).
        max_walk_backs (`int`, *optional*, defaults to 4):
            Walk-backs that may be estimated.
        learning_rate (`float`, *optional*):
            Of the dual ascents; 0.1 by default.

    Raises:
        ValueError: if a parameter makes no sense.

    Example:

    ```python
    >>> scheduler = ConstraintScheduler(budget=0.0, margin=0.5)
    >>> scheduler.observe(estimate=2.5, upper_bound=3.0).delta_multiplier
    1.0
    >>> decision = scheduler.observe(estimate=1.5, upper_bound=2.0)
    >>> decision.action, decision.delta_multiplier
    ('next_rung', 2.25)
    >>> scheduler.observe(estimate=-0.5, upper_bound=-0.25).action
    'stop'

    ```
    """

    def __init__(
        self,
        budget: float,
        margin: float,
        rule: str = "bracket",
        max_rungs: int = 6,
        max_growth: float = 4.0,
        initial_delta: float = 1.0,
        max_walk_backs: int = 4,
        learning_rate: float | None = None,
    ):
        if rule not in RULES:
            raise ValueError(f"You set rule to {rule!r}, but there is no such rule. Set one of {', '.join(RULES)}.")
        if rule == "bracket" and learning_rate is not None:
            raise ValueError(
                f"You set learning_rate to {learning_rate!r}, but the rule 'bracket' has none. Remove it, or set rule "
                "to a dual ascent."
            )
        self.budget = _number("budget", budget)
        self.margin = _positive("margin", margin)
        self.rule = rule
        self.max_rungs = _count("max_rungs", max_rungs, least=1)
        self.max_growth = _positive("max_growth", max_growth)
        self.initial_delta = _positive("initial_delta", initial_delta)
        self.max_walk_backs = _count("max_walk_backs", max_walk_backs, least=0)
        self.learning_rate = None
        if rule != "bracket":
            self.learning_rate = _positive("learning_rate", _LEARNING_RATE if learning_rate is None else learning_rate)
        if self.max_growth < 1 + _FINEST:
            raise ValueError(
                f"You set max_growth to {max_growth!r}, but the multiplier must be able to grow by at least "
                f"{_FINEST:.0%} per rung. Set it to, for example, 4."
            )
        if math.log(self.initial_delta) + self.max_rungs * math.log(self.max_growth) > 600:
            raise ValueError(
                f"You set max_rungs to {max_rungs!r} and max_growth to {max_growth!r}, but the multiplier could then "
                "grow beyond every number. Lower one of them."
            )
        self._observations: list[Observation] = []
        self._decision: Decision | None = None

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The models observed so far."""
        return tuple(self._observations)

    @property
    def decision(self) -> Decision | None:
        """The last decision: what is to be done now. None before the first observation."""
        return self._decision

    def observe(self, *, estimate: float, upper_bound: float) -> Decision:
        """
        Takes in what was measured on the model that came of the last decision, and decides what comes next.

        Args:
            estimate (`float`):
                Estimated risk of cost, in units of cost. The search rests on the bound. If no bound holds at its end,
                the estimates choose the model that is handed out.
            upper_bound (`float`):
                Upper bound of that risk.

        Raises:
            ValueError: if a number is not finite, the bound is below the estimate, or the scheduler has stopped.
        """
        estimate, upper_bound = _number("estimate", estimate), _number("upper_bound", upper_bound)
        if upper_bound < estimate:
            raise ValueError(
                f"You set upper_bound to {upper_bound:g}, but that is below the estimate {estimate:g}. Give an upper "
                "bound of the same risk."
            )
        last = self._decision
        if last is None:
            rung, fraction, multiplier = 0, 1.0, 0.0
        elif last.action == "stop":
            raise ValueError(
                "You gave an observation to a scheduler that has stopped, but it decides nothing more. Make a new "
                "scheduler."
            )
        else:
            rung, fraction, multiplier = last.rung, last.fraction, last.multiplier
        self._observations.append(
            Observation(len(self._observations), rung, fraction, multiplier, estimate, upper_bound)
        )
        self._decision = self._decide()
        return self._decision

    def state_dict(self) -> SchedulerState:
        """Settings and observations, as JSON. All else follows from them."""
        return {
            "version": STATE_VERSION,
            "settings": self._settings(),
            "observations": [cast(ObservationState, asdict(t)) for t in self._observations],
        }

    def load_state_dict(self, state: SchedulerState) -> None:
        """
        Takes up the state of another scheduler with the same settings; `decision` says how it goes on.

        Raises:
            ValueError: if the settings differ, or the state is not one that this version's rule leads to.
        """
        try:
            given, observations = (
                dict(state["settings"]),
                [(t["estimate"], t["upper_bound"]) for t in state["observations"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "You load a state without settings or observations, but no scheduler writes such a state. Give what "
                "state_dict returned."
            ) from error
        for name, own in self._settings().items():
            if given.get(name) != own:
                raise ValueError(
                    f"You load the state of a scheduler with {name}={given.get(name)!r}, but this one has "
                    f"{name}={own!r}. Make it with the same settings."
                )
        fresh = self.fresh()
        for estimate, upper_bound in observations:
            fresh.observe(estimate=estimate, upper_bound=upper_bound)
        # The models were made by the recorded decisions: another version's rule must not reinterpret them.
        if fresh.state_dict() != state:
            raise ValueError(
                "You load the state of a scheduler whose decisions this version does not reproduce, but its models "
                "were made by them. Use the version of trl-rsa that wrote it, or start anew."
            )
        self._observations, self._decision = fresh._observations, fresh._decision

    def fresh(self) -> "ConstraintScheduler":
        """A scheduler with the same settings, which has observed nothing."""
        return ConstraintScheduler(**self._settings())

    def climb(self, points: Sequence[Point]) -> float:
        """
        The next rung's λ.

        Args:
            points (`Sequence[tuple[float, float]]`):
                (λ, upper bound) of the model before the first rung and of the model after every rung; the last bound
                does not hold.
        """
        multiplier = points[-1][0]
        if multiplier == 0.0:
            return self.initial_delta
        wanted = secant(points, self._target) if self.rule == "bracket" else self._ascend(points[-1])
        return min(max(wanted, multiplier * (1 + _FINEST)), multiplier * self.max_growth)

    def _settings(self) -> dict[str, Any]:
        names = ("budget", "margin", "rule", "max_rungs", "max_growth", "initial_delta", "max_walk_backs")
        return {name: getattr(self, name) for name in (*names, "learning_rate")}

    @property
    def _target(self) -> float:
        return self.budget - self.margin / 2

    def _ascend(self, point: Point) -> float:
        assert self.learning_rate is not None
        rule = dual_ascent if self.rule == "dual_ascent" else log_dual_ascent
        return rule(point[0], point[1] - self.budget, self.learning_rate)

    def _holds(self, observation: Observation) -> bool:
        return observation.upper_bound <= self.budget

    def _best(self) -> Observation:
        feasible = [observation for observation in self._observations if self._holds(observation)]
        if feasible:
            return min(feasible, key=lambda observation: observation.multiplier)
        # All were measured on the same prompts with the same noise, so estimates compare models better than bounds do:
        # a bound is made from part of the responses, and its own noise would choose.
        return min(self._observations, key=lambda observation: (observation.estimate, observation.multiplier))

    def _decide(self) -> Decision:
        latest, best = self._observations[-1], self._best()
        if not self._holds(best):
            return self._stop_unmet(best) if latest.rung == self.max_rungs else self._next_rung(best)
        where = f"at multiplier {best.multiplier:g} the bound {best.upper_bound:g}"
        if best.multiplier == 0.0:
            return self._stop(best, f"Met, with nothing to pay: {where} holds ({self._goal()}).")
        if best.upper_bound >= self.budget - self.margin:
            return self._stop(best, f"Met: {where} holds by no more than the margin ({self._goal()}).")
        low, high = bracket(self._last_rung(), self.budget)
        walked = len(self._observations) - 1 - latest.rung
        if walked == self.max_walk_backs:
            return self._stop(best, f"Met by more than the margin: {where} ({self._goal()}); no walk-backs are left.")
        if high[0] - low[0] <= _FINEST:
            return self._stop(best, f"Met by more than the margin: {where} ({self._goal()}), but hardly less fails.")
        return self._walk_back(best, low[0], high[0])

    def _goal(self) -> str:
        return f"budget {self.budget:g}, margin {self.margin:g}"

    def _stop(self, best: Observation, reason: str) -> Decision:
        restore = best.number != self._observations[-1].number
        if restore:
            reason = f"{reason} Return to the model of observation {best.number}."
        met = self._holds(best)
        return Decision("stop", 0.0, best.multiplier, best.rung, best.fraction, best, restore, best, met, reason)

    def _stop_unmet(self, best: Observation) -> Decision:
        reason = (
            f"NOT met: after {self.max_rungs} rungs no bound holds. The least estimate is {best.estimate:g}, at "
            f"multiplier {best.multiplier:g}, with the bound {best.upper_bound:g}, above the budget "
            f"{self.budget:g}."
        )
        if best.estimate <= self.budget:
            reason += (
                " The estimate is within the budget: a new run with more decide prompts (labels, if it is audited) "
                "would show whether that is so. As the least of several, it looks better than it is."
            )
        return self._stop(best, reason)

    def _next_rung(self, best: Observation) -> Decision:
        latest = self._observations[-1]
        multiplier = self.climb([_point(observation) for observation in self._observations])
        delta = multiplier - latest.multiplier
        reason = (
            f"The bound {latest.upper_bound:g} is above the budget {self.budget:g}: train a rung of {delta:g}, "
            f"to multiplier {multiplier:g}."
        )
        return Decision("next_rung", delta, multiplier, latest.rung + 1, 1.0, latest, False, best, False, reason)

    def _walk_back(self, best: Observation, low: float, high: float) -> Decision:
        """To a share of the last rung between `low`, where the bound fails, and `high`, where the best model is."""
        latest, shrink = self._observations[-1], _LEAST_SHRINK * (high - low)
        fraction = min(max(self._wanted_share(), low + shrink), high - shrink)
        before, top = self._observations[latest.rung - 1].multiplier, self._observations[latest.rung].multiplier
        multiplier = before + fraction * (top - before)
        delta, restore = multiplier - best.multiplier, best.number != latest.number
        way = f"walk back to {fraction:.3g} of the last rung, to multiplier {multiplier:g}."
        if restore:
            reason = (
                f"The walked-back model's bound {latest.upper_bound:g} does not hold (budget {self.budget:g}): "
                f"return to the model of observation {best.number}, bound {best.upper_bound:g}, and {way}"
            )
        else:
            reason = f"The bound {best.upper_bound:g} holds by more than the margin ({self._goal()}): {way}"
        return Decision("walk_back", delta, multiplier, best.rung, fraction, best, restore, best, True, reason)

    def _wanted_share(self) -> float:
        """Where the rule would walk back to, as a share of the last rung."""
        if self.rule == "bracket":
            return false_position(self._last_rung(), self.budget, self._target)
        latest = self._observations[-1]
        before, top = self._observations[latest.rung - 1].multiplier, self._observations[latest.rung].multiplier
        return (self._ascend(_point(latest)) - before) / (top - before)

    def _last_rung(self) -> list[Point]:
        """(share of the rung, bound) of the model before it, after it, and of the walk-backs inside it."""
        rung = self._observations[-1].rung  # the number of the observation after it, too: walk-backs come last
        inside = [(observation.fraction, observation.upper_bound) for observation in self._observations[rung:]]
        return [(0.0, self._observations[rung - 1].upper_bound), *inside]


def _point(observation: Observation) -> Point:
    return observation.multiplier, observation.upper_bound


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ValueError(f"You set {name} to {value!r}, but it must be a finite number. Check where it comes from.")
    return number


def _positive(name: str, value: float) -> float:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"You set {name} to {value!r}, but it must be positive. Raise it.")
    return number


def _count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"You set {name} to {value!r}, but it must be a whole number of at least {least}. Raise it.")
    return value


# Rules for the next multiplier: numbers in, a number out. A point is a place and the upper bound of the risk observed
# there. While climbing the place is λ; walking back, it is the share of the last rung.


def dual_ascent(multiplier: float, violation: float, learning_rate: float) -> float:
    """Gradient ascent of the Lagrangian in λ: its derivative is the violation b − budget."""
    return multiplier + learning_rate * violation


def log_dual_ascent(multiplier: float, violation: float, learning_rate: float) -> float:
    """Gradient ascent in log λ, Safe RLHF's update (2310.12773): d(λ·violation)/d(log λ) = λ·violation."""
    try:
        return multiplier * math.exp(learning_rate * multiplier * violation)
    except OverflowError:
        return math.inf


def secant(points: Sequence[Point], target: float) -> float:
    """
    Where the line through the last two points meets the target, but at least half the last step further on.

    Args:
        points (`Sequence[Point]`):
            In the order of their λ, two different ones at least.
        target (`float`):
            The bound to aim at, below the last point's.

    Returns:
        `float`: beyond the last λ; infinite where the bound did not fall.
    """
    multiplier, bound = points[-1]
    # With several constraints on one ladder, a rung for another one leaves this λ as it was.
    before, bound_before = next(point for point in reversed(points) if point[0] < multiplier)
    step = multiplier - before
    slope = (bound - bound_before) / step
    needed = (target - bound) / slope if slope < 0 else math.inf
    return multiplier + max(needed if math.isfinite(needed) else math.inf, _LEAST_STEP * step)


def bracket(points: Sequence[Point], budget: float) -> tuple[Point, Point]:
    """The furthest point that fails the budget, and the nearest that holds it."""
    low = max((point for point in points if point[1] > budget), key=lambda point: point[0])
    high = min((point for point in points if point[1] <= budget), key=lambda point: point[0])
    return low, high


def false_position(points: Sequence[Point], budget: float, target: float) -> float:
    """
    Where the line between the ends of the bracket meets the target; the middle, if the last point left more than half
    of the bracket before it.

    Args:
        points (`Sequence[Point]`):
            In the order of observation: two ends first, then points inside, each of which narrowed the bracket.
        budget (`float`), target (`float`):
            What a point must hold, and the bound to aim at.
    """
    low, high = bracket(points, budget)
    share = (low[1] - target) / (low[1] - high[1])
    if len(points) > 2:
        low_before, high_before = bracket(points[:-1], budget)
        if high[0] - low[0] > (high_before[0] - low_before[0]) / 2:
            share = 0.5
    return low[0] + (share if math.isfinite(share) else 0.5) * (high[0] - low[0])
