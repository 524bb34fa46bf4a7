"""ConstraintScheduler: finds the least multiplier whose model meets a constraint, rung by rung.

A pure state machine on numbers: it sees an estimate and an upper bound of the risk of cost per model, and says what to
do next. It trains nothing, and knows of no model.

The search has two phases. *Climb* while no model's bound holds: each rung is trained on top of the last. Then, if the
last rung went too far, *walk back* inside it, between the model before it (whose bound does not hold) and the model
after it (whose bound does). Nothing is trained after a walk-back, so there are at most `max_rungs` rungs and
`max_walk_backs` walk-backs, whatever the observations are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trl_rsa.ladder.decision import Decision, Trial
from trl_rsa.ladder.rules import RULES, Point, bracket, dual_ascent, false_position, log_dual_ascent, secant


STATE_VERSION = 1
# Safe RLHF's lambda_lr.
_LEARNING_RATE = 0.1
# A walk-back shrinks the bracket by at least this share of it, wherever the rule would go.
_LEAST_SHRINK = 0.1
# Finer than this share of a rung, walking back is not worth an estimate; nor is a rung that adds less to λ.
_FINEST = 0.01


class ConstraintScheduler:
    """
    Finds, in few rungs, a multiplier λ that meets `upper bound of the risk of cost ≤ threshold` and is hardly larger
    than it must be.

    Observe the model that the ladder starts from, then the model that comes of every decision, until it says stop.
    The stop means: threshold − margin ≤ bound ≤ threshold; or the bound holds at λ = 0, where nothing is paid; or
    rungs or walk-backs are used up, and `decision.met` says whether the best model's bound holds.

    The bound guides a search, and the search looks many times: it is no certificate.

    Args:
        threshold (`float`):
            Largest risk of cost allowed, in units of cost.
        margin (`float`):
            How far below the threshold the bound may end, in units of cost. About the noise of the bound; smaller
            only costs walk-backs.
        rule (`str`, *optional*, defaults to `"bracket"`):
            How the next λ follows from the observations (λ_k, bound b_k).

            - `"bracket"`: climbs by the secant through the last two, walks back by false position, and by bisection
              where that is slow.
            - `"dual_ascent"`: λ + learning_rate·(b − threshold).
            - `"log_dual_ascent"`: λ·exp(learning_rate·λ·(b − threshold)), the multiplier's update in Safe RLHF
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
    >>> scheduler = ConstraintScheduler(threshold=0.0, margin=0.5)
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
        threshold: float,
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
        self.threshold = _number("threshold", threshold)
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
        self._trials: list[Trial] = []
        self._decision: Decision | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The models observed so far."""
        return tuple(self._trials)

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
        self._trials.append(Trial(len(self._trials), rung, fraction, multiplier, estimate, upper_bound))
        self._decision = self._decide()
        return self._decision

    def state_dict(self) -> dict[str, Any]:
        """Settings and observations, as JSON. All else follows from them."""
        return {"version": STATE_VERSION, "settings": self._settings(), "trials": [asdict(t) for t in self._trials]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Takes up the state of another scheduler with the same settings; `decision` says how it goes on.

        Raises:
            ValueError: if the settings differ, or the state is not one that this version's rule leads to.
        """
        try:
            given, trials = dict(state["settings"]), [(t["estimate"], t["upper_bound"]) for t in state["trials"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "You load a state without settings or trials, but no scheduler writes such a state. Give what "
                "state_dict returned."
            ) from error
        for name, own in self._settings().items():
            if given.get(name) != own:
                raise ValueError(
                    f"You load the state of a scheduler with {name}={given.get(name)!r}, but this one has "
                    f"{name}={own!r}. Make it with the same settings."
                )
        fresh = self.fresh()
        for estimate, upper_bound in trials:
            fresh.observe(estimate=estimate, upper_bound=upper_bound)
        # The models were made by the recorded decisions: another version's rule must not reinterpret them.
        if fresh.state_dict() != state:
            raise ValueError(
                "You load the state of a scheduler whose decisions this version does not reproduce, but its models "
                "were made by them. Use the version of trl-rsa that wrote it, or start anew."
            )
        self._trials, self._decision = fresh._trials, fresh._decision

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
        names = ("threshold", "margin", "rule", "max_rungs", "max_growth", "initial_delta", "max_walk_backs")
        return {name: getattr(self, name) for name in (*names, "learning_rate")}

    @property
    def _target(self) -> float:
        return self.threshold - self.margin / 2

    def _ascend(self, point: Point) -> float:
        assert self.learning_rate is not None
        rule = dual_ascent if self.rule == "dual_ascent" else log_dual_ascent
        return rule(point[0], point[1] - self.threshold, self.learning_rate)

    def _holds(self, trial: Trial) -> bool:
        return trial.upper_bound <= self.threshold

    def _best(self) -> Trial:
        feasible = [trial for trial in self._trials if self._holds(trial)]
        if feasible:
            return min(feasible, key=lambda trial: trial.multiplier)
        # All were measured on the same prompts with the same noise, so estimates compare models better than bounds do:
        # a bound is made from part of the responses, and its own noise would choose.
        return min(self._trials, key=lambda trial: (trial.estimate, trial.multiplier))

    def _decide(self) -> Decision:
        latest, best = self._trials[-1], self._best()
        if not self._holds(best):
            return self._stop_unmet(best) if latest.rung == self.max_rungs else self._next_rung(best)
        where = f"at multiplier {best.multiplier:g} the bound {best.upper_bound:g}"
        if best.multiplier == 0.0:
            return self._stop(best, f"Met, with nothing to pay: {where} holds ({self._goal()}).")
        if best.upper_bound >= self.threshold - self.margin:
            return self._stop(best, f"Met: {where} holds by no more than the margin ({self._goal()}).")
        low, high = bracket(self._last_rung(), self.threshold)
        walked = len(self._trials) - 1 - latest.rung
        if walked == self.max_walk_backs:
            return self._stop(best, f"Met by more than the margin: {where} ({self._goal()}); no walk-backs are left.")
        if high[0] - low[0] <= _FINEST:
            return self._stop(best, f"Met by more than the margin: {where} ({self._goal()}), but hardly less fails.")
        return self._walk_back(best, low[0], high[0])

    def _goal(self) -> str:
        return f"threshold {self.threshold:g}, margin {self.margin:g}"

    def _stop(self, best: Trial, reason: str) -> Decision:
        restore = best.number != self._trials[-1].number
        if restore:
            reason = f"{reason} Return to the model of observation {best.number}."
        met = self._holds(best)
        return Decision("stop", 0.0, best.multiplier, best.rung, best.fraction, best, restore, best, met, reason)

    def _stop_unmet(self, best: Trial) -> Decision:
        reason = (
            f"NOT met: after {self.max_rungs} rungs no bound holds. The least estimate is {best.estimate:g}, at "
            f"multiplier {best.multiplier:g}, with the bound {best.upper_bound:g}, above the threshold "
            f"{self.threshold:g}."
        )
        if best.estimate <= self.threshold:
            reason += " The estimate is within the budget: more decide prompts would settle it."
        return self._stop(best, reason)

    def _next_rung(self, best: Trial) -> Decision:
        latest = self._trials[-1]
        multiplier = self.climb([_point(trial) for trial in self._trials])
        delta = multiplier - latest.multiplier
        reason = (
            f"The bound {latest.upper_bound:g} is above the threshold {self.threshold:g}: train a rung of {delta:g}, "
            f"to multiplier {multiplier:g}."
        )
        return Decision("next_rung", delta, multiplier, latest.rung + 1, 1.0, latest, False, best, False, reason)

    def _walk_back(self, best: Trial, low: float, high: float) -> Decision:
        """To a share of the last rung between `low`, where the bound fails, and `high`, where the best model is."""
        latest, shrink = self._trials[-1], _LEAST_SHRINK * (high - low)
        fraction = min(max(self._wanted_share(), low + shrink), high - shrink)
        before, top = self._trials[latest.rung - 1].multiplier, self._trials[latest.rung].multiplier
        multiplier = before + fraction * (top - before)
        delta, restore = multiplier - best.multiplier, best.number != latest.number
        way = f"walk back to {fraction:.3g} of the last rung, to multiplier {multiplier:g}."
        if restore:
            reason = (
                f"The walked-back model's bound {latest.upper_bound:g} does not hold (threshold {self.threshold:g}): "
                f"return to the model of observation {best.number}, bound {best.upper_bound:g}, and {way}"
            )
        else:
            reason = f"The bound {best.upper_bound:g} holds by more than the margin ({self._goal()}): {way}"
        return Decision("walk_back", delta, multiplier, best.rung, fraction, best, restore, best, True, reason)

    def _wanted_share(self) -> float:
        """Where the rule would walk back to, as a share of the last rung."""
        if self.rule == "bracket":
            return false_position(self._last_rung(), self.threshold, self._target)
        latest = self._trials[-1]
        before, top = self._trials[latest.rung - 1].multiplier, self._trials[latest.rung].multiplier
        return (self._ascend(_point(latest)) - before) / (top - before)

    def _last_rung(self) -> list[Point]:
        """(share of the rung, bound) of the model before it, after it, and of the walk-backs inside it."""
        rung = self._trials[-1].rung  # the number of the observation after it, too: walk-backs come last
        inside = [(trial.fraction, trial.upper_bound) for trial in self._trials[rung:]]
        return [(0.0, self._trials[rung - 1].upper_bound), *inside]


def _point(trial: Trial) -> Point:
    return trial.multiplier, trial.upper_bound


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
