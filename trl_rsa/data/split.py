"""Held-out pairs that share no prompt with the training pairs."""

import random
from collections import Counter
from typing import TYPE_CHECKING

from trl_rsa.storage.digests import prompt_key


if TYPE_CHECKING:
    from datasets import Dataset

# The description of pairs whose prompt was cut off the responses. They part at another word in each pair, so that the
# prompts of one question differ, and none need be the beginning of another.
IMPLICIT_PROMPTS = "The prompts are what the two texts of a pair have in common: the question, and often more."


def split_by_prompt(dataset: "Dataset", fraction_or_count: float, seed: int = 42) -> tuple["Dataset", "Dataset"]:
    """Splits pairs into train and held-out so that no prompt is on both sides. Rows keep their order.

    Args:
        dataset (`Dataset`):
            Any dataset with a `prompt` column, text or messages. Pairs of plain text that had none before
            [`load_preferences`] are refused: where a question ends does not show, so that it could be on both sides.
        fraction_or_count (`float` or `int`):
            Held-out pairs: a share of all pairs in (0, 1) or a number of pairs. Prompts are held out whole, so the
            held-out part is at most this large, and smaller by less than the pairs of one prompt.
        seed (`int`, *optional*, defaults to 42):
            Which prompts. It does not depend on the order of the rows.

    Returns:
        `tuple[Dataset, Dataset]`: train and held-out, neither of them empty.

    Raises:
        `ValueError`: if prompts cannot be told apart, or one of the two parts would be empty.
    """
    if "prompt" not in dataset.column_names:
        raise ValueError(
            f"The dataset has the columns {', '.join(dataset.column_names)}, but a split by prompt needs `prompt`. "
            "Add the column; in messages trl_rsa.data.load_preferences finds the prompt."
        )
    if dataset.info.description == IMPLICIT_PROMPTS:
        raise ValueError(
            f"You asked for {fraction_or_count} held-out pairs of plain text without a column `prompt`, but where a "
            "question ends does not show there, so that it could be on both sides. Add the column, or give held-out "
            "pairs of their own."
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
