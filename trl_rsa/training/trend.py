"""What the logged numbers of a training say of it, in a sentence: a loss that rose, a policy that stood still."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset


# Fewer logged losses say nothing about a trend.
_LEAST_LOGGED = 8
# Nats. More need not be reached: a label that is next to certain asks for ever more.
_FAR = 1.0
# Below this share of the margins that the labels ask for the policy has hardly moved.
_HARDLY = 0.1


def rise_of(logged: Sequence[float]) -> str | None:
    """Whether the last quarter of the logged losses is clearly above the first, in a sentence; None if not."""
    losses = np.asarray(logged, dtype=float)
    quarter = len(losses) // 4
    if len(losses) < _LEAST_LOGGED:
        return None
    first, last = losses[:quarter], losses[-quarter:]
    spread = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / quarter)
    # Written so that a loss that is not a number counts as risen.
    if last.mean() - first.mean() <= 2 * spread:
        return None
    return (
        f"the loss ROSE from {first.mean():.3g} to {last.mean():.3g}. Lower learning_rate, or take more pairs a step "
        "(gradient_accumulation_steps)."
    )


def standstill_of(history: Sequence[Mapping[str, float]], dataset: Dataset) -> str | None:
    """Whether the margins ended far below what soft labels ask for, in a sentence; None if not.

    At the optimum a pair's margin β·(log-ratio of chosen − of rejected) is the log-odds of its label.

    Args:
        history (`Sequence[Mapping]`):
            Logged metrics, `rewards/margins` among them.
        dataset ([`~datasets.Dataset`]):
            What was trained on. Without the column `pair_label` nothing is asked for.
    """
    margins = [entry["rewards/margins"] for entry in history if "loss" in entry and "rewards/margins" in entry]
    if not margins or "pair_label" not in (dataset.column_names or ()):
        return None
    labels = np.clip(np.asarray(dataset["pair_label"], dtype=float), 1e-6, 1 - 1e-6)
    asked = float(np.clip(np.log(labels / (1 - labels)), -_FAR, _FAR).mean())
    reached = float(np.mean(margins[-max(1, len(margins) // 4) :]))
    if asked <= 0 or not reached < _HARDLY * asked:
        return None
    return (
        f"the margins of the pairs ended at {reached:.2g} nats, where their labels ask for {asked:.2g} or more: the "
        "policy HARDLY MOVED. Raise learning_rate, or take more steps."
    )
