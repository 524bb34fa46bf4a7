"""Ways to find the quantile of each row of a tile, beside the selection by bins that the kernel uses."""

import torch
from torch import Tensor

from trl_rsa.kernels.cvar import upper_quantiles
from trl_rsa.kernels.scratch import Scratch


def by_sorting(x: Tensor, p: Tensor, tail: float) -> Tensor:
    worst_first, order = x.sort(-1, descending=True)
    place = (p.gather(-1, order).cumsum(-1) < tail).sum(-1, keepdim=True)
    return worst_first.gather(-1, place.clamp(max=x.shape[-1] - 1))


def by_bisection(x: Tensor, p: Tensor, tail: float, precision: float = 1e-6) -> Tensor:
    """To `precision`, about 24 passes, each a comparison and a dot product."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    memory = torch.empty_like(x)
    while ((high - low) > precision).any():
        middle = (low + high) / 2
        if torch.equal(middle, low) or torch.equal(middle, high):
            break
        enough = torch.ge(x, middle, out=memory).mul_(p).sum(-1, keepdim=True) >= tail
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low


def by_interpolation(x: Tensor, p: Tensor, tail: float, precision: float = 1e-6) -> Tensor:
    """Regula falsi and bisection in turn, to `precision`."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    at_low, at_high = torch.full_like(low, 1 - tail), torch.full_like(low, -tail)
    memory = torch.empty_like(x)
    for i in range(64):
        if not ((high - low) > precision).any():
            break
        share = at_low / (at_low - at_high) if i % 2 == 0 else torch.full_like(low, 0.5)
        t = low + (high - low) * share.clamp(0.01, 0.99)
        at_t = torch.ge(x, t, out=memory).mul_(p).sum(-1, keepdim=True) - tail
        high, at_high = torch.where(at_t < 0, t, high), torch.where(at_t < 0, at_t, at_high)
        low, at_low = torch.where(at_t < 0, low, t), torch.where(at_t < 0, at_low, at_t)
    return low


SOLVERS = {
    "selection by bins": lambda x, p, tail: upper_quantiles(x, p, [tail], Scratch.of_thread()),
    "bisection": by_bisection,
    "interpolation": by_interpolation,
    "sort": by_sorting,
}
