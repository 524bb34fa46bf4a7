"""What is written of a ladder: done.json of its models, and the manifest's summary."""

from typing import NotRequired, TypedDict

from trl_rsa.ladder.audit_files import AuditSummary
from trl_rsa.ladder.human import HumanCounts
from trl_rsa.ladder.observations import ObservationRecord
from trl_rsa.ladder.paired import Comparison
from trl_rsa.ladder.rung import PairCounts
from trl_rsa.ladder.slack import Slack
from trl_rsa.scoring.scorer import ScorerDescription
from trl_rsa.training.stage import StageResult


class PromptSetSummary(TypedDict, total=False):
    """A prompt set in the manifest: its size, its fingerprint, and how many of its prompts a stage trains on."""

    n: int
    fingerprint: str
    also_trained: int


class ConstraintSummary(TypedDict, total=False):
    """What the manifest says of one constraint."""

    budget: float
    tail: float
    multiplier: float
    confidence: float
    certified: bool
    scorer: ScorerDescription
    prompts: dict[str, PromptSetSummary]
    human_pairs: HumanCounts
    compared: list[Comparison]
    slack: Slack
    audit: AuditSummary


class RungData(PairCounts):
    """The pairs that a rung was trained on: `pairs` in all."""

    pairs: int
    fingerprint: str


class TrainedRungFile(StageResult):
    """done.json of a rung that was trained; multipliers by constraint. [`write_done`] adds the last two."""

    rung: int
    multipliers: dict[str, float]
    delta_multipliers: dict[str, float]
    data: RungData
    saved: NotRequired[str]
    fingerprint: NotRequired[str]


class WalkedBackFile(TypedDict):
    """done.json of a model that was walked back: the `fraction` of the last rung's update that is kept.
    [`write_done`] adds the last two."""

    rung: int
    multipliers: dict[str, float]
    fraction: float
    saved: NotRequired[str]
    fingerprint: NotRequired[str]


class LadderSummary(TypedDict):
    """What the manifest says of the ladder: `observations` as in constraint.jsonl, `rungs` as in their done.json,
    `model` the folder of the result."""

    observations: list[ObservationRecord]
    rungs: list[TrainedRungFile]
    model: str
    met: bool
    reason: str
    certified: bool
    constraints: dict[str, ConstraintSummary]
