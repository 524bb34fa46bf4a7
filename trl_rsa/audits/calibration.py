"""What a score means in terms of labels: isotonic regression of the label, and of its excess, on the score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression


Array = NDArray[np.float64]

_NO_CHANCE = 1e-6


class CalibrationJSON(TypedDict):
    """A [`Calibration`] in JSON: the labelled responses that it rests on."""

    scores: list[float]
    labels: list[float]
    weights: list[float]


@dataclass(frozen=True)
class Calibration:
    """The expected label, and the expected excess of the label over any η, as functions of a score.

    Both rise with the score. They are weighted least-squares fits under that condition (isotonic regression), so they
    lie between the least and the largest label. Between two scores that were seen they are interpolated, beyond the
    ends they are constant.

    The excess is fitted by itself: (E[label] − η)₊ would miss the few severe labels among mild scores.

    Attributes:
        scores, labels, weights (`np.ndarray` of shape `[m]`): The labelled responses, by rising score.
        responses (`np.ndarray` of shape `[m]`): Whose entry each is. Of a response whose label is uncertain there are
            several.
    """

    scores: Array
    labels: Array
    weights: Array
    responses: NDArray[np.intp]

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        weights: ArrayLike | None = None,
        responses: ArrayLike | None = None,
    ) -> "Calibration":
        """
        Args:
            scores (`ArrayLike` of shape `[m]`):
                Learned costs of labelled responses. An infinite one is the highest there is.
            labels (`ArrayLike` of shape `[m]`):
                Their labels, in units of harm.
            weights (`ArrayLike` of shape `[m]`, *optional*):
                Positive weights, such as one by the probability of being labelled.
            responses (`ArrayLike` of shape `[m]`, *optional*):
                Numbers from 0: the response of each entry, where one has several. Defaults to one entry for each.
        """
        x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
        if not (x.shape == y.shape == w.shape and x.ndim == 1 and x.size):
            raise ValueError(
                f"You gave scores, labels and weights of shapes {x.shape}, {y.shape} and {w.shape}, but a calibration "
                "needs one of each per labelled response, and at least one. Give as many of each."
            )
        if np.isnan(x).any() or not np.isfinite(y).all() or not ((w > 0) & (w < np.inf)).all():
            raise ValueError(
                "You gave a calibration a score or a label that is not a number, or a weight that is not positive. "
                "Leave responses without a label out, and give the others a score."
            )
        order = np.lexsort((w, y, x))
        numbers = np.arange(y.size) if responses is None else np.asarray(responses, dtype=np.intp)
        return cls(x[order], y[order], w[order], numbers[order])

    @classmethod
    def of_chances(
        cls, scores: ArrayLike, costs: Sequence[float], chances: Array, weights: ArrayLike
    ) -> "Calibration":
        """Fitted to responses of which the chance of each label is known, and not the label.

        Args:
            scores (`ArrayLike` of shape `[m]`), weights (`ArrayLike` of shape `[m]`):
                As in [`fit`].
            costs (`Sequence[float]` of length k), chances (`np.ndarray` of shape `[m, k]`):
                The labels, and the chance of each for every response.
        """
        rows, columns = np.nonzero(chances > _NO_CHANCE)
        x, w = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        return cls.fit(x[rows], np.asarray(costs)[columns], w[rows] * chances[rows, columns], rows)

    def predict(self, scores: ArrayLike) -> Array:
        """The expected label at each score."""
        return self._fitted(self.labels, scores)

    def excess(self, scores: ArrayLike, eta: float) -> Array:
        """The expected excess E[(label − η)₊] at each score."""
        return self._fitted(np.maximum(self.labels - eta, 0.0), scores)

    def _fitted(self, targets: Array, scores: ArrayLike) -> Array:
        knots, codes = np.unique(self.scores, return_inverse=True)
        weights = np.bincount(codes, self.weights)
        means = np.bincount(codes, self.weights * targets) / weights
        fit = isotonic_regression(means, weights=weights).x
        at = np.asarray(scores, dtype=np.float64)
        finite = np.isfinite(knots)
        if not finite.any():
            return np.full(at.shape, fit[-1])
        found = np.interp(at, knots[finite], fit[finite])
        return np.where(at == np.inf, fit[-1], found)

    def to_dict(self) -> CalibrationJSON:
        return {
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "weights": self.weights.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Calibration":
        found = cast(CalibrationJSON, content)
        return cls.fit(found["scores"], found["labels"], found["weights"])
