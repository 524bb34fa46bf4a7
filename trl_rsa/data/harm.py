"""A harm scale: a few grades of harm, from safe to the worst, and what each costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict

from trl_rsa.data.schema import RowError, number_of


# The four grades of PKU-SafeRLHF's severity levels 0 to 3.
DEFAULT_SCALE = "safe=-1,minor=1,moderate=4,severe=10"


class HarmScaleJSON(TypedDict):
    """A [`HarmScale`] in JSON."""

    names: list[str]
    costs: list[float]


@dataclass(frozen=True)
class HarmScale:
    """
    Grades of harm in rising order, and their costs. A cost above 0 is unsafe.

    The default has the four grades of PKU-SafeRLHF's severity levels 0 to 3. A cost on this scale is bounded by
    construction: an expected cost lies between the first and the last.

    Args:
        names (`Sequence[str]`): Names of the grades, the least harmful first.
        costs (`Sequence[float]`): Their costs, rising; the first at most 0, the last above 0.
    """

    names: Sequence[str] = ("safe", "minor", "moderate", "severe")
    costs: Sequence[float] = (-1.0, 1.0, 4.0, 10.0)

    def __post_init__(self) -> None:
        names, costs = tuple(self.names), tuple(self.costs)
        if len(names) != len(costs) or len(names) < 2:
            raise ValueError(
                f"You set a harm scale with {len(names)} names and {len(costs)} costs, but it needs one cost per "
                "grade, and two grades or more. Write it as safe=-1,minor=1,moderate=4,severe=10."
            )
        named = all(isinstance(name, str) and name.strip() for name in names)
        if not named or len(set(map(_key, names))) < len(names):
            raise ValueError(
                f"You set a harm scale with the names {[*names]}, but they tell the grades apart. Give each its own."
            )
        numbers = all(isinstance(cost, int | float) and math.isfinite(cost) for cost in costs)
        if not numbers or any(low >= high for low, high in pairwise(costs)):
            raise ValueError(
                f"You set a harm scale with the costs {[*costs]}, but they must be numbers that rise from grade to "
                "grade. Order the grades from safe to the worst."
            )
        if not costs[0] <= 0 < costs[-1]:
            raise ValueError(
                f"You set a harm scale from {costs[0]:g} to {costs[-1]:g}, but 0 separates safe from unsafe. Give "
                "the first grade a cost of at most 0, and the last one a cost above 0."
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "costs", tuple(map(float, costs)))

    @classmethod
    def parse(cls, text: str | Mapping[str, float]) -> "HarmScale":
        """From `safe=-1,minor=1,moderate=4,severe=10`, or from the same as a mapping (in YAML)."""
        if isinstance(text, Mapping):
            return cls(tuple(text), tuple(text.values()))
        grades = [part.partition("=") for part in text.split(",") if part.strip()]
        try:
            return cls(tuple(name.strip() for name, _, _ in grades), tuple(float(cost) for _, _, cost in grades))
        except ValueError as error:
            if "harm scale" in str(error):
                raise
            raise ValueError(
                f"You set harm_scale={text!r}, but a grade is written as name=cost. Write the scale as "
                "safe=-1,minor=1,moderate=4,severe=10."
            ) from error

    @property
    def first_unsafe(self) -> int:
        """The lowest grade whose cost is above 0."""
        return next(grade for grade, cost in enumerate(self.costs) if cost > 0)

    @property
    def numbered(self) -> bool:
        """Whether a number stands for a place, from 0. Where a name is a number itself, numbers are names."""
        return not any(isinstance(_key(name), float) for name in self.names)

    def grade_of(self, value: Any, field: str) -> int:
        """The grade that a row names: by name, or by its number from 0 if the scale is `numbered`. 2, 2.0 and "2" are
        the same."""
        keys, key = [_key(name) for name in self.names], _key(value)
        if key in keys:
            return keys.index(key)
        if not isinstance(key, float) or key != int(key) or not self.numbered:
            raise RowError(f"field `{field}` names no grade of the scale")
        if not 0 <= key < len(self.names):
            raise RowError(f"field `{field}` is not between 0 and {len(self.names) - 1}")
        return int(key)

    def grade_of_rubric(self, value: Any, field: str) -> int:
        """The grade of a rubric's score in [0, 1]: 0 is the first, and the rest falls into equal parts."""
        score = rubric_score(value, field)
        return math.ceil(score * (len(self.names) - 1))

    def to_dict(self) -> HarmScaleJSON:
        return {"names": [*self.names], "costs": [*self.costs]}


def rubric_score(value: Any, field: str) -> float:
    score = number_of(value)
    if score is None or not 0 <= score <= 1:
        raise RowError(f"field `{field}` is not a score between 0 and 1")
    return score


def _key(value: Any) -> float | str | None:
    """What tells grades apart: a number, also where it is written as text, or a name without its case and spaces."""
    number = number_of(value)
    return number if number is not None else " ".join(value.casefold().split()) if isinstance(value, str) else None
