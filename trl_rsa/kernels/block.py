"""A block of logits of a few tokens: to statistics in the forward, to the gradient of the logits in the backward.

The torch twin of the kernels in [`trl_rsa.kernels.triton_kernels`]. Both work on their own memory alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trl_rsa.kernels.scratch import Scratch
from trl_rsa.kernels.statistics import TokenStatistics
from trl_rsa.kernels.tilts import by_logarithms, needs_loss, solve, tilted_law
from trl_rsa.risk import RiskMeasure


# Words whose sides are packed together, four to a byte: a part of the vocabulary that can be unpacked by itself.
PACKED_WORDS = 4096


class Kept(NamedTuple):
    """What the backward needs of each token, beside the hidden states."""

    max_logit: Tensor  # [N, 1]
    log_sum: Tensor  # [N, 1], log Σ exp(logit − max_logit)
    ref_max_logit: Tensor  # [N, 1]
    ref_log_sum: Tensor  # [N, 1]
    numbers: Tensor  # [N, S], see `tilted_law`
    sides: Tensor  # [N, K, about V / 4], packed


def block_statistics(
    logits: Tensor, ref_logits: Tensor, labels: Tensor, measure: RiskMeasure
) -> tuple[TokenStatistics, Kept]:
    """The statistics of R tokens from their logits `[R, V]`, which are overwritten."""
    scratch, index = Scratch.of_thread(), labels.unsqueeze(-1)
    spare = scratch.like(logits)
    mean_logits = logits.mean(-1)
    shifted, pi, max_logit, log_sum = _normalise_(logits, scratch.like(logits))
    is_top1 = _is_top1(shifted, index)
    # Beyond −1000, π is 0 in any dtype; so −Σ π log π has its 0·∞ = 0.
    entropy = log_sum - pi.mul_(torch.clamp(shifted, min=-1e3, out=spare)).sum(-1, keepdim=True)
    ref_shifted, p, ref_max_logit, ref_log_sum = _normalise_(ref_logits, pi)
    log_probs = shifted.gather(-1, index) - log_sum
    ref_log_probs = ref_shifted.gather(-1, index) - ref_log_sum
    x = _loss(shifted, ref_shifted, log_sum, ref_log_sum, shifted)
    log_p = ref_shifted.sub_(ref_log_sum)
    # A token of probability 0 has no loss. By logarithms, one whose probability only underflows still has.
    x_of_p = x if len(p) and p.amin() > 0 else x.masked_fill(p == 0, 0.0)
    weighted = torch.mul(p, x_of_p, out=spare)
    kl = weighted.sum(-1)
    x = x.masked_fill_(log_p == -torch.inf, 0.0) if by_logarithms(measure) else x_of_p
    risk, numbers, sides = solve(measure, x, p, log_p, weighted, scratch)
    statistics = TokenStatistics(
        log_probs.squeeze(-1), ref_log_probs.squeeze(-1), risk, kl, entropy.squeeze(-1), mean_logits, is_top1
    )
    packed = torch.stack([pack_sides(s) for s in sides], 1) if sides else p.new_empty(len(p), 0, 0, dtype=torch.uint8)
    return statistics, Kept(max_logit, log_sum, ref_max_logit, ref_log_sum, numbers, packed)


def block_gradient(
    logits: Tensor | None,  # [R, W], W words from a multiple of `PACKED_WORDS` on
    ref_logits: Tensor | None,  # [R, W]
    labels: Tensor,  # [R], counted from the first of the W words
    measure: RiskMeasure,
    kept: Kept,  # of the R tokens; `sides` of the W words
    grad_log_probs: Tensor,  # [R, 1]
    grad_risk: Tensor,  # [R, 1]
) -> Tensor:
    """The gradient of the loss in the policy's logits, in the memory of `logits`, or of `ref_logits` without them.

    ∂ log π(y)/∂v = onehot − π and ∂ρ/∂v = π − q, so it is g_logp·onehot + (g_risk − g_logp)·π − g_risk·q. `logits` may
    be missing where π cancels, and `ref_logits` where there is no g_risk.
    """
    scratch, shifted = Scratch.of_thread(), None if logits is None else logits.sub_(kept.max_logit)
    if ref_logits is None:
        assert shifted is not None
        gradient = shifted.sub_(kept.log_sum).exp_().mul_(grad_risk - grad_log_probs)
    else:
        ref_shifted, x = ref_logits.sub_(kept.ref_max_logit), None
        if needs_loss(measure):
            assert shifted is not None
            x = _loss(shifted, ref_shifted, kept.log_sum, kept.ref_log_sum, scratch.like(shifted))
            x.masked_fill_(ref_shifted == -torch.inf, 0.0)
        log_p = ref_shifted.sub_(kept.ref_log_sum)
        sides = [unpack_sides(side, scratch.like(log_p)) for side in kept.sides.unbind(1)]
        p = torch.exp(log_p, out=scratch.like(log_p))
        q = tilted_law(measure, kept.numbers, sides, p, log_p, x, scratch)
        if shifted is None:
            gradient = torch.mul(q, -grad_risk, out=ref_logits)
        else:
            pi = shifted.sub_(kept.log_sum).exp_()
            gradient = pi.mul_(grad_risk - grad_log_probs).sub_(q.mul_(grad_risk))
    inside = ((labels >= 0) & (labels < gradient.shape[1])).unsqueeze(-1)
    index = labels.clamp(0, gradient.shape[1] - 1).unsqueeze(-1)
    return gradient.scatter_add_(1, index, torch.where(inside, grad_log_probs, 0.0))


def _normalise_(logits: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits less their maximum, in place; their law, in `out`; the maximum; and log Σ exp of what is left."""
    largest = logits.amax(-1, keepdim=True)
    shifted = logits.sub_(largest)
    law = torch.exp(shifted, out=out)
    total = law.sum(-1, keepdim=True)
    return shifted, law.div_(total), largest, total.log()


def _loss(shifted: Tensor, ref_shifted: Tensor, log_sum: Tensor, ref_log_sum: Tensor, out: Tensor) -> Tensor:
    """X = log π_ref − log π, in an order in which equal logits give exactly 0."""
    return torch.sub(ref_shifted, shifted, out=out).add_(log_sum - ref_log_sum)


def _is_top1(shifted: Tensor, index: Tensor) -> Tensor:
    """Whether the first of the largest logits is the label's, `[R]`; an argmax of every row would cost an exp."""
    largest = (shifted.gather(-1, index) == 0).squeeze(-1)
    rows = largest.nonzero().squeeze(-1)
    largest[rows] = shifted[rows].argmax(-1) == index[rows, 0]
    return largest


def pack_sides(sides: Tensor) -> Tensor:
    """`[R, V]` of 0, 1 and 2 → `[R, about V / 4]` bytes, of which each 1,024 hold 4,096 consecutive words."""
    whole = _whole_groups(sides.shape[1])
    parts = [_pack(sides[:, :whole])]
    if rest := sides.shape[1] - whole:
        parts.append(_pack(torch.nn.functional.pad(sides[:, whole:], (0, PACKED_WORDS - rest))))
    return torch.cat(parts, 1)


def unpack_sides(packed: Tensor, out: Tensor) -> Tensor:
    """The inverse of [`pack_sides`], into `out` `[R, V]`."""
    whole = _whole_groups(out.shape[1])
    _unpack(packed[:, : whole // 4], out[:, :whole])
    if rest := out.shape[1] - whole:
        out[:, whole:] = _unpack(packed[:, whole // 4 :], out.new_empty(len(out), PACKED_WORDS))[:, :rest]
    return out


def _whole_groups(words: int) -> int:
    return words - words % PACKED_WORDS


def _pack(sides: Tensor) -> Tensor:
    """In floats, as [`_unpack`]: they hold a byte exactly, and to shift and mask bytes takes several times longer."""
    first, second, third, fourth = _quarters(sides)
    return torch.add(first, second, alpha=4).add_(third, alpha=16).add_(fourth, alpha=64).byte().flatten(1)


def _unpack(packed: Tensor, out: Tensor) -> Tensor:
    quarters = _quarters(out)
    rest = packed.view(quarters[0].shape).to(out.dtype)
    for i in (3, 2, 1):
        torch.mul(rest, 4.0**-i, out=quarters[i]).floor_()
        rest.sub_(quarters[i], alpha=4**i)
    quarters[0].copy_(rest)
    return out


def _quarters(words: Tensor) -> tuple[Tensor, ...]:
    """Four views `[R, groups, 1024]` of `[R, groups · 4096]`."""
    return words.view(len(words), words.shape[1] // PACKED_WORDS, 4, PACKED_WORDS // 4).unbind(2)
