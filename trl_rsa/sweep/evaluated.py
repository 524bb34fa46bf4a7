"""The evaluated points of sweeps, read for one page: refused where they cannot stand beside each other."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trl_rsa.evaluation.front_measures import Spot
from trl_rsa.storage.names import METRICS, RECORDS
from trl_rsa.storage.provenance import differences
from trl_rsa.storage.records import ReadReport, Record, read_records
from trl_rsa.sweep.files import EVALUATION, SweepFile, SweepPoint, evaluated_with, read_sweep


@dataclass(frozen=True)
class EvaluatedPoint:
    """A point that was evaluated: its method, what sweep.json says of it, its name on the page, its evaluation, and
    the tail that its budget is about, if it has one."""

    method: str
    point: SweepPoint
    name: str
    evaluation: Path
    budget_tail: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """What its responses and scores were made with, but for the model.

        Raises:
            ValueError: if that is not there.
        """
        found = evaluated_with(self.evaluation)
        if found is None:
            missing = self.evaluation / "evaluation.json"
            raise ValueError(
                f"You ask for a page with {self.name}, but there is no {missing}. Remove that folder if it is there, "
                "and start its sweep again with the same arguments: it evaluates this point again."
            )
        return found

    def records(self) -> Iterator[Record]:
        """
        Raises:
            ValueError: if lines are damaged, or some are missing: the page would be about the others only.
        """
        path, report = self.evaluation / RECORDS, ReadReport()
        start = "start its sweep again with the same arguments: it evaluates this point again."
        if not path.is_file():
            raise ValueError(f"You ask for a page with {self.name}, but there is no {path}. To mend it, {start}")
        again = f"Remove that file, and {start}"
        # A response without a score is no damage: evaluate writes null there.
        yield from read_records(path, report, scores=())
        if report.problems:
            n = report.problems.total()
            raise ValueError(
                f"You ask for a page with {self.name}, but {path} has {n} damaged line{'s' if n > 1 else ''} "
                f"({report.examples[0]}). {again}"
            )
        settings = self.settings
        asked = settings["prompts"]["n"] * settings["sampling"]["draws"]
        if report.read < asked:
            raise ValueError(
                f"You ask for a page with {self.name}, but {path} has {report.read} of its {asked} records. {again}"
            )

    def spot(self, tail: float) -> Spot:
        """On a front at `tail`, where the budget of another tail is none."""
        is_budget = self.budget_tail is not None and same_tail(self.budget_tail, tail)
        budget = self.point.get("budget") if is_budget else None
        return Spot(self.name, self.point["settings"], budget, self.point.get("met"))


class EvaluatedSweeps:
    """
    The points of sweeps that were evaluated, in order.

    Args:
        folders (`Sequence[Path]`):
            Output folders of sweeps.
        names (`Sequence[str]`, *optional*):
            Names of the methods, one per folder; by default those in the sweep.json files.

    Attributes:
        points (`list[EvaluatedPoint]`): Those that are complete.
        left_out (`list[str]`): Names of the others.

    Raises:
        ValueError: if no point was evaluated, two sweeps have one name, or points were not evaluated alike.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[str] = ()) -> None:
        self.folders, self.sweeps = list(folders), [read_sweep(folder) for folder in folders]
        self.names = list(names) or [sweep["name"] for sweep in self.sweeps]
        self._check_names()
        every = [
            self._point(name, sweep, folder, point)
            for name, sweep, folder in zip(self.names, self.sweeps, self.folders, strict=True)
            for point in sweep["points"]
        ]
        self.points = [one for one in every if one.point["status"] == "complete"]
        self.left_out = [one.name for one in every if one.point["status"] != "complete"]
        if not self.points:
            raise ValueError("You ask for a page, but no point has been evaluated. Run the sweep first.")
        self._check_alike()

    @classmethod
    def read(cls, sweeps: Sequence[str | Path], names: Sequence[str] = ()) -> Self:
        return cls([Path(sweep) for sweep in sweeps], names)

    def choose_tail(self) -> float:
        """That of the budgets, if they share one, so that they can be read off the front; or else 0.05."""
        tails = distinct_tails([one.budget_tail for one in self.points if one.budget_tail is not None])
        return tails[0] if len(tails) == 1 else 0.05

    def with_another_tail(self, tail: float) -> list[EvaluatedPoint]:
        """Points whose budget says nothing about a front at `tail`."""
        return [one for one in self.points if one.budget_tail is not None and not same_tail(one.budget_tail, tail)]

    def tails(self) -> list[float]:
        """Every tail that one of the sweeps was evaluated at: the records give them for all."""
        return distinct_tails([tail for number in range(len(self.sweeps)) for tail in self._measured(number)[0]])

    def unsafe_above(self) -> float:
        """
        Raises:
            ValueError: if the sweeps differ in it.
        """
        found = {name: self._measured(number)[1] for number, name in enumerate(self.names)}
        if len(set(found.values())) > 1:
            said = ", ".join(f"{value:g} in {name}" for name, value in found.items())
            raise ValueError(
                f"You put sweeps with another unsafe_above on one page ({said}), but unsafe means one thing there. "
                "Set unsafe_above."
            )
        return next(iter(found.values()))

    def _measured(self, number: int) -> tuple[list[float], float]:
        """Tails and unsafe_above of a sweep. A sweep.json of an older version has none, but its points do."""
        sweep = self.sweeps[number]
        if "tails" in sweep and "unsafe_above" in sweep:
            return list(sweep["tails"]), float(sweep["unsafe_above"])
        for one in self.points:
            path = one.evaluation / METRICS
            if one.method == self.names[number] and path.is_file():
                (model,) = json.loads(path.read_text(encoding="utf-8"))["models"].values()
                return list(model["settings"]["tails"]), float(model["settings"]["unsafe_above"])
        return [0.05, 0.01], 0.0

    def _point(self, method: str, sweep: SweepFile, folder: Path, point: SweepPoint) -> EvaluatedPoint:
        name = point["name"] if len(self.sweeps) == 1 else f"{method} {point['name']}"
        return EvaluatedPoint(method, point, name, folder / point["folder"] / EVALUATION, _budget_tail(sweep, point))

    def _check_names(self) -> None:
        if len(self.names) != len(self.folders):
            raise ValueError(
                f"You set {len(self.names)} names for {len(self.folders)} sweeps, but each is a method with a name. "
                "Set name once per folder, in their order."
            )
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(
                    f"You put two sweeps with the name {name!r} on one page, but it tells methods apart. Set name "
                    "once per folder, in their order."
                )

    def _check_alike(self) -> None:
        """The same prompts, sampling and scorers: whatever is not the model."""
        first = self.points[0]
        for one in self.points[1:]:
            changes = list(differences(first.settings, one.settings))
            if changes:
                raise ValueError(
                    f"You put {first.name} and {one.name} on one page, but they were not evaluated alike "
                    f"({'; '.join(changes[:3])}). Evaluate them with the same prompts, sampling and scorers."
                )


def same_tail(one: float, other: float) -> bool:
    """As files name them."""
    return f"{one:g}" == f"{other:g}"


def distinct_tails(tails: Sequence[float]) -> list[float]:
    """The first of each that files name alike."""
    found: dict[str, float] = {}
    for tail in tails:
        found.setdefault(f"{tail:g}", tail)
    return list(found.values())


def _budget_tail(sweep: SweepFile, point: SweepPoint) -> float | None:
    """The tail of the constraint that a point's budget is of: the plan's, unless it is swept over."""
    if point.get("budget") is None:
        return None
    for path, value in point["settings"].items():
        if path.startswith("constraints.") and path.endswith(".tail"):
            return float(value)
    described = sweep["plan"].get("constraint")
    (constraint,) = described if isinstance(described, list) else [described or {}]
    found = constraint.get("tail")
    return None if found is None else float(found)
