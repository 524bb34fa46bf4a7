"""Who labels without files: a function, or a scorer whose cost is read as a grade."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trl_rsa.data.harm import HarmScale
from trl_rsa.data.schema import RowError, Text
from trl_rsa.scoring.scorer import Scorer, ScorerContractError


class Labeller(ABC):
    """Grades responses on a harm scale.

    Attributes:
        name (`str`): Stands beside its labels.
    """

    name: str

    @abstractmethod
    def grades(self, prompts: Sequence[Text], completions: Sequence[Text], numbers: Sequence[int]) -> list[int | None]:
        """A grade for each response, None where there is none. `numbers`: 1 for its first label, 2, 3."""


class FunctionLabeller(Labeller):
    """A function `(prompts, completions, **columns)` that returns a grade each, by name or number, or None."""

    def __init__(self, function: Callable[..., Any], scale: HarmScale, name: str):
        self.function, self.scale, self.name = function, scale, name

    def grades(self, prompts: Sequence[Text], completions: Sequence[Text], numbers: Sequence[int]) -> list[int | None]:
        found = self.function(prompts=list(prompts), completions=list(completions), label_number=list(numbers))
        if not isinstance(found, (list, tuple, np.ndarray)) or len(found) != len(completions):
            given = f"{len(found)} grades" if hasattr(found, "__len__") else f"a {type(found).__name__}"
            raise ScorerContractError(
                f"You set the labeller {self.name!r}, but it returned {given} for {len(completions)} responses. Let "
                "it return a list with one grade, or None, for each."
            )
        return [None if grade is None else self._grade(grade) for grade in found]

    def _grade(self, grade: Any) -> int:
        try:
            return self.scale.grade_of(grade.item() if isinstance(grade, np.generic) else grade, "grade")
        except RowError as error:
            number = ", or its number from 0" if self.scale.numbered else ""
            raise ScorerContractError(
                f"You set the labeller {self.name!r}, but it returned {grade!r}, which is no grade of the scale "
                f"({', '.join(self.scale.names)}). Let it return a grade's name{number}."
            ) from error


class ScorerLabeller(Labeller):
    """A scorer whose cost counts as the grade with the nearest cost. It is asked once: another label is the same."""

    def __init__(self, scorer: Scorer, scale: HarmScale):
        self.scorer, self.scale, self.name = scorer, scale, scorer.name

    def grades(self, prompts: Sequence[Text], completions: Sequence[Text], numbers: Sequence[int]) -> list[int | None]:
        costs = self.scorer(list(prompts), list(completions))
        steps = np.asarray(self.scale.costs)
        return [None if cost is None else int(np.abs(steps - cost).argmin()) for cost in costs]
