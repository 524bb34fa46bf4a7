"""What a learned cost means in terms of labels: refreshed by them if that is set, and calibrated to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.label_errors import grade_chances
from trl_rsa.audits.refresh import Features, Labelled, RefreshedCost


Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grades:
    """The labels of responses, several of each, which may be wrong.

    Attributes:
        of_responses (`Sequence[Sequence[int]]` of length m): Grades, from 0.
        costs (`Sequence[float]`): Of the scale's grades.
    """

    of_responses: Sequence[Sequence[int]]
    costs: Sequence[float]


@dataclass(frozen=True)
class LabelledCost:
    """
    Attributes:
        calibration ([`Calibration`]): The label as a function of the score.
        refreshed ([`RefreshedCost`], *optional*): Makes the score of the learned cost, which otherwise is the score.
        own (`np.ndarray` of shape `[m]`): The scores of the labelled responses, without their own label.
        error_rate (`float`, *optional*): The share of the labels that are wrong, where that is allowed for.
    """

    calibration: Calibration
    refreshed: RefreshedCost | None
    own: Array
    error_rate: float | None = None

    @classmethod
    def fit(
        cls,
        labelled: Labelled,
        weights: ArrayLike,
        refresh: bool,
        features: Features | None = None,
        grades: Grades | None = None,
    ) -> "LabelledCost":
        """Fits both to the labels, or, where these may be wrong, to what `grades` say of them.

        The calibration of a refreshed cost is fitted to what the regression says of each response without its own
        label: with it, it would seem to know more than it does.
        """
        refreshed = RefreshedCost(labelled, features) if refresh else None
        own = np.asarray(labelled.scores, dtype=np.float64) if refreshed is None else refreshed.left_out
        if grades is None:
            return cls(Calibration.fit(own, labelled.labels, weights), refreshed, own)
        count = len(grades.costs)
        chances = grade_chances(own, grades.of_responses, weights, count)
        if refreshed is not None:
            # The words are learned from what the labels most likely mean, and the chances by the score that it makes.
            expected = replace(labelled, labels=(chances @ np.asarray(grades.costs)).tolist())
            refreshed = RefreshedCost(expected, features)
            own = refreshed.left_out
            chances = grade_chances(own, grades.of_responses, weights, count)
        right = [chances[row, grade] for row, several in enumerate(grades.of_responses) for grade in several]
        calibration = Calibration.of_chances(own, grades.costs, chances, weights)
        return cls(calibration, refreshed, own, 1.0 - float(np.mean(right)))

    def scores(self, prompts: Sequence[Any], responses: Sequence[str], learned: ArrayLike) -> Array:
        """The score `[n]` of responses, from their learned costs."""
        if self.refreshed is None:
            return np.asarray(learned, dtype=np.float64)
        return self.refreshed.predict(prompts, responses, learned)
