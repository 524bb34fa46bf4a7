"""Preference pairs labelled by a judge, as rows for the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from trl_rsa.data.schema import Text
from trl_rsa.scoring.apply import Score
from trl_rsa.scoring.judge import PairwiseJudge


class LabelledPair(TypedDict):
    """A row for the trainer."""

    prompt: Text
    chosen: Text
    rejected: Text
    pair_label: float


@dataclass
class LabelledPairs:
    """
    What [`label_pairs`] returns.

    Args:
        rows (`list[dict]`):
            `prompt`, `chosen`, `rejected`, `pair_label`: `datasets.Dataset.from_list(rows)` is ready for the trainer.
        failures (`list[Score]`):
            Pairs without a label, with their indices and reasons.
        ties (`int`):
            Pairs that were left out because they are ties.
    """

    rows: list[LabelledPair] = field(default_factory=list)
    failures: list[Score] = field(default_factory=list)
    ties: int = 0


def label_pairs(
    judge: PairwiseJudge,
    prompts: Sequence[Text],
    first: Sequence[Text],
    second: Sequence[Text],
    smoothing: float = 0.0,
    keep_ties: bool = True,
) -> LabelledPairs:
    """
    Has a judge label pairs of responses. The preferred one becomes `chosen`; `pair_label` in [½, 1] is the probability
    that it is the better one.

    Args:
        judge ([`PairwiseJudge`]):
            Its criterion is what the labels mean.
        prompts, first, second (`Sequence`):
            n prompts, and two responses to each.
        smoothing (`float`, *optional*, defaults to 0):
            Votes added to each side: with 1, two of two votes become (2 + 1)/(2 + 2) = ¾ instead of 1.
        keep_ties (`bool`, *optional*, defaults to `True`):
            Whether a tie becomes a row with label ½, or is counted and left out.

    Returns:
        [`LabelledPairs`]
    """
    if not 0 <= smoothing < float("inf"):
        raise ValueError(f"You set smoothing={smoothing!r}, but it is a number of votes. Set 0 or more.")
    labelled = LabelledPairs()
    for index, comparison in enumerate(judge.compare(prompts, first, second)):
        if comparison.preference is None:
            labelled.failures.append(Score(index, None, comparison.reason))
            continue
        if comparison.preference == 0.5 and not keep_ties:
            labelled.ties += 1
            continue
        votes = comparison.votes
        share = comparison.preference
        if votes:
            share = (share * votes + smoothing) / (votes + 2 * smoothing)
        chosen, rejected = (first, second) if share >= 0.5 else (second, first)
        labelled.rows.append(
            {
                "prompt": prompts[index],
                "chosen": chosen[index],
                "rejected": rejected[index],
                "pair_label": max(share, 1 - share),
            }
        )
    return labelled
