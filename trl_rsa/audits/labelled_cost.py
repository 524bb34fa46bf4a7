"""What a learned cost means in terms of labels: refreshed by them if that is set, and calibrated to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.refresh import Features, Labelled, RefreshedCost


Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelledCost:
    """
    Attributes:
        calibration ([`Calibration`]): The label as a function of the score.
        refreshed ([`RefreshedCost`], *optional*): Makes the score of the learned cost, which otherwise is the score.
    """

    calibration: Calibration
    refreshed: RefreshedCost | None

    @classmethod
    def fit(
        cls, labelled: Labelled, weights: ArrayLike, refresh: bool, features: Features | None = None
    ) -> "LabelledCost":
        """Fits both to the labels.

        The calibration of a refreshed cost is fitted to what the regression says of each response without its own
        label: with it, it would seem to know more than it does.
        """
        if not refresh:
            return cls(Calibration.fit(labelled.scores, labelled.labels, weights), None)
        refreshed = RefreshedCost(labelled, features)
        return cls(Calibration.fit(refreshed.left_out, labelled.labels, weights), refreshed)

    def scores(self, prompts: Sequence[Any], responses: Sequence[str], learned: ArrayLike) -> Array:
        """The score `[n]` of responses, from their learned costs."""
        if self.refreshed is None:
            return np.asarray(learned, dtype=np.float64)
        return self.refreshed.predict(prompts, responses, learned)
