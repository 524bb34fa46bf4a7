"""JointScheduler: several constraints on one ladder, each with its own multiplier."""

from collections.abc import Mapping
from dataclasses import dataclass

from trl_rsa.ladder.scheduler import Action, ConstraintScheduler, Decision, Observation


@dataclass(frozen=True)
class JointDecision:
    """What to do next, as [`Decision`], with one entry per constraint where that has one number.

    Args:
        delta_multipliers (`dict[str, float]`):
            For a rung: how much each constraint's cost weighs in its labels; 0 where the bound holds already.
        start ([`Observation`]), best ([`Observation`]):
            Models of the ladder. With several constraints their numbers are those of the worst one, in margins beyond
            its budget: `upper_bound` = max over constraints of (bound − budget)/margin.
        unmet (`tuple[str, ...]`):
            Constraints whose bound does not hold in the model of `best`; empty if all are met.
    """

    action: Action
    delta_multipliers: dict[str, float]
    multipliers: dict[str, float]
    rung: int
    fraction: float
    start: Observation
    restore: bool
    best: Observation
    unmet: tuple[str, ...]
    met: bool
    reason: str


class JointScheduler:
    """
    Finds multipliers under which every constraint is met.

    A rung raises the multipliers of the constraints whose bounds do not hold, each by its own scheduler's rule, and
    leaves the others. A walk-back lowers all that the last rung raised, in proportion, and is undertaken only while
    every bound holds by more than its margin: it follows the worst constraint, by false position. So the search stops
    when all bounds hold and one of them is within its margin; other constraints may be overpaid by then.

    Args:
        schedulers (`Mapping[str, ConstraintScheduler]`):
            A scheduler per constraint, by name, none of which has observed anything. Rungs and walk-backs are shared:
            as many as the most generous of them allows.

    Raises:
        ValueError: if there is none, or one has observations already.
    """

    def __init__(self, schedulers: Mapping[str, ConstraintScheduler]):
        if not schedulers:
            raise ValueError("You gave a JointScheduler no constraints, but it needs one at least. Add a scheduler.")
        for name, scheduler in schedulers.items():
            if scheduler.observations:
                raise ValueError(
                    f"You gave a scheduler for {name!r} that has observations already, but the ladder is shared from "
                    "its start. Make a new one."
                )
        self.schedulers = dict(schedulers)
        self._path = self._path_of(list(schedulers.values()))
        self._bounds: list[dict[str, float]] = []
        self._estimates: list[dict[str, float]] = []
        self._multipliers = [dict.fromkeys(schedulers, 0.0)]  # of the model at the top of every rung, and before
        self._decision: JointDecision | None = None

    @staticmethod
    def _path_of(schedulers: list[ConstraintScheduler]) -> ConstraintScheduler:
        """The ladder as one constraint: the only one; or bounds in margins beyond the budget, the worst of them.

        Of several, the multiplier only measures the way along the ladder.
        """
        if len(schedulers) == 1:
            return schedulers[0].fresh()
        return ConstraintScheduler(
            budget=0.0,
            margin=1.0,
            max_rungs=max(scheduler.max_rungs for scheduler in schedulers),
            max_walk_backs=max(scheduler.max_walk_backs for scheduler in schedulers),
            max_growth=2.0,
        )

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The models observed so far, with numbers as in [`JointDecision`]."""
        return self._path.observations

    @property
    def decision(self) -> JointDecision | None:
        """The last decision: what is to be done now. None before the first observation."""
        return self._decision

    def observe(self, *, estimates: Mapping[str, float], upper_bounds: Mapping[str, float]) -> JointDecision:
        """
        Takes in what was measured on the model that came of the last decision, and decides what comes next.

        Args:
            estimates (`Mapping[str, float]`), upper_bounds (`Mapping[str, float]`):
                By the name of the constraint: estimated risk of its cost, and an upper bound of that risk.

        Raises:
            ValueError: if a constraint is missing or unknown, or as [`ConstraintScheduler.observe`].
        """
        for kind, given in (("estimates", estimates), ("upper_bounds", upper_bounds)):
            if set(given) != set(self.schedulers):
                raise ValueError(
                    f"You gave {kind} of {sorted(given)}, but the constraints are {sorted(self.schedulers)}. Give one "
                    "number for each."
                )
        # As each constraint's own scheduler would check them, before anything is taken in.
        checked = {name: self._check(name, estimates[name], upper_bounds[name]) for name in self.schedulers}
        path = self._path.observe(
            estimate=max(self._violation(name, checked[name].estimate) for name in checked),
            upper_bound=max(self._violation(name, checked[name].upper_bound) for name in checked),
        )
        self._estimates.append({name: observation.estimate for name, observation in checked.items()})
        self._bounds.append({name: observation.upper_bound for name, observation in checked.items()})
        start = self._at(path.start.rung, path.start.fraction)
        if path.action == "next_rung":
            self._multipliers.append({name: self._raised(name) for name in self.schedulers})
        after = self._at(path.rung, path.fraction)
        unmet = self._unmet(path.best)
        self._decision = JointDecision(
            action=path.action,
            delta_multipliers={name: after[name] - start[name] for name in after},
            multipliers=after,
            rung=path.rung,
            fraction=path.fraction,
            start=path.start,
            restore=path.restore,
            best=path.best,
            unmet=unmet,
            met=not unmet,
            reason=self._reason(path, unmet),
        )
        return self._decision

    def _check(self, name: str, estimate: float, upper_bound: float) -> Observation:
        probe = ConstraintScheduler(budget=0.0, margin=1.0)
        try:
            return probe.observe(estimate=estimate, upper_bound=upper_bound).start
        except ValueError as error:
            raise ValueError(f"For the constraint {name!r}: {error}") from error

    def _violation(self, name: str, bound: float) -> float:
        """What the path sees of a bound."""
        if len(self.schedulers) == 1:
            return bound
        return (bound - self.schedulers[name].budget) / self.schedulers[name].margin

    def _unmet(self, observation: Observation) -> tuple[str, ...]:
        bounds = self._bounds[observation.number]
        return tuple(name for name in bounds if bounds[name] > self.schedulers[name].budget)

    def _raised(self, name: str) -> float:
        """λ of one constraint after the next rung."""
        scheduler, bounds = self.schedulers[name], [bounds[name] for bounds in self._bounds]
        multipliers = [multipliers[name] for multipliers in self._multipliers]
        if bounds[-1] <= scheduler.budget:
            return multipliers[-1]
        return scheduler.climb(list(zip(multipliers, bounds, strict=True)))

    def _at(self, rung: int, fraction: float) -> dict[str, float]:
        """The multipliers of a model."""
        top = self._multipliers[rung]
        if fraction == 1.0:
            return dict(top)
        before = self._multipliers[rung - 1]
        return {name: before[name] + fraction * (top[name] - before[name]) for name in top}

    def _reason(self, path: Decision, unmet: tuple[str, ...]) -> str:
        if len(self.schedulers) == 1:
            return path.reason
        bounds = ", ".join(
            f"{name} {bound:g} (budget {self.schedulers[name].budget:g})"
            for name, bound in self._bounds[path.best.number].items()
        )
        back = f" Return to the model of observation {path.start.number} first." if path.restore else ""
        if path.action == "next_rung":
            raised = [name for name, bound in self._bounds[-1].items() if bound > self.schedulers[name].budget]
            return f"Above the budget: {', '.join(raised)}. Train a rung. Best bounds so far: {bounds}."
        if path.action == "walk_back":
            return f"All bounds hold by more than their margins, {bounds}: walk back in the last rung.{back}"
        if unmet:
            settle = ""
            if all(self._estimates[path.best.number][name] <= self.schedulers[name].budget for name in unmet):
                settle = (
                    " Its estimates are within the budgets: a new run with more decide prompts (labels, if they are "
                    "audited) would show whether that is so."
                )
            return f"NOT met: {', '.join(unmet)}. Bounds of the best model: {bounds}.{settle}{back}"
        return f"All met: {bounds}.{back}"
