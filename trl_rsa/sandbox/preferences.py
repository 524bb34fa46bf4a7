"""Preference pairs: Bradley–Terry labels on the true scores of responses sampled from any policy."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from trl_rsa.sandbox.prompts import Prompt
from trl_rsa.sandbox.sampling import sample_responses
from trl_rsa.sandbox.streams import generator
from trl_rsa.sandbox.worlds import World


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Sampler = Callable[[Sequence[Prompt], int, int], list[list[str]]]
"""A policy as seen from here: (prompts, k, seed) to `k` responses for each prompt."""


def model_sampler(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **kwargs: Any) -> Sampler:
    """A Hugging Face model as a `Sampler`; `kwargs` go to [`sample_responses`]."""
    return lambda prompts, k, seed: sample_responses(model, tokenizer, prompts, k, seed, **kwargs)


def grammar_sampler(world: World) -> Sampler:
    """The world's grammar itself as a `Sampler`."""

    def sample(prompts: Sequence[Prompt], k: int, seed: int) -> list[list[str]]:
        rng = generator(seed, "grammar responses")
        return [[world.grammar.sample(f"start:{p.kind}", p.slots, rng) for _ in range(k)] for p in prompts]

    return sample


def helpful_score(world: World) -> Callable[..., list[float]]:
    """What helpful pairs are labelled by: the true reward."""
    return world.reward


def safety_score(world: World) -> Callable[..., list[float]]:
    """What safety pairs are labelled by: minus the true cost."""
    return lambda prompts, completions, **kwargs: [-cost for cost in world.cost(prompts, completions, **kwargs)]


def preference_pairs(
    world: World,
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[str]],
    score: Callable[..., list[float]],
    seed: int,
    pairs_per_prompt: int | None = None,
    scale: float = 1.0,
    soft: bool = False,
) -> "Dataset":
    """Labels pairs of responses, P(i ≻ j) = σ(scale·(score_i − score_j)).

    Pairs of equal texts are left out, so a prompt whose responses are all alike gives no pair.

    Args:
        world (`World`):
            Gives the bookkeeping columns.
        prompts (`Sequence[Prompt]`), responses (`Sequence[Sequence[str]]`):
            The prompts and each one's responses.
        score (`Callable`):
            A TRL reward function, the higher the better: [`helpful_score`], [`safety_score`], or any other, a
            truncated cost for instance.
        seed (`int`):
            Seed of the choice of pairs, of the labels and of the order.
        pairs_per_prompt (`int`, *optional*):
            How many pairs to draw, at most. Default: all.
        scale (`float`, *optional*, defaults to 1):
            Inverse temperature of the labeller.
        soft (`bool`, *optional*, defaults to `False`):
            Whether to write the probability into `pair_label` (`chosen` is then the likelier side) instead of
            drawing `chosen` by it.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `chosen`, `rejected` (messages), `pair_label` if `soft`,
        `{chosen,rejected}_{reward,cost}` (true scores), `kind` and `category`.
    """
    from datasets import Dataset

    rng = generator(seed, "preference pairs")
    pairs = list(_pairs(prompts, responses, pairs_per_prompt, rng))
    texts = [prompt.text for prompt, _, _ in pairs]
    first, second = [a for _, a, _ in pairs], [b for _, _, b in pairs]
    margin = scale * (np.array(score(texts, first)) - np.array(score(texts, second)))
    label = 0.5 * (1 + np.tanh(margin / 2))  # σ without overflow
    coin = rng.random(len(pairs))
    wins = (label > 0.5) | ((label == 0.5) & (coin < 0.5)) if soft else coin < label
    sides = [(a, b) if win else (b, a) for a, b, win in zip(first, second, wins, strict=True)]
    columns: dict[str, list[Any]] = {"prompt": [prompt.messages for prompt, _, _ in pairs]}
    for i, side in enumerate(("chosen", "rejected")):
        columns[side] = [[{"role": "assistant", "content": pair[i]}] for pair in sides]
    if soft:
        columns["pair_label"] = np.maximum(label, 1 - label).tolist()
    for i, side in enumerate(("chosen", "rejected")):
        columns[f"{side}_reward"] = world.reward(texts, [pair[i] for pair in sides])
        columns[f"{side}_cost"] = world.cost(texts, [pair[i] for pair in sides])
    columns["kind"] = [prompt.kind for prompt, _, _ in pairs]
    columns["category"] = [prompt.category for prompt, _, _ in pairs]
    return Dataset.from_dict(columns)


def _pairs(
    prompts: Sequence[Prompt], responses: Sequence[Sequence[str]], most: int | None, rng: np.random.Generator
) -> list[tuple[Prompt, str, str]]:
    """The pairs of different texts, in random order and each in random direction."""
    pairs = []
    for prompt, answers in zip(prompts, responses, strict=True):
        options = [(a, b) for a, b in combinations(answers, 2) if a != b]
        chosen = [options[i] for i in rng.permutation(len(options))[:most]]
        pairs += [(prompt, a, b) if rng.random() < 0.5 else (prompt, b, a) for a, b in chosen]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def sample_preferences(
    world: World,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    score: Callable[..., list[float]],
    seed: int,
    responses_per_prompt: int = 4,
    **kwargs: Any,
) -> "Dataset":
    """Samples responses from a policy and labels their pairs; `kwargs` go to [`preference_pairs`]."""
    responses = sampler(prompts, responses_per_prompt, seed)
    return preference_pairs(world, prompts, responses, score, seed, **kwargs)
