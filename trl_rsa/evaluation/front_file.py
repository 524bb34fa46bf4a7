"""What front.json holds, as types: models by method, reward against the tail of cost."""

from typing import Any, NotRequired, TypedDict

from trl_rsa.evaluation.intervals import EstimateJSON


class FrontPoint(TypedDict):
    """One model. `name` is its name in records.jsonl; `settings` are what it differs from others in."""

    name: str
    settings: dict[str, Any]
    risk: EstimateJSON
    reward: EstimateJSON
    on_front: bool
    budget: NotRequired[float]
    met: NotRequired[bool]


class RewardWithin(TypedDict):
    """The highest reward at a CVaR of at most `limit`."""

    limit: float
    reward: EstimateJSON


class FrontMethod(TypedDict):
    """The models of one method, and its front."""

    name: str
    points: list[FrontPoint]
    hypervolume: EstimateJSON
    within: list[RewardWithin]


class FrontDifference(TypedDict):
    """A point against the front of another method: point − front."""

    point: str
    method: str
    reward_at_the_same_tail: EstimateJSON
    risk_at_the_same_reward: EstimateJSON


class FrontReference(TypedDict):
    """The reference point of the hypervolumes, and whether it was `given` or is the worst of all points."""

    risk: float
    reward: float
    given: bool


class FrontFile(TypedDict):
    """front.json. All intervals come from the same resamples of the prompts that all models answered. `notes` say what
    a page leaves out, or reads in another way than one might think."""

    schema_version: int
    created: str
    tail: float
    confidence: float
    n_resamples: int
    seed: int
    n_prompts: int
    reference: FrontReference
    methods: list[FrontMethod]
    differences: list[FrontDifference]
    notes: NotRequired[list[str]]
