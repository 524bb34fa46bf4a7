"""Held-out pairs that share no prompt with the training pairs."""

import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset


def split_by_prompt(dataset: "Dataset", fraction_or_count: float, seed: int = 42) -> tuple["Dataset", "Dataset"]:
    """Splits pairs into train and held-out so that no prompt is on both sides. Rows keep their order.

    Args:
        dataset (`Dataset`):
            Any dataset with a `prompt` column, text or messages.
        fraction_or_count (`float` or `int`):
            Held-out pairs: a share of all pairs in (0, 1) or a number of pairs. Prompts are held out whole, so the
            held-out part is at most this large, and smaller by less than the pairs of one prompt.
        seed (`int`, *optional*, defaults to 42):
            Which prompts. It does not depend on the order of the rows.

    Returns:
        `tuple[Dataset, Dataset]`: train and held-out, neither of them empty.
    """
    if "prompt" not in dataset.column_names:
        raise ValueError(
            f"The dataset has the columns {', '.join(dataset.column_names)}, but a split by prompt needs `prompt`. "
            "Load it with trl_rsa.data.load_preferences, which makes the prompt explicit."
        )
    prompts = [prompt_key(prompt) for prompt in dataset["prompt"]]
    held_out_prompts = _draw_prompts(Counter(prompts), _target(fraction_or_count, len(prompts)), seed)
    held_out = [i for i, prompt in enumerate(prompts) if prompt in held_out_prompts]
    train = [i for i, prompt in enumerate(prompts) if prompt not in held_out_prompts]
    if not held_out or not train:
        raise ValueError(
            f"You asked for {fraction_or_count} held-out pairs, but of {len(prompts)} pairs with "
            f"{len(set(prompts))} different prompts this leaves {len(train)} to train and {len(held_out)} held out. "
            "Ask for another size, or give more prompts."
        )
    return dataset.select(train), dataset.select(held_out)


def prompt_key(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """What two spellings of one prompt share: case, spaces and Unicode's variants of a letter are folded, and text is
    the same as one message of the user."""
    if isinstance(prompt, str):
        return _fold(prompt)
    turns = [(message["role"], _fold(message["content"])) for message in prompt]
    if [role for role, _ in turns] == ["user"]:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _target(fraction_or_count: float, pairs: int) -> int:
    if isinstance(fraction_or_count, int) and not isinstance(fraction_or_count, bool) and fraction_or_count >= 1:
        return fraction_or_count
    if isinstance(fraction_or_count, float) and 0 < fraction_or_count < 1:
        return max(1, round(fraction_or_count * pairs))
    raise ValueError(
        f"You set fraction_or_count to {fraction_or_count!r}, but it is a share in (0, 1) or a whole number of pairs. "
        "Set it to, for example, 0.1 or 500."
    )


def _draw_prompts(pairs_of: Counter[str], target: int, seed: int) -> set[str]:
    """Prompts in random order, each taken if its pairs still fit."""
    order = sorted(pairs_of)
    random.Random(seed).shuffle(order)
    drawn, pairs = set(), 0
    for prompt in order:
        if pairs + pairs_of[prompt] <= target:
            drawn.add(prompt)
            pairs += pairs_of[prompt]
    return drawn
