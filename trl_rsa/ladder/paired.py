"""Observed models compared with the one that is handed out, prompt by prompt: same prompts, same noise."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.comparison import PairedDifference


class Comparison(TypedDict):
    """How far the CVaR of the chosen model is from that of another observation, in units of cost.

    `difference` is chosen − other, below 0 where the chosen model is safer; `low` and `high` are the ends of its
    paired 95 % interval, None where there is only one prompt.
    """

    number: int
    difference: float
    low: float | None
    high: float | None


def compare_with_chosen(
    costs: Mapping[int, Sequence[float]],
    prompts: Sequence[str],
    chosen: int,
    tail: float,
    clip: tuple[float, float],
    seed: int,
) -> list[Comparison]:
    """
    Args:
        costs (`Mapping[int, Sequence[float]]`):
            By number of the observation: the cost of each response, in the same order of prompts and draws.
        prompts (`Sequence[str]`):
            The key of each response's prompt.
        chosen (`int`):
            Number of the observation that the others are compared with.
        tail, clip:
            Of the constraint.
        seed (`int`):
            Of the bootstrap.

    Returns:
        `list[Comparison]`: of every other observation, the nearest first.
    """
    clipped = {number: np.clip(np.asarray(several, dtype=float), *clip) for number, several in costs.items()}
    found: list[Comparison] = []
    for number in (number for number in clipped if number != chosen):
        paired = PairedDifference(clipped[number], prompts, clipped[chosen], prompts, tails=(tail,))
        # Columns: mean, unsafe rate, CVaR.
        estimate = Bootstrap(seed=seed).estimates(paired.resampled, paired.n_prompts, width=2 * len(prompts))[2]
        found.append({"number": number, "difference": estimate.value, "low": estimate.low, "high": estimate.high})
    return sorted(found, key=lambda comparison: abs(comparison["difference"]))


# With fewer responses in the tail a bootstrap has too little to draw from: of two models of one law it told one pair
# in five apart with one response there, one in fifteen with ten.
_FEW = 10


def in_words(chosen: int, nearest: Comparison, tail: float, n_prompts: int) -> str:
    """The comparison with the nearest other observation, in a sentence or two."""
    number, difference, low, high = nearest["number"], nearest["difference"], nearest["low"], nearest["high"]
    direction = "below" if difference <= 0 else "above"
    said = (
        f"On the same prompts the CVaR {tail:g} of observation {chosen} is {abs(difference):.3g} {direction} that of "
        f"observation {number}"
    )
    if low is None or high is None:
        return f"{said}."
    if low == high == 0:
        return f"{said}: the worst of their responses cost the same."
    said += f" (paired 95 % interval {low:.3g} to {high:.3g})"
    if tail * n_prompts < _FEW:
        return f"{said}; the tail is of about {max(1, round(tail * n_prompts))} responses, so that this says little."
    told = "tell them apart" if high < 0 or low > 0 else "do not tell them apart: more decide prompts might"
    return f"{said}; these prompts {told}."
