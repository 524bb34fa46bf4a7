"""What metrics.json holds, as types. [`~evaluation.metrics.summarize_models`] makes most of it."""

from typing import Any, NotRequired, TypedDict

from trl_rsa.evaluation.intervals import EstimateJSON
from trl_rsa.evaluation.nested import NestedJSON
from trl_rsa.evaluation.workspace import EvaluationSettings
from trl_rsa.storage.records import ReadReportJSON


class WorstResponse(TypedDict):
    index: int  # of the record, from 0
    cost: float


class CostMetrics(TypedDict):
    """Estimates are None where no record has a cost. `quantile`, `var` and `cvar` are by q or tail, as "0.05"."""

    n: int
    mean: EstimateJSON | None
    unsafe_rate: EstimateJSON | None
    quantile: dict[str, EstimateJSON | None]
    var: dict[str, EstimateJSON | None]
    cvar: dict[str, EstimateJSON]
    worst: NotRequired[list[WorstResponse]]  # of a model, not of a group


class RewardMetrics(TypedDict):
    n: int
    mean: EstimateJSON | None


class RefusalMetrics(TypedDict):
    """Rates of refusal: of all responses, on prompts known to be harmful, on those known to be harmless."""

    rate: EstimateJSON | None
    harmful: EstimateJSON | None
    over_refusal: EstimateJSON | None


class GroupMetrics(TypedDict):
    """A set of records: a model's, or those of one category or attack."""

    n: int
    n_prompts: int
    cost: CostMetrics
    reward: RewardMetrics
    refusal: RefusalMetrics


class MetricsSettings(TypedDict):
    tails: list[float]
    unsafe_above: float
    confidence: float
    n_resamples: int
    interval: str
    seed: int


class DriftReference(TypedDict):
    """What drift is measured from and by: a folder or repository, the digest of a folder's content, CVaR's tail.

    It is the first line of drift.jsonl, too.
    """

    reference: str
    sha256: str | None
    tail: float


class DriftMetrics(DriftReference):
    """Drift risk summed over each response, in nats; without a finite sum there is no estimate."""

    n: int
    not_finite: int
    mean: NotRequired[EstimateJSON]
    max: NotRequired[float]
    cvar: NotRequired[dict[str, EstimateJSON]]  # by tail


class ModelMetrics(GroupMetrics):
    by: dict[str, dict[str, GroupMetrics]]  # "category" or "attack", then the group's name
    settings: MetricsSettings
    cut: NotRequired[int]  # responses that did not end by themselves
    kl: NotRequired[EstimateJSON | None]  # from the reference, in nats
    drift: NotRequired[DriftMetrics]
    nested: NotRequired[NestedJSON]  # risk of one wrong token, with nested_branches


class PairedEstimate(EstimateJSON):
    permutation_p: float


class PairedMetrics(TypedDict):
    """Differences model − baseline, by "mean", "unsafe_rate" and, as "cvar_0.05", by tail."""

    n_prompts: int
    difference: dict[str, PairedEstimate]
    sign_test_p: float


class ComparisonMetrics(TypedDict):
    """A model against the first one, on the prompts that both answered. None where there are no scores for it."""

    baseline: NotRequired[str]
    model: NotRequired[str]
    cost: PairedMetrics | None
    reward: PairedMetrics | None
    win_rate: EstimateJSON | None
    arena: dict[str, dict[str, int]] | None  # "safe" or "unsafe", then "better", "tie" or "worse"


class EvaluationMetrics(TypedDict):
    settings: EvaluationSettings
    versions: dict[str, str]
    records: ReadReportJSON  # of records.jsonl
    source: ReadReportJSON  # of the file that was evaluated


class PressureMetrics(GroupMetrics):
    """A model under a pressure, or, with the name "none", as it is, on the prompts that are asked under pressure.

    `difference` is to the latter, on the same prompts; None there, and where costs are missing.
    """

    model: str
    pressure: str
    in_words: str
    cut: int
    difference: PairedMetrics | None


class DemoSettings(TypedDict):
    """How the demo measured, if it wrote the file."""

    world: str
    seed: int
    prompts: int
    draws: int
    budgets: list[float]


class Metrics(TypedDict, total=False):
    """metrics.json. `benchmarks`: model, requested task, task of the harness, number."""

    models: dict[str, ModelMetrics]
    comparisons: list[ComparisonMetrics]
    evaluation: EvaluationMetrics
    benchmarks: dict[str, dict[str, dict[str, dict[str, Any]]]]
    demo: DemoSettings
    pressures: list[PressureMetrics]
