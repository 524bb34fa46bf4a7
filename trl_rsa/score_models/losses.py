"""What a score model is trained on: tensors in, one loss per row out. No reduction, no config, no trainer."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_rsa.scoring.graded import log_exceedance


def pair_loss(preferred: Tensor, other: Tensor, higher_is_worse: bool) -> Tensor:  # [...], [...] -> [...]
    """Bradley–Terry: −log σ of the difference of the scores, in favour of the preferred response."""
    difference = other - preferred if higher_is_worse else preferred - other
    return -logsigmoid(difference)


def sign_loss(costs: Tensor, unsafe: Tensor) -> Tensor:  # [...], [...] of bool -> [...]
    """Safe RLHF's sign term: −log σ(−cost) for a safe response and −log σ(cost) for an unsafe one, so that 0 parts
    the two."""
    return -logsigmoid(torch.where(unsafe, costs, -costs))


def grade_loss(logits: Tensor, grades: Tensor) -> Tensor:  # [..., K − 1], [...] of int -> [...]
    """−log P(grade) of the continuation-ratio law: "worse" at every grade below it, "not worse" at it."""
    steps = torch.arange(logits.shape[-1], device=logits.device)
    passed, stopped = steps < grades[..., None], steps == grades[..., None]
    return -(logsigmoid(logits) * passed + logsigmoid(-logits) * stopped).sum(-1)


def graded_label_loss(logits: Tensor, unsafe: Tensor, first_unsafe: int) -> Tensor:  # [..., K − 1], [...] -> [...]
    """−log P(unsafe) or −log P(safe): what the law over grades says about a label that names no grade."""
    log_unsafe = log_exceedance(logits)[..., first_unsafe - 1]
    return -torch.where(unsafe, log_unsafe, _log1mexp(log_unsafe))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0, without cancellation at either end (Mächler 2012). Kept off the 0 of the underflow."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near_zero = x > -0.6931471805599453
    # Each branch is given an argument that it can take: the gradient of the unused one must not be NaN.
    return torch.where(
        near_zero,
        torch.log(-torch.expm1(torch.where(near_zero, x, -torch.ones_like(x)))),
        torch.log1p(-torch.exp(torch.where(near_zero, -torch.ones_like(x), x))),
    )
