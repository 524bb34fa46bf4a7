"""Human judgements of safety for the rungs, without the prompts that must stay unseen."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from trl_rsa.data import load_preferences
from trl_rsa.data.report import DataReportJSON
from trl_rsa.data.templates import untemplated_key
from trl_rsa.ladder.constraint import RiskConstraint


class HumanCounts(DataReportJSON):
    """What became of a data set's rows, and how many of its pairs are on prompts that must stay unseen."""

    left_out_as_decide_or_certify_prompts: int


@dataclass(frozen=True)
class HumanPairs:
    """A constraint's human pairs, and what became of its data set's rows, for the manifest."""

    rows: list[dict[str, Any]]
    counts: HumanCounts


def load_human_pairs(
    constraint: RiskConstraint,
    own: Sequence[Any],
    unseen: Collection[str],
    seed: int,
    eos_token: str | None = None,
) -> HumanPairs:
    """
    Args:
        constraint ([`RiskConstraint`]):
            Its `human_pairs`, read with `human_options`.
        own (`Sequence`):
            Its train prompts: texts, or messages.
        unseen (`Collection[str]`):
            [`~data.templates.untemplated_key`] of the prompts that are decided on or certified with: pairs on them
            are left out, in whatever template.
        seed (`int`):
            The plan's.
        eos_token (`str`, *optional*):
            The tokenizer's, which `unseen` were made with: it ends the earlier turns of pairs that are in Safe RLHF's
            template already. One in `human_options` comes first.

    Raises:
        ValueError: if they cannot be read, are not of the form of the prompts, or none is left.
    """
    options = {"preferred_by": "safer", "seed": seed, **constraint.human_options}
    loaded = load_preferences(constraint.human_pairs, **options)
    eos_token = options.get("eos_token") or eos_token
    kept = [row for row in loaded.dataset if untemplated_key(row["prompt"], eos_token) not in unseen]
    if not kept:
        raise ValueError(
            f"You gave human_pairs for the constraint {constraint.name!r} that are all on prompts to decide on or to "
            "certify with, but what is trained on must not judge the result. Give pairs on other prompts."
        )
    if isinstance(kept[0]["prompt"], str) != isinstance(own[0], str):
        forms = ("texts", "messages") if isinstance(kept[0]["prompt"], str) else ("messages", "texts")
        raise ValueError(
            f"You gave human_pairs whose prompts are {forms[0]} and prompts that are {forms[1]}, but a rung has one "
            "form. Give both in the same; `template` in human_options decides the form of the pairs."
        )
    left_out = len(loaded.dataset) - len(kept)
    read: DataReportJSON = loaded.counts.to_dict()
    return HumanPairs(kept, {**read, "left_out_as_decide_or_certify_prompts": left_out})
