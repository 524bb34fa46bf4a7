"""What is written of an audit: beside an observation, in calibration-NN.json, and in the manifest."""

from typing import NotRequired, TypedDict

from trl_rsa.audits.calibration import CalibrationJSON
from trl_rsa.audits.combine import AgreementJSON


class AuditNumbers(TypedDict):
    """What an audit says of an observation. `labels` are all labels so far, `rated` the responses that have one;
    `calibrated` is false where there were too few, and the estimate is that of the learned cost."""

    drawn: int
    labels: int
    missing: int
    rated: int
    calibrated: bool
    agreement: AgreementJSON
    learned_estimate: float
    learned_upper_bound: float


class Rated(TypedDict):
    """Responses that have a label: ids, learned costs and labels, in units of cost, what each label weighs, and all
    grades that it was given, from 0."""

    ids: list[str]
    scores: list[float]
    labels: list[float]
    weights: list[float]
    grades: NotRequired[list[list[int]]]


class CalibrationFile(TypedDict):
    """calibration-NN.json: the labels that an observation was judged by, and its rung labelled by."""

    observation: int
    numbers: AuditNumbers
    rated: Rated


class CurveJSON(TypedDict):
    """The calibration as a line: scores, and the expected label at each."""

    scores: list[float]
    expected: list[float]


class AuditSummary(TypedDict):
    """What the manifest says of an audit: labels spent, agreement, and the last calibration."""

    labels: int
    certify_labels: int
    budget: int
    labeller: str
    agreement: AgreementJSON
    error_rate: NotRequired[float]
    calibration: NotRequired[CalibrationJSON]
    curve: NotRequired[CurveJSON]
