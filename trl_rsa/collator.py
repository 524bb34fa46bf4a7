"""TRL's preference collator, which also carries a pair's weight and soft label."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trl_rsa._trl import DataCollatorForPreference


# Optional dataset columns, each one float per pair, and the range they must lie in.
PAIR_COLUMNS = {"pair_weight": (0.0, float("inf")), "pair_label": (0.0, 1.0), "sft_weight": (0.0, float("inf"))}


def problem_of(name: str, value: Any) -> str | None:
    """Why a pair cannot have the value in one of [`PAIR_COLUMNS`], and what to do; None if it can."""
    low, high = PAIR_COLUMNS[name]
    if isinstance(value, int | float) and low <= value <= high and value != float("inf"):
        return None
    limits = f"in [{low:g}, {high:g}]" if high < float("inf") else f"of at least {low:g}"
    return f"{name}={value!r}, but it must be a number {limits}. Correct or drop the row."


@dataclass
class DataCollatorForWeightedPreference(DataCollatorForPreference):
    """[`~trl.trainer.dpo_trainer.DataCollatorForPreference`] which passes on three optional columns.

    * `pair_weight`, at least 0: multiplies the pair's loss.
    * `pair_label` in [0, 1]: probability that `chosen` is preferred to `rejected`.
    * `sft_weight`, at least 0: multiplies the likelihood of `chosen` in the loss "sft".

    All become float32 tensors of shape `[B]`.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        output = super().torch_call(examples)
        for name in PAIR_COLUMNS:
            if any(name in example for example in examples):
                values = [example.get(name) for example in examples]
                for value in values:
                    if problem := problem_of(name, value):
                        raise ValueError(f"Your dataset has {problem}")
                output[name] = torch.tensor(values, dtype=torch.float32)
        return output


@dataclass
class PairColumnsGuard:
    """Passes on the batches of a user's own collator, unless it drops a pair's weight or soft label.

    Without them the pairs would count in full, and nobody would see it.
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(examples)
        for name in PAIR_COLUMNS:
            if name not in batch and any(name in example for example in examples):
                raise ValueError(
                    f"Your dataset has a column {name!r}, but your data_collator drops it, and the pairs would "
                    f"count in full. Put {name!r} into the batch, one number per pair, or remove the column."
                )
        return batch
