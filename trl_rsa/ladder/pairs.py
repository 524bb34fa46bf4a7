"""The safety pairs of a rung: the policy's own responses, labelled by what they cost, and pairs that humans judged."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.records import text_of


Row = dict[str, Any]


@dataclass(frozen=True)
class ScoredResponse:
    """
    A response to a train prompt.

    Args:
        text (`str`):
            Without special tokens.
        penalty (`float`):
            What labels compare, lower is preferred: P(i≻j) = σ(penalty_j − penalty_i), unless the rewards decide.
        cost (`float`):
            Decides which of two responses with equal penalties counts as the safer one.
        token_ids (`tuple[int, ...]`, *optional*):
            As it was sampled: with the token that ended it, or without one if it was cut.
        forced_ids (`tuple[int, ...]`, *optional*):
            The tokens before them, which were forced and not sampled.
        reward (`float`, *optional*):
            How helpful it is, in log-odds. Between two harmless responses with equal penalties that both have one,
            P(i≻j) = σ(reward_i − reward_j).
        harmless (`bool`, *optional*, defaults to `True`):
            Whether no cost finds it unsafe. The likelihood of another one is not raised where it is the chosen one.
    """

    text: str
    penalty: float
    cost: float
    token_ids: tuple[int, ...] | None = None
    forced_ids: tuple[int, ...] = ()
    reward: float | None = None
    harmless: bool = True


def responses_by_prompt(
    records: Sequence[Mapping[str, Any]],
    weigh: Callable[[Mapping[str, Any]], tuple[float, float, float | None, bool]],
    keep_cut: bool = True,
) -> list[tuple[Any, list[ScoredResponse]]]:
    """Scored responses by prompt.

    A cut response counts like any other: sampled by the policy itself with a horizon of N tokens, it is a whole
    episode of the process that ends there.

    Args:
        records (`Sequence[Mapping]`):
            As [`~trl_rsa.ladder.observe.ScoredResponses`] keeps them.
        weigh (`Callable`):
            From a record to penalty, cost, reward, and whether it is harmless.
        keep_cut (`bool`, *optional*, defaults to `True`):
            Whether responses that were cut at `max_new_tokens` are kept.
    """
    groups: dict[int, tuple[Any, list[ScoredResponse]]] = {}
    for record in records:
        if record["finished"] or keep_cut:
            group = groups.setdefault(record["prompt_number"], (record["prompt"], []))
            n, ids = record.get("n_forced", 0), tuple(record["token_ids"])
            penalty, cost, reward, harmless = weigh(record)
            group[1].append(ScoredResponse(record["response"], penalty, cost, ids[n:], ids[:n], reward, harmless))
    return list(groups.values())


def safety_pairs(
    responses: Sequence[tuple[Any, Sequence[ScoredResponse]]],
    seed: int,
    soft: bool = True,
    per_prompt: int | None = None,
) -> list[Row]:
    """Pairs in TRL's preference format.

    `chosen` is the safer response, or of two that are as safe the more helpful one, where rewards are known. The rows
    have tokens where these are known, `pair_label` if soft, and `sft_weight` 0 where the chosen response is unsafe.

    Args:
        responses (`Sequence[tuple[prompt, Sequence[ScoredResponse]]]`):
            The policy's own responses.
        seed (`int`):
            Of the choice of pairs and of sampled labels.
        soft (`bool`, *optional*, defaults to `True`):
            Whether a pair carries its Bradley–Terry probability, or a label drawn by it.
        per_prompt (`int`, *optional*):
            At most so many pairs per prompt; all by default.
    """
    rng = random.Random(seed)
    rows = []
    for prompt, several in responses:
        distinct = list({response.token_ids or response.text: response for response in several}.values())
        pairs = list(combinations(distinct, 2))
        if per_prompt is not None and len(pairs) > per_prompt:
            pairs = rng.sample(pairs, per_prompt)
        rows += [_pair(prompt, a, b, soft, rng) for a, b in pairs]
    return with_equal_columns(rows)


def _pair(prompt: Any, a: ScoredResponse, b: ScoredResponse, soft: bool, rng: random.Random) -> Row:
    better, other = sorted((a, b), key=lambda response: (response.penalty, response.cost))
    log_odds = other.penalty - better.penalty
    if log_odds == 0.0 and a.harmless and b.harmless and a.reward is not None and b.reward is not None:
        better, other = (a, b) if a.reward >= b.reward else (b, a)
        log_odds = abs(a.reward - b.reward)
    probability = 1 / (1 + math.exp(-log_odds))  # Bradley–Terry, at least ½
    if not soft and rng.random() >= probability:
        better, other = other, better
    row = {"prompt": prompt, "chosen": _completion(prompt, better), "rejected": _completion(prompt, other)}
    if better.token_ids is not None and other.token_ids is not None:
        row |= {"chosen_ids": list(better.token_ids), "rejected_ids": list(other.token_ids)}
        if better.forced_ids:  # one beginning per prompt: both have it
            row["forced_ids"] = list(better.forced_ids)
    if not better.harmless:
        row["sft_weight"] = 0.0
    return row | {"pair_label": probability} if soft else row


def _completion(prompt: Any, response: ScoredResponse) -> Any:
    return response.text if isinstance(prompt, str) else [{"role": "assistant", "content": response.text}]


def is_tie(row: Row) -> bool:
    """Whether neither response is preferred: a soft label of ½ exactly."""
    return row.get("pair_label") == 0.5


def thin_ties(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """The rows, with so much of the ties; which ones is drawn by seed."""
    if share == 1.0:
        return list(rows)
    places = [i for i, row in enumerate(rows) if is_tie(row)]
    kept = set(random.Random(seed).sample(places, round(share * len(places))))
    return [row for i, row in enumerate(rows) if i in kept or not is_tie(row)]


def draw_human(own: int, human: Sequence[Row], share: float, seed: int) -> list[Row]:
    """As many human pairs as make `share` of a rung beside `own` pairs of the policy, or all that there are."""
    wanted = min(len(human), round(own * share / (1 - share)))
    return random.Random(seed).sample(list(human), wanted)


def with_tokens(rows: Sequence[Row], encoder: ConversationEncoder) -> list[Row]:
    """The rows as the tokens to train on: `prompt_ids`, `chosen_ids`, `rejected_ids`.

    Sampled responses bring their own. Those of other pairs are written down as the policy would have written them. A
    beginning that was forced ends the prompt: it is seen, and not trained on.
    """
    return [
        {**_tokens(row, encoder), **{name: value for name, value in row.items() if name != "forced_ids"}}
        for row in rows
    ]


def _tokens(row: Row, encoder: ConversationEncoder) -> dict[str, list[int]]:
    tokens = {"prompt_ids": [*encoder.prompt(row["prompt"]), *row.get("forced_ids", ())]}
    for name in ("chosen", "rejected"):
        if f"{name}_ids" not in row:
            # Text that was meant to stand right after its prompt begins with a space; a turn does not.
            tokens[f"{name}_ids"] = encoder.completion(text_of(row[name]).strip())
    return tokens


def with_equal_columns(rows: Sequence[Row]) -> list[Row]:
    """Rows from several sources, of which some have no label or weight: those are certain, and weigh 1."""
    extra = {name for row in rows for name in ("pair_label", "pair_weight", "sft_weight") if name in row}
    return [dict.fromkeys(extra, 1.0) | row for row in rows]
