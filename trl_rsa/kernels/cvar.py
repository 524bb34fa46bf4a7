"""The quantile of a weighted row without sorting it: selection by bins, from the top.

CVaR needs the threshold η, the largest loss with at least the mass `tail` at or above it. A sort of the vocabulary
finds it at about three times the cost of the projection that made the logits. Here one pass adds the probabilities
into equal bins between the smallest and the largest loss. Only the words of the bin with the quantile in it, usually a
few dozen, are looked at again and sorted. Whatever the losses are, η is one of them, not an approximation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trl_rsa.kernels.scratch import Scratch


_BINS = 4096
# So few are sorted: that costs less than another round of twenty small operations.
_SORTED = 2048
# Words of which one maximum says whether any of them is looked for.
_RUN = 128


def upper_quantiles(x: Tensor, p: Tensor, tails: Sequence[float], scratch: Scratch | None = None) -> Tensor:
    """For each tail mass the largest η with P(X ≥ η) ≥ tail·Σp.

    Args:
        x (`torch.Tensor` of shape `[R, V]`):
            Losses, float32 or float64. Infinite ones are allowed.
        p (`torch.Tensor` of shape `[R, V]`):
            Their probabilities, not necessarily normalised.
        tails (`Sequence[float]`):
            K tail masses in (0, 1].
        scratch ([`Scratch`], *optional*):
            Memory for what is needed in passing.

    Returns:
        `torch.Tensor` of shape `[R, K]`: the thresholds η, in the dtype of `x`.
    """
    # Summed in float64: 150,000 additions in float32 would lose two digits. (Apple's MPS has no float64.)
    scratch = scratch or Scratch()
    mass = p if p.device.type == "mps" else scratch.like(p, torch.float64).copy_(p)
    first = _fill_bins(x, mass, scratch) if x.shape[-1] > _SORTED else None
    total = (mass if first is None else first.mass).sum(-1, keepdim=True)
    etas = []
    for tail in tails:
        losses, masses, missing, bins = x, mass, tail * total, first
        while bins is not None and not bins.constant:
            losses, masses, missing = _choose_bin(losses, masses, missing, bins, scratch)
            bins = _fill_bins(losses, masses, scratch) if losses.shape[-1] > _SORTED else None
        if losses.shape[-1] > _SORTED and (losses == losses[:, :1]).all():
            etas.append(losses[:, :1])
        else:
            etas.append(_by_sorting(losses, masses, missing))
    return torch.cat(etas, -1)


class _Bins(NamedTuple):
    place: Tensor  # [R, V], the number of each word's bin in the dtype of x: 0 for the largest losses
    mass: Tensor  # [R, _BINS]
    constant: bool  # every row has one value; infinity and the largest number count as one


def _fill_bins(x: Tensor, mass: Tensor, scratch: Scratch) -> _Bins:
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    if not (high - low).isfinite().all():
        # Infinity becomes the largest number: the finite losses then share a bin, which the next round looks into.
        x = x.nan_to_num() / 4
        high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    # The bins of losses that differ by less would be narrower than the smallest number.
    close = (high > low) & (high - low <= torch.finfo(x.dtype).tiny * _BINS)
    if close.any():
        x = torch.where(close, x * 2.0**64, x)
        high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    constant = high == low
    # Every other row has words in the first bin and in the last or last but one: a round always leaves fewer.
    scale = torch.where(constant, 0.0, (_BINS - 1) / (high - low))
    place = torch.sub(high, x, out=scratch.like(x)).mul_(scale).floor_()
    index = scratch.like(x, torch.int64).copy_(place)
    return _Bins(place, mass.new_zeros(len(x), _BINS).scatter_add_(1, index, mass), bool(constant.all()))


def _choose_bin(
    x: Tensor, mass: Tensor, missing: Tensor, bins: _Bins, scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and masses in the bin where the mass from the top reaches `missing`, and what is still missing at it.

    All rows are as long as the longest: the others end with copies of their smallest loss that have no mass.
    """
    cumulative = bins.mass.cumsum(-1)
    # Rounds add in different orders: the quantile at the end of its bin must not leave it.
    reached = torch.searchsorted(cumulative, missing.minimum(cumulative[:, -1:])).clamp(max=_BINS - 1)
    rows, words = _nonzero_of_few(torch.eq(bins.place, reached, out=scratch.like(x)))
    counts = torch.bincount(rows, minlength=len(x))
    place = torch.arange(len(rows), device=x.device) - (counts.cumsum(0) - counts)[rows]
    shape = len(x), max(int(counts.max()), 1)
    losses = x.new_full(shape, torch.inf).index_put_((rows, place), x[rows, words])
    masses = mass.new_zeros(shape).index_put_((rows, place), mass[rows, words])
    filled = torch.arange(shape[1], device=x.device) < counts[:, None]
    losses = torch.where(filled, losses, losses.amin(-1, keepdim=True))
    return losses, masses, missing - (cumulative - bins.mass).gather(-1, reached)


def _nonzero_of_few(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x.nonzero(as_tuple=True)` of `[R, V]` numbers of 0 and 1, fast where 1 is rare: run by run."""
    whole = x.shape[1] - x.shape[1] % _RUN
    in_runs = x[:, :whole].unflatten(1, (whole // _RUN, _RUN))
    rows, runs = in_runs.amax(-1).nonzero(as_tuple=True)
    some, words = in_runs[rows, runs].nonzero(as_tuple=True)
    last_rows, last_words = x[:, whole:].nonzero(as_tuple=True)
    rows = torch.cat([rows[some], last_rows])
    order = rows.argsort(stable=True)
    return rows[order], torch.cat([runs[some] * _RUN + words, last_words + whole])[order]


def _by_sorting(x: Tensor, mass: Tensor, missing: Tensor) -> Tensor:
    worst_first, order = x.sort(-1, descending=True)
    cumulative = mass.gather(-1, order).cumsum(-1)
    place = torch.searchsorted(cumulative, missing.minimum(cumulative[:, -1:]))
    return worst_first.gather(-1, place.clamp(max=x.shape[-1] - 1))
