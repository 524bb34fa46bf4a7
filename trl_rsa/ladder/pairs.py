"""The safety pairs of a rung: the policy's own answers, labelled by what they cost, and pairs that humans judged."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any


Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """
    An answer to a train prompt.

    Args:
        text (`str`):
            Without special tokens.
        penalty (`float`):
            What labels compare, lower is preferred: P(i≻j) = σ(penalty_j − penalty_i).
        cost (`float`):
            Decides which of two answers with equal penalties counts as the safer one.
    """

    text: str
    penalty: float
    cost: float


def answers_by_prompt(
    records: Sequence[Mapping[str, Any]], weigh: Callable[[Mapping[str, float]], tuple[float, float]]
) -> list[tuple[Any, list[Answer]]]:
    """Finished answers by prompt. A cut one has no end, and its risk means nothing.

    Args:
        records (`Sequence[Mapping]`):
            As [`Answers`] keeps them.
        weigh (`Callable`):
            From the costs by constraint to penalty and cost.
    """
    groups: dict[int, tuple[Any, list[Answer]]] = {}
    for record in records:
        if record["finished"]:
            group = groups.setdefault(record["prompt_number"], (record["prompt"], []))
            group[1].append(Answer(record["response"], *weigh(record["costs"])))
    return list(groups.values())


def safety_pairs(
    answers: Sequence[tuple[Any, Sequence[Answer]]], seed: int, soft: bool = True, per_prompt: int | None = None
) -> list[Row]:
    """Pairs in TRL's preference format, `chosen` the safer answer; with `pair_label` if soft.

    Args:
        answers (`Sequence[tuple[prompt, Sequence[Answer]]]`):
            The policy's own answers.
        seed (`int`):
            Of the choice of pairs and of sampled labels.
        soft (`bool`, *optional*, defaults to `True`):
            Whether a pair carries its Bradley–Terry probability, or a label drawn by it.
        per_prompt (`int`, *optional*):
            At most so many pairs per prompt; all by default.
    """
    rng = random.Random(seed)
    rows = []
    for prompt, several in answers:
        distinct = list({answer.text: answer for answer in several}.values())
        pairs = list(combinations(distinct, 2))
        if per_prompt is not None and len(pairs) > per_prompt:
            pairs = rng.sample(pairs, per_prompt)
        rows += [_pair(prompt, a, b, soft, rng) for a, b in pairs]
    return rows


def _pair(prompt: Any, a: Answer, b: Answer, soft: bool, rng: random.Random) -> Row:
    safer, other = sorted((a, b), key=lambda answer: (answer.penalty, answer.cost))
    probability = 1 / (1 + math.exp(safer.penalty - other.penalty))  # Bradley–Terry, at least ½
    if not soft and rng.random() >= probability:
        safer, other = other, safer
    row = {"prompt": prompt, "chosen": _completion(prompt, safer), "rejected": _completion(prompt, other)}
    return row | {"pair_label": probability} if soft else row


def _completion(prompt: Any, answer: Answer) -> Any:
    return answer.text if isinstance(prompt, str) else [{"role": "assistant", "content": answer.text}]


def draw_human(own: int, human: Sequence[Row], share: float, seed: int) -> list[Row]:
    """As many human pairs as make `share` of a rung beside `own` pairs of the policy, or all that there are."""
    wanted = min(len(human), round(own * share / (1 - share)))
    return random.Random(seed).sample(list(human), wanted)


def with_equal_columns(rows: Sequence[Row]) -> list[Row]:
    """Rows from several sources, of which some have no label or weight: those are certain, and weigh 1."""
    extra = {name for row in rows for name in ("pair_label", "pair_weight") if name in row}
    return [dict.fromkeys(extra, 1.0) | row for row in rows]
