"""Scores divided by their own spread while a model is trained, as Safe RLHF's `*ForScore` models may have it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


NormalizerType = Literal["RunningMeanStd", "ExponentialMovingAverage"]
_EPSILON = 1e-8


@dataclass
class ScoreNormalizer:
    """
    Mean and variance of the scores seen so far.

    A reward becomes (score − mean)/std; a cost score/std, so that its zero stays where it is.

    Args:
        type (`str`): `"RunningMeanStd"` over all scores, or `"ExponentialMovingAverage"`.
        momentum (`float`): Of the moving average: the weight of what was there before.
        center (`bool`): Whether the mean is subtracted (a reward).
    """

    type: NormalizerType
    momentum: float
    center: bool
    mean: float = 0.0
    var: float = 1.0
    count: int = 0

    def update(self, scores: Tensor) -> None:  # [N]
        values = scores.detach().double()
        mean, var, count = float(values.mean()), float(values.var(correction=0)), values.numel()
        if self.count == 0:
            # One score alone has no spread; the unit is kept until there is one.
            self.mean, self.var = mean, var or 1.0
        elif self.type == "ExponentialMovingAverage":
            self.mean = self.momentum * self.mean + (1 - self.momentum) * mean
            self.var = self.momentum * self.var + (1 - self.momentum) * var
        else:
            total, gap = self.count + count, mean - self.mean
            inner = self.var * self.count + var * count + gap**2 * self.count * count / total
            self.mean, self.var = self.mean + gap * count / total, inner / total
        self.count += count

    def __call__(self, scores: Tensor) -> Tensor:  # [...] -> [...]
        return (scores - (self.mean if self.center else 0.0)) / (self.var**0.5 + _EPSILON)

    def tensors(self) -> dict[str, Tensor]:
        """The buffers of a `*ForScore` folder."""
        return {
            "normalizer.mean": torch.tensor([self.mean], dtype=torch.float32),
            "normalizer.var": torch.tensor([self.var], dtype=torch.float32),
            "normalizer.count": torch.tensor([self.count], dtype=torch.long),
        }
