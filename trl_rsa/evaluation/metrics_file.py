"""What metrics.json holds, as types. [`~evaluation.metrics.summarize_models`] makes most of it."""

from typing import Any, NotRequired, TypedDict

from trl_rsa.evaluation.intervals import EstimateJSON


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


class ModelMetrics(GroupMetrics):
    by: dict[str, dict[str, GroupMetrics]]  # "category" or "attack", then the group's name
    settings: MetricsSettings
    cut: NotRequired[int]  # responses that did not end by themselves
    kl: NotRequired[EstimateJSON | None]  # from the reference, in nats
    drift: NotRequired[dict[str, Any]]  # what drift_summary gives, with the reference


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
    settings: dict[str, Any]
    versions: dict[str, str]
    records: dict[str, Any]  # ReadReport.to_dict() of records.jsonl
    source: dict[str, Any]  # and of the file that was evaluated


class Metrics(TypedDict, total=False):
    """metrics.json. `benchmarks`: model, requested task, task of the harness, number."""

    models: dict[str, ModelMetrics]
    comparisons: list[ComparisonMetrics]
    evaluation: EvaluationMetrics
    benchmarks: dict[str, dict[str, dict[str, dict[str, Any]]]]
    demo: dict[str, Any]  # settings of the demo, if it wrote the file
