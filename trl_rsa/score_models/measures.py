"""What a score model is worth, on responses that it has not seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from scipy.stats import rankdata, spearmanr

from trl_rsa.data.harm import HarmScale


WORST = 0.1  # the share of the responses whose order decides a tail


@dataclass(frozen=True)
class HeldOut:
    """Scores of held-out responses and what is known of them; None where nothing is.

    Args:
        scores (`Sequence[float]`): One per response.
        unsafe (`Sequence[bool]`), grades (`Sequence[int]`), severities (`Sequence[float]`): One per response.
        pairs (`Sequence[tuple[int, int]]`): Indices of the preferred response and of the other one.
        prompts (`int`): How many prompts they answer.
        not_scored (`int`): Responses that the scorer did not score, which are not among these.
    """

    scores: Sequence[float]
    unsafe: Sequence[bool | None]
    grades: Sequence[int | None]
    severities: Sequence[float | None]
    pairs: Sequence[tuple[int, int]]
    prompts: int
    not_scored: int = 0


class GradeCalibration(TypedDict):
    """The responses of one true grade."""

    grade: str
    responses: int
    cost: float
    mean_score: float | None


class ScoreCalibration(TypedDict):
    """A tenth of the responses, by score."""

    responses: int
    mean_score: float
    mean_cost: float


class Calibration(TypedDict):
    """Scores beside the costs of the true grades: the mildest grade, and the lowest tenth, first."""

    by_grade: list[GradeCalibration]
    by_score: list[ScoreCalibration]


class Measures(TypedDict):
    """eval_results.json of a score model. A measure that the data do not allow is None."""

    prompts: int
    responses: int
    not_scored: int
    pairs: int
    pair_accuracy: float | None
    labelled: int
    unsafe: int
    auc: float | None
    right_side_of_zero: NotRequired[float | None]  # of a cost
    mean_safe: float | None
    mean_unsafe: float | None
    rank_correlation: float | None
    rank_correlation_worst_tenth: float | None
    worst_tenth_responses: int
    rank_correlation_top_tenth_by_score: float | None
    top_tenth_by_score_responses: int
    mean_severity_of_top_tenth: float | None
    rank_correlation_unsafe: float | None
    calibration: NotRequired[Calibration | None]  # of a graded cost


def measure(held_out: HeldOut, objective: str, scale: HarmScale | None) -> Measures:
    """All that the card says."""
    scores = np.asarray(held_out.scores, float)
    sign = 1.0 if objective == "cost" else -1.0  # harm points up
    result: dict[str, Any] = {
        "prompts": held_out.prompts,
        "responses": len(scores),
        "not_scored": held_out.not_scored,
        "pairs": len(held_out.pairs),
        "pair_accuracy": pair_accuracy(sign * scores, held_out.pairs),
    }
    known = [i for i, unsafe in enumerate(held_out.unsafe) if unsafe is not None]
    unsafe = np.array([bool(held_out.unsafe[i]) for i in known], bool)
    result |= {"labelled": len(known), "unsafe": int(unsafe.sum()), "auc": auc(sign * scores[known], unsafe)}
    if objective == "cost":
        result["right_side_of_zero"] = float(((scores[known] > 0) == unsafe).mean()) if known else None
    result["mean_safe"], result["mean_unsafe"] = (
        float(scores[known][unsafe == side].mean()) if (unsafe == side).any() else None for side in (False, True)
    )
    ranked = [i for i, severity in enumerate(held_out.severities) if severity is not None]
    severities = np.array([held_out.severities[i] for i in ranked], float)
    result |= worst_tenth(sign * scores[ranked], severities)
    harmful = np.array([bool(held_out.unsafe[i]) for i in ranked], bool)
    result["rank_correlation_unsafe"] = _spearman(sign * scores[ranked][harmful], severities[harmful])
    if scale is not None:
        result["calibration"] = calibration(scores, held_out.grades, scale)
    return cast(Measures, result)


def pair_accuracy(harm: np.ndarray, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Share of the pairs whose preferred response has the lower harm; a tie counts half."""
    if not len(pairs):
        return None
    preferred, other = np.asarray(pairs).T
    gap = harm[other] - harm[preferred]
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


def auc(harm: np.ndarray, unsafe: np.ndarray) -> float | None:
    """P(an unsafe response has the higher harm than a safe one), a tie counting half (Mann–Whitney)."""
    positive, negative = int(unsafe.sum()), int((~unsafe).sum())
    if not positive or not negative:
        return None
    return float((rankdata(harm)[unsafe].sum() - positive * (positive + 1) / 2) / (positive * negative))


def worst_tenth(harm: np.ndarray, severities: np.ndarray) -> dict[str, Any]:
    """
    Spearman's rank correlation of score and severity, in all and inside the worst tenth.

    The worst tenth is taken twice: by severity, which is the same set for every model (all responses as severe as the
    one at the tenth, ties included), and by score, which is the set that a tail of this model is made of.
    """
    count = math.ceil(WORST * len(severities))
    by_severity = severities >= np.sort(severities)[::-1][count - 1] if count else np.zeros(0, bool)
    by_score = harm >= np.sort(harm)[::-1][count - 1] if count else np.zeros(0, bool)
    return {
        "rank_correlation": _spearman(harm, severities),
        "rank_correlation_worst_tenth": _spearman(harm[by_severity], severities[by_severity]),
        "worst_tenth_responses": int(by_severity.sum()),
        "rank_correlation_top_tenth_by_score": _spearman(harm[by_score], severities[by_score]),
        "top_tenth_by_score_responses": int(by_score.sum()),
        "mean_severity_of_top_tenth": float(severities[by_score].mean()) if count else None,
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3 or len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return None  # no order to agree with
    return float(spearmanr(first, second).statistic)


def calibration(scores: np.ndarray, grades: Sequence[int | None], scale: HarmScale) -> Calibration | None:
    """Mean score beside the cost on the scale: for each true grade, and for each tenth of the scores."""
    known = [i for i, grade in enumerate(grades) if grade is not None]
    if not known:
        return None
    predicted, graded = scores[known], np.array([grades[i] for i in known], int)
    costs = np.asarray(scale.costs)[graded]
    by_grade: list[GradeCalibration] = [
        {
            "grade": name,
            "responses": int((graded == grade).sum()),
            "cost": scale.costs[grade],
            "mean_score": float(predicted[graded == grade].mean()) if (graded == grade).any() else None,
        }
        for grade, name in enumerate(scale.names)
    ]
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), 10) if len(part)]
    by_score: list[ScoreCalibration] = [
        {
            "responses": len(part),
            "mean_score": float(predicted[part].mean()),
            "mean_cost": float(costs[part].mean()),
        }
        for part in parts
    ]
    return {"by_grade": by_grade, "by_score": by_score}
