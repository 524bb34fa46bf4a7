"""What is known of a response's grade when labellers err: the chance of each grade, given its labels and its score.

One wrong label in fifty that calls a harmless response severe is a tail of its own. A median of three cannot tell it
from harm; how often labellers contradict each other, and how rare harm is at that score, can.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression


Array = NDArray[np.float64]

# What is assumed of labellers beforehand, in labels: one of twenty is wrong, and any other grade as likely then.
_WRONG, _SEEN = 1.0, 20.0
# How many labels of a grade the common rate of errors counts for, against what was seen of that grade alone.
_COMMON = 20.0
_FLOOR = 1e-4  # the least chance of a grade at a score: no label is impossible
_STEPS, _CLOSE = 200, 1e-5


def grade_chances(scores: ArrayLike, grades: Sequence[Sequence[int]], weights: ArrayLike, count: int) -> Array:
    """
    The chance of each grade for responses with labels that may be wrong, by expectation and maximisation (Dawid and
    Skene, 1979). Labels of one response err independently of each other, and by grade alike for all labellers. The
    chance of a grade before any label depends on the score: of every grade or a worse one it rises with it (isotonic
    regression).

    Which responses get a second label may depend on their first: all labels enter. Without a response with two labels
    nothing is learned of errors, and what is assumed beforehand stands.

    Args:
        scores (`ArrayLike` of shape `[m]`):
            Learned costs.
        grades (`Sequence[Sequence[int]]` of length m):
            The labels of each response, from 0, in any order, one at least.
        weights (`ArrayLike` of shape `[m]`):
            How many responses each stands for.
        count (`int`):
            Grades of the scale.

    Returns:
        `np.ndarray` of shape `[m, count]`, rows of sum 1.
    """
    votes = np.array([np.bincount(several, minlength=count) for several in grades], dtype=np.float64)
    share = np.asarray(weights, dtype=np.float64)
    at = np.asarray(scores, dtype=np.float64)
    chances = votes / votes.sum(1, keepdims=True)
    for _ in range(_STEPS):
        logs = np.log(_chance_by_score(at, chances, share)) + votes @ np.log(_said(votes, chances)).T
        found = np.exp(logs - logs.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
        moved, chances = float(np.abs(found - chances).max()), found
        if moved < _CLOSE:
            break
    return chances


def _chance_by_score(scores: Array, chances: Array, weights: Array) -> Array:
    """The chance of each grade `[m, count]` at the score of each response, before its own labels."""
    knots, codes = np.unique(scores, return_inverse=True)
    mass = np.bincount(codes, weights)
    worse = np.ones((knots.size, chances.shape[1] + 1))
    worse[:, -1] = 0.0
    for grade in range(1, chances.shape[1]):
        at_least = np.bincount(codes, weights * chances[:, grade:].sum(1)) / mass
        worse[:, grade] = isotonic_regression(at_least, weights=mass).x
    prior = np.maximum(worse[:, :-1] - worse[:, 1:], _FLOOR)
    return (prior / prior.sum(1, keepdims=True))[codes]


def _said(votes: Array, chances: Array) -> Array:
    """The chance `[count, count]` that a response of one grade is labelled as another."""
    count = votes.shape[1]
    seen = chances.T @ votes
    wrong = (seen.sum() - np.trace(seen) + _WRONG) / (seen.sum() + _SEEN)
    common = np.full((count, count), wrong / (count - 1))
    np.fill_diagonal(common, 1 - wrong)
    return (seen + _COMMON * common) / (seen.sum(1, keepdims=True) + _COMMON)
