"""The twins of [`trl_rsa.kernels.block`] in Triton, for CUDA and ROCm: one program per token, float32.

The same functions of the same logits, with the same `Kept` between forward and backward. A row of logits is read
twice for the statistics and six times more for a CVaR: four to find the quantile's bin of 4,096, one to take out the
few words in it, and one for the masses on either side.
"""

# Python < 3.14 evaluates annotations where they stand, and `tl` exists only with Triton.
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trl_rsa.kernels.block import PACKED_WORDS, Kept
from trl_rsa.kernels.statistics import TokenStatistics
from trl_rsa.kernels.tilts import cvar_mixture, split_atom
from trl_rsa.risk import (
    CVaR,
    Entropic,
    Expectation,
    MeanCVaR,
    RiskMeasure,
    Spectral,
    UpperSemideviation,
    WorstCase,
)
from trl_rsa.risk.measures import TIE_TOLERANCE


TRITON_AVAILABLE = importlib.util.find_spec("triton") is not None

if TRITON_AVAILABLE:
    import triton
    import triton.language as tl


def _jit(kernel):
    return triton.jit(kernel) if TRITON_AVAILABLE else kernel


def is_usable(logits: Tensor) -> bool:
    """Whether these kernels can work on logits like these."""
    return TRITON_AVAILABLE and logits.device.type == "cuda" and logits.dtype == torch.float32


@_jit
def _loss_and_law(z_row, r_row, offsets, mask, z_max, z_log, r_max, r_log):
    # X = log π_ref − log π and log p of some words, in an order in which equal logits give exactly 0.
    z = tl.load(z_row + offsets, mask=mask, other=-float("inf"))
    r = tl.load(r_row + offsets, mask=mask, other=-float("inf"))
    x = ((r - r_max) - (z - z_max)) + (z_log - r_log)
    log_p = (r - r_max) - r_log
    return tl.where(log_p == -float("inf"), 0.0, x), log_p


@_jit
def _statistics_kernel(z_ptr, z_stride, r_ptr, r_stride, label_ptr, out_ptr, n_words, BLOCK: tl.constexpr):
    # Per row: both normalisations in one online pass, then what needs them in a second. Each lane has its own sums,
    # and they are added at the end: to add up every block would make the lanes wait for each other.
    row = tl.program_id(0).to(tl.int64)
    z_row, r_row = z_ptr + row * z_stride, r_ptr + row * r_stride
    label = tl.load(label_ptr + row)
    nothing = tl.zeros((BLOCK,), tl.float32)
    z_top, r_top, before = nothing - float("inf"), nothing - float("inf"), nothing - float("inf")
    z_sums, r_sums, z_total = nothing, nothing, nothing
    for start in range(0, n_words, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < n_words
        z = tl.load(z_row + offsets, mask=mask, other=-float("inf"))
        r = tl.load(r_row + offsets, mask=mask, other=-float("inf"))
        z_total += tl.where(mask, z, 0.0)
        # argmax returns the first of equal maxima, so that a tie with an earlier word is no top-1.
        before = tl.maximum(before, tl.where(offsets < label, z, -float("inf")))
        z_top, z_sums = _add_exponential(z_top, z_sums, z)
        r_top, r_sums = _add_exponential(r_top, r_sums, r)
    z_max, z_sum = _sum_of_exponentials(z_top, z_sums)
    r_max, r_sum = _sum_of_exponentials(r_top, r_sums)
    z_log, r_log = tl.log(z_sum), tl.log(r_sum)
    entropy, kl, worst, least = nothing, nothing, nothing - float("inf"), nothing + float("inf")
    for start in range(0, n_words, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < n_words
        shifted = tl.load(z_row + offsets, mask=mask, other=-float("inf")) - z_max
        # 0·∞ = 0, here and below.
        entropy += tl.exp(shifted) * tl.maximum(shifted, -1000.0)
        x, log_p = _loss_and_law(z_row, r_row, offsets, mask, z_max, z_log, r_max, r_log)
        p = tl.exp(log_p)
        kl += tl.where(p == 0, 0.0, p * x)
        worst = tl.maximum(worst, tl.where(log_p == -float("inf"), -float("inf"), x))
        least = tl.minimum(least, tl.where(log_p == -float("inf"), float("inf"), x))
    z_label, r_label = tl.load(z_row + label), tl.load(r_row + label)
    out = out_ptr + row * 12
    tl.store(out, z_max)
    tl.store(out + 1, z_log)
    tl.store(out + 2, r_max)
    tl.store(out + 3, r_log)
    tl.store(out + 4, (z_label - z_max) - z_log)
    tl.store(out + 5, (r_label - r_max) - r_log)
    tl.store(out + 6, tl.sum(kl, axis=0))
    tl.store(out + 7, z_log - tl.sum(entropy, axis=0) / z_sum)
    tl.store(out + 8, tl.sum(z_total, axis=0) / n_words)
    tl.store(out + 9, ((z_label >= z_max) & (tl.max(before, axis=0) < z_label)).to(tl.float32))
    tl.store(out + 10, tl.max(worst, axis=0))
    tl.store(out + 11, tl.min(least, axis=0))


@_jit
def _add_exponential(top, total, x):
    # Σ e^{x − top} in each lane, with the largest so far as top.
    new = tl.maximum(top, x)
    shift = tl.where(tl.abs(new) == float("inf"), 0.0, new)
    return new, total * tl.exp(top - shift) + tl.exp(x - shift)


@_jit
def _sum_of_exponentials(top, total):
    # The lanes' sums together, relative to the largest top of all.
    largest = tl.max(top, axis=0)
    shift = tl.where(tl.abs(largest) == float("inf"), 0.0, largest)
    return largest, tl.sum(tl.where(total == 0, 0.0, total * tl.exp(top - shift)), axis=0)


@_jit
def _bin(x, low, high):
    # 4,096 bins of equal width, 0 for the largest losses. All are in the first where the losses are infinite or next
    # to equal.
    width = high - low
    usable = (width > 1e-30) & (width < 1e38)
    scale = 4096.0 / tl.where(usable, width, 1.0)
    return tl.where(usable, tl.minimum((high - x) * scale, 4095.0), 0.0).to(tl.int32)


@_jit
def _next(k, mass, target, digit, passed, reached):
    # One bin further down, as long as the mass from the top is below the target.
    goes_on = reached < target
    digit = tl.where(goes_on, k, digit)
    passed = tl.where(goes_on, reached, passed)
    return digit, passed, tl.where(goes_on, reached + mass, reached)


@_jit
def _bin_kernel(
    z_ptr,
    z_stride,
    r_ptr,
    r_stride,
    kept_ptr,
    tail_ptr,
    missing_ptr,  # [R, K]: mass from the top of the chosen bin to the quantile
    chosen_ptr,  # [R, K, 2]: the bin, and how many words are in it
    x_ptr,  # [R, K, CAPACITY]: their losses and masses, as far as there is room
    p_ptr,
    n_words,
    n_tails,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # In which of 4,096 bins the quantile is, three bits in each pass: eight sums fit in registers.
    row = tl.program_id(0).to(tl.int64)
    tail = tl.program_id(1)
    z_row, r_row, kept = z_ptr + row * z_stride, r_ptr + row * r_stride, kept_ptr + row * 12
    z_max, z_log = tl.load(kept), tl.load(kept + 1)
    r_max, r_log = tl.load(kept + 2), tl.load(kept + 3)
    high, low = tl.load(kept + 10), tl.load(kept + 11)
    n = tl.where(low == high, 0, n_words)  # then there is nothing to look for
    target = tl.load(tail_ptr + tail)
    nothing = tl.zeros((BLOCK,), tl.float32)
    prefix = 0
    for level in tl.static_range(4):
        shift = 9 - 3 * level
        h0, h1, h2, h3, h4, h5, h6, h7 = nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
        for start in range(0, n, BLOCK):
            offsets = start + tl.arange(0, BLOCK)
            x, log_p = _loss_and_law(z_row, r_row, offsets, offsets < n_words, z_max, z_log, r_max, r_log)
            p = tl.exp(log_p)
            place = _bin(x, low, high)
            part = tl.where((place >> (shift + 3)) == prefix, (place >> shift) & 7, 8)
            h0 += tl.where(part == 0, p, 0.0)
            h1 += tl.where(part == 1, p, 0.0)
            h2 += tl.where(part == 2, p, 0.0)
            h3 += tl.where(part == 3, p, 0.0)
            h4 += tl.where(part == 4, p, 0.0)
            h5 += tl.where(part == 5, p, 0.0)
            h6 += tl.where(part == 6, p, 0.0)
            h7 += tl.where(part == 7, p, 0.0)
        m0, m1, m2, m3 = tl.sum(h0, axis=0), tl.sum(h1, axis=0), tl.sum(h2, axis=0), tl.sum(h3, axis=0)
        m4, m5, m6, m7 = tl.sum(h4, axis=0), tl.sum(h5, axis=0), tl.sum(h6, axis=0), tl.sum(h7, axis=0)
        total = m0 + m1 + m2 + m3 + m4 + m5 + m6 + m7
        if level == 0:
            target = target * total
        # Passes add in different orders: the quantile at the end of its bin must not leave it.
        target = tl.minimum(target, total)
        digit, passed, reached = _next(1, m1, target, 0, 0.0, m0)
        digit, passed, reached = _next(2, m2, target, digit, passed, reached)
        digit, passed, reached = _next(3, m3, target, digit, passed, reached)
        digit, passed, reached = _next(4, m4, target, digit, passed, reached)
        digit, passed, reached = _next(5, m5, target, digit, passed, reached)
        digit, passed, reached = _next(6, m6, target, digit, passed, reached)
        digit, passed, reached = _next(7, m7, target, digit, passed, reached)
        prefix = prefix * 8 + digit
        target -= passed
    place = row * n_tails + tail
    count = 0
    for start in range(0, n, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < n_words
        x, log_p = _loss_and_law(z_row, r_row, offsets, mask, z_max, z_log, r_max, r_log)
        p = tl.exp(log_p)
        inside = mask & (p > 0) & (_bin(x, low, high) == prefix)
        at = count + tl.cumsum(inside.to(tl.int32), axis=0) - 1
        room = inside & (at < CAPACITY)
        tl.store(x_ptr + place * CAPACITY + at, x, mask=room)
        tl.store(p_ptr + place * CAPACITY + at, p, mask=room)
        count += tl.sum(inside.to(tl.int32), axis=0)
    tl.store(missing_ptr + place, target)
    tl.store(chosen_ptr + place * 2, prefix)
    tl.store(chosen_ptr + place * 2 + 1, count)


@_jit
def _quantile_kernel(
    z_ptr,
    z_stride,
    r_ptr,
    r_stride,
    kept_ptr,
    missing_ptr,
    chosen_ptr,
    x_ptr,
    p_ptr,
    eta_ptr,
    n_words,
    n_tails,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Radix selection among the words of the chosen bin, four bits of the losses at a time: exact whatever they are.
    # Words that found no room, losses that share a value for example, are looked for in the logits once more.
    row = tl.program_id(0).to(tl.int64)
    place = row * n_tails + tl.program_id(1)
    z_row, r_row, kept = z_ptr + row * z_stride, r_ptr + row * r_stride, kept_ptr + row * 12
    z_max, z_log = tl.load(kept), tl.load(kept + 1)
    r_max, r_log = tl.load(kept + 2), tl.load(kept + 3)
    high, low = tl.load(kept + 10), tl.load(kept + 11)
    target = tl.load(missing_ptr + place)
    chosen, count = tl.load(chosen_ptr + place * 2), tl.load(chosen_ptr + place * 2 + 1)
    n = tl.where(low == high, 0, tl.where(count > CAPACITY, n_words, count))
    bins = tl.arange(0, 16)
    prefix = tl.zeros((), tl.int64)
    for level in range(8):
        shift = (7 - level) * 4
        histogram = tl.zeros((16,), tl.float32)
        for start in range(0, n, BLOCK):
            offsets = start + tl.arange(0, BLOCK)
            if count > CAPACITY:
                x, log_p = _loss_and_law(z_row, r_row, offsets, offsets < n_words, z_max, z_log, r_max, r_log)
                p = tl.where(_bin(x, low, high) == chosen, tl.exp(log_p), 0.0)
            else:
                x = tl.load(x_ptr + place * CAPACITY + offsets, mask=offsets < count, other=0.0)
                p = tl.load(p_ptr + place * CAPACITY + offsets, mask=offsets < count, other=0.0)
            bits = tl.where(p == 0, 0.0, x).to(tl.int32, bitcast=True)
            # Unsigned integers, the worst loss first.
            keys = tl.where(bits < 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64) & 0xFFFFFFFF
            digit = tl.where((keys >> (shift + 4)) == prefix, (keys >> shift) & 15, 16)
            histogram += tl.sum(tl.where(digit[:, None] == bins[None, :], p[:, None], 0.0), axis=0)
        mass = tl.cumsum(histogram, axis=0)
        target = tl.minimum(target, tl.max(mass, axis=0))
        found = tl.minimum(tl.sum((mass < target).to(tl.int64), axis=0), 15)
        target -= tl.sum(tl.where(bins < found, histogram, 0.0), axis=0)
        prefix = prefix * 16 + found
    bits = prefix.to(tl.int32)
    bits = tl.where(bits < 0, bits, bits ^ 0x7FFFFFFF)
    tl.store(eta_ptr + place, tl.where(low == high, high, bits.to(tl.float32, bitcast=True)))


@_jit
def _sides_kernel(
    z_ptr,
    z_stride,
    r_ptr,
    r_stride,
    kept_ptr,
    low_ptr,  # [R, K]: on the threshold are losses from here
    high_ptr,  # [R, K]: to here, and above it beyond
    sums_ptr,  # [R, K, 4]: mass and loss above, mass and loss on it
    sides_ptr,  # [R, K, packed]
    n_words,
    n_packed,
    n_sides,
    QUARTER: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    side = tl.program_id(1)
    z_row, r_row, kept = z_ptr + row * z_stride, r_ptr + row * r_stride, kept_ptr + row * 12
    z_max, z_log = tl.load(kept), tl.load(kept + 1)
    r_max, r_log = tl.load(kept + 2), tl.load(kept + 3)
    place = row * n_sides + side
    low, high = tl.load(low_ptr + place), tl.load(high_ptr + place)
    nothing = tl.zeros((QUARTER,), tl.float32)
    above_mass, above_loss, atom_mass, atom_loss = nothing, nothing, nothing, nothing
    for start in range(0, n_packed, QUARTER):
        packed = tl.zeros((QUARTER,), tl.int32)
        for i in tl.static_range(4):
            offsets = start * 4 + i * QUARTER + tl.arange(0, QUARTER)
            mask = offsets < n_words
            x, log_p = _loss_and_law(z_row, r_row, offsets, mask, z_max, z_log, r_max, r_log)
            p = tl.exp(log_p)
            above = mask & (x > high)
            atom = mask & (x >= low) & (x <= high)
            loss = tl.where(p == 0, 0.0, p * x)
            above_mass += tl.where(above, p, 0.0)
            above_loss += tl.where(above, loss, 0.0)
            atom_mass += tl.where(atom, p, 0.0)
            atom_loss += tl.where(atom, loss, 0.0)
            packed |= (above.to(tl.int32) * 2 + atom.to(tl.int32)) << (2 * i)
        tl.store(sides_ptr + place * n_packed + start + tl.arange(0, QUARTER), packed.to(tl.uint8))
    sums = sums_ptr + place * 4
    tl.store(sums, tl.sum(above_mass, axis=0))
    tl.store(sums + 1, tl.sum(above_loss, axis=0))
    tl.store(sums + 2, tl.sum(atom_mass, axis=0))
    tl.store(sums + 3, tl.sum(atom_loss, axis=0))


@_jit
def _exponential_kernel(
    z_ptr, z_stride, r_ptr, r_stride, kept_ptr, mean_ptr, low_ptr, theta, out_ptr, n_words, BLOCK: tl.constexpr
):
    # Over losses from `low` on: log Σ p e^{θ(X − mean)}, the same at θ = 0, and the mean loss under the law of the
    # first. Both sums go the same way, so that equal models have a risk of exactly 0.
    row = tl.program_id(0).to(tl.int64)
    z_row, r_row, kept = z_ptr + row * z_stride, r_ptr + row * r_stride, kept_ptr + row * 12
    z_max, z_log = tl.load(kept), tl.load(kept + 1)
    r_max, r_log = tl.load(kept + 2), tl.load(kept + 3)
    mean, low = tl.load(mean_ptr + row), tl.load(low_ptr + row)
    nothing = tl.zeros((BLOCK,), tl.float32)
    top, total, loss = nothing - float("inf"), nothing, nothing
    plain_top, plain = nothing - float("inf"), nothing
    for start in range(0, n_words, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < n_words
        x, log_p = _loss_and_law(z_row, r_row, offsets, mask, z_max, z_log, r_max, r_log)
        log_p = tl.where(mask & (x >= low), log_p, -float("inf"))
        # θ·∞ with θ = 0 is not a number.
        y = log_p + tl.where(theta == 0, 0.0, theta * (x - mean))
        new = tl.maximum(top, y)
        shift = tl.where(tl.abs(new) == float("inf"), 0.0, new)
        e = tl.exp(y - shift)
        loss = tl.where(loss == 0, 0.0, loss * tl.exp(top - shift)) + tl.where(e == 0, 0.0, e * x)
        top, total = _add_exponential(top, total, y)
        plain_top, plain = _add_exponential(plain_top, plain, log_p)
    largest, all_total = _sum_of_exponentials(top, total)
    shift = tl.where(tl.abs(largest) == float("inf"), 0.0, largest)
    all_loss = tl.sum(tl.where(loss == 0, 0.0, loss * tl.exp(top - shift)), axis=0)
    plain_largest, all_plain = _sum_of_exponentials(plain_top, plain)
    tl.store(out_ptr + row * 3, largest + tl.log(all_total))
    tl.store(out_ptr + row * 3 + 1, plain_largest + tl.log(all_plain))
    tl.store(out_ptr + row * 3 + 2, all_loss / all_total)


@_jit
def _gradient_kernel(
    z_ptr,
    z_stride,
    r_ptr,
    r_stride,
    label_ptr,
    kept_ptr,  # [R, 4]
    numbers_ptr,
    sides_ptr,
    sides_stride,  # of a token
    side_stride,  # of one of its thresholds
    grad_log_probs_ptr,
    grad_risk_ptr,
    theta,
    n_words,
    n_numbers,
    HAS_POLICY: tl.constexpr,
    HAS_REFERENCE: tl.constexpr,
    LAW: tl.constexpr,  # 0: STEPS, 1: ENTROPIC, 2: WORST_CASE
    N_SIDES: tl.constexpr,
    QUARTER: tl.constexpr,
):
    # g_logp·onehot + (g_risk − g_logp)·π − g_risk·q, in place, one quarter of a packed group at a time
    row = tl.program_id(0).to(tl.int64)
    quarter = tl.program_id(1)
    offsets = quarter * QUARTER + tl.arange(0, QUARTER)
    mask = offsets < n_words
    packed_at = (quarter // 4) * QUARTER + tl.arange(0, QUARTER)
    kept, numbers = kept_ptr + row * 4, numbers_ptr + row * n_numbers
    g_logp, g_risk = tl.load(grad_log_probs_ptr + row), tl.load(grad_risk_ptr + row)
    is_label = offsets == tl.load(label_ptr + row)
    gradient = tl.where(is_label, g_logp, 0.0)
    if HAS_POLICY:
        shifted = tl.load(z_ptr + row * z_stride + offsets, mask=mask, other=0.0) - tl.load(kept)
        gradient += (g_risk - g_logp) * tl.exp(shifted - tl.load(kept + 1))
    if HAS_REFERENCE:
        ref_shifted = tl.load(r_ptr + row * r_stride + offsets, mask=mask, other=0.0) - tl.load(kept + 2)
        log_p = ref_shifted - tl.load(kept + 3)
        if LAW == 1:
            x = (ref_shifted - shifted) + (tl.load(kept + 1) - tl.load(kept + 3))
            x = tl.where(log_p == -float("inf"), 0.0, x)
            q = tl.exp(log_p + theta * (x - tl.load(numbers)) - tl.load(numbers + 1))
        elif LAW == 2:
            packed = tl.load(sides_ptr + row * sides_stride + packed_at).to(tl.int32)
            on = (packed >> (2 * (quarter % 4))) & 3
            q = tl.where(on > 0, tl.exp(tl.minimum(log_p - tl.load(numbers), 0.0)), 0.0)
        else:
            factor = tl.zeros((QUARTER,), tl.float32) + tl.load(numbers)
            for k in tl.static_range(N_SIDES):
                packed = tl.load(sides_ptr + row * sides_stride + k * side_stride + packed_at).to(tl.int32)
                side = (packed >> (2 * (quarter % 4))) & 3
                factor += tl.where(side == 1, tl.load(numbers + 1 + 2 * k), 0.0)
                factor += tl.where(side == 2, tl.load(numbers + 2 + 2 * k), 0.0)
            q = factor * tl.exp(log_p)
        gradient -= g_risk * q
    if HAS_POLICY:
        tl.store(z_ptr + row * z_stride + offsets, gradient, mask=mask)
    else:
        tl.store(r_ptr + row * r_stride + offsets, gradient, mask=mask)


# A tile has few rows, and each its own program: they must have many warps. Four words in each lane.
BLOCK, WARPS = 1024, 8
# Words of the chosen bin that are kept beside the logits, and what part of them at most: it shall cost little memory.
CAPACITY, PART = 4096, 16


def block_statistics(
    logits: Tensor, ref_logits: Tensor, labels: Tensor, measure: RiskMeasure
) -> tuple[TokenStatistics, Kept]:
    """[`trl_rsa.kernels.block.block_statistics`], which leaves the logits as they are."""
    rows, words = logits.shape
    table = logits.new_empty(rows, 12)
    tiles = logits, logits.stride(0), ref_logits, ref_logits.stride(0)
    if rows:
        _statistics_kernel[(rows,)](*tiles, labels, table, words, BLOCK=BLOCK, num_warps=WARPS)
    risk, numbers, sides = TWINS[type(measure)].solve(measure, Tiles(tiles, table))
    statistics = TokenStatistics(
        table[:, 4], table[:, 5], risk.squeeze(-1), table[:, 6], table[:, 7], table[:, 8], table[:, 9] > 0
    )
    z_max, z_log, r_max, r_log = (table[:, i : i + 1].clone() for i in range(4))
    return TokenStatistics(*(x.clone() for x in statistics)), Kept(z_max, z_log, r_max, r_log, numbers, sides)


class Tiles(NamedTuple):
    """The logits of R tokens, and what the first kernel has found of them."""

    logits: tuple[Tensor, int, Tensor, int]  # of both models, each with the stride between its rows
    table: Tensor  # [R, 12], see `_statistics_kernel`

    @property
    def mean(self) -> Tensor:  # [R, 1], of the losses under the reference
        return self.table[:, 6:7]

    @property
    def worst(self) -> Tensor:  # [R, 1]
        return self.table[:, 10:11]

    @property
    def tolerance(self) -> float:
        return TIE_TOLERANCE[self.table.dtype]


# What each measure's solver returns: the risk `[R, 1]`, the numbers of its law `[R, S]`, and the packed sides.
Solved = tuple[Tensor, Tensor, Tensor]


def _solve_entropic(measure: Entropic, tiles: Tiles) -> Solved:
    theta, mean = measure.theta, tiles.mean
    centre = torch.where(mean.isfinite(), mean, 0.0)
    log_norm, plain, _ = _exponential(tiles, centre, torch.full_like(mean, -torch.inf), theta)
    return centre + (log_norm - plain) / theta, torch.cat([centre, log_norm], -1), _no_sides(tiles)


def _solve_worst_case(measure: WorstCase, tiles: Tiles) -> Solved:
    low = tiles.worst - tiles.tolerance
    log_mass, _, risk = _exponential(tiles, torch.zeros_like(low), low, 0.0)
    _, sides = _sides(tiles, low, torch.full_like(low, torch.inf))
    return risk, log_mass, sides


def _solve_semideviation(measure: UpperSemideviation, tiles: Tiles) -> Solved:
    weight, mean = measure.weight, tiles.mean
    sums, sides = _sides(tiles, torch.full_like(mean, torch.inf), mean + tiles.tolerance)
    base = 1 - weight * sums[:, :, 0]
    numbers = torch.cat([base, torch.zeros_like(base), torch.full_like(base, weight)], -1)
    return base * mean + weight * sums[:, :, 1], numbers, sides


def _solve_cvar(measure: RiskMeasure, tiles: Tiles) -> Solved:
    of_mean, parts = cvar_mixture(measure)
    table, mean = tiles.table, tiles.mean
    risk = of_mean * mean if of_mean else torch.zeros_like(mean)  # the mean may be infinite
    numbers = [torch.full_like(mean, of_mean)]
    if not parts:
        return risk, numbers[0], _no_sides(tiles)
    tails = [max(tail, torch.finfo(table.dtype).tiny) for tail, _ in parts]
    eta = _quantiles(tiles, tails)
    sums, sides = _sides(tiles, eta - tiles.tolerance, eta + tiles.tolerance)
    for k, (tail, (_, weight)) in enumerate(zip(tails, parts, strict=True)):
        above_mass, above_loss, atom_mass, atom_loss = sums[:, k].split(1, -1)
        share, full = split_atom(tail, weight, above_mass, atom_mass)
        risk = risk + full * (above_loss + share * atom_loss)
        numbers += [share * full, full]
    return risk, torch.cat(numbers, -1), sides


@dataclass(frozen=True)
class Twin:
    """All that these kernels know about a measure.

    Args:
        solve (`Callable`):
            `(measure, tiles) -> (risk, numbers, sides)`.
        law (`int`):
            Which branch of `_gradient_kernel` is compiled. A number, not a function as in
            [`~kernels.tilts.Tilt`]: Triton compiles a kernel from its own source, and chooses inside it by constants.
    """

    solve: Callable[[Any, Tiles], Solved]
    law: int


STEPS, ENTROPIC, WORST_CASE = range(3)

# By exact class, as in `tilts.TILTS`.
TWINS: dict[type, Twin] = {
    Expectation: Twin(_solve_cvar, STEPS),
    CVaR: Twin(_solve_cvar, STEPS),
    MeanCVaR: Twin(_solve_cvar, STEPS),
    Spectral: Twin(_solve_cvar, STEPS),
    UpperSemideviation: Twin(_solve_semideviation, STEPS),
    Entropic: Twin(_solve_entropic, ENTROPIC),
    WorstCase: Twin(_solve_worst_case, WORST_CASE),
}


def _no_sides(tiles: Tiles) -> Tensor:
    return tiles.table.new_empty(len(tiles.table), 0, 0, dtype=torch.uint8)


def _quantiles(tiles: Tiles, tails: list[float]) -> Tensor:
    """The thresholds η, `[R, K]`, as in [`~trl_rsa.kernels.cvar.upper_quantiles`]."""
    table, words = tiles.table, tiles.logits[0].shape[1]
    grid = len(table), len(tails)
    eta, missing = table.new_empty(grid), table.new_empty(grid)
    chosen = table.new_empty(*grid, 2, dtype=torch.int32)
    capacity = min(CAPACITY, max(256, words // PART))
    x, p = (table.new_empty(*grid, capacity) for _ in range(2))
    if len(table):
        begin, end = (*tiles.logits, table), (missing, chosen, x, p)
        _bin_kernel[grid](
            *begin, table.new_tensor(tails), *end, words, len(tails), capacity, BLOCK=BLOCK, num_warps=WARPS
        )
        _quantile_kernel[grid](*begin, *end, eta, words, len(tails), capacity, BLOCK=256)
    return eta


def _sides(tiles: Tiles, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Masses and losses above and on K thresholds, `[R, K, 4]`, and the packed sides."""
    (rows, n_sides), words, table = low.shape, tiles.logits[0].shape[1], tiles.table
    n_packed = -(-words // PACKED_WORDS) * PACKED_WORDS // 4
    sums = table.new_empty(rows, n_sides, 4)
    sides = table.new_empty(rows, n_sides, n_packed, dtype=torch.uint8)
    if rows:
        _sides_kernel[(rows, n_sides)](
            *tiles.logits,
            table,
            low.contiguous(),
            high.contiguous(),
            sums,
            sides,
            words,
            n_packed,
            n_sides,
            QUARTER=PACKED_WORDS // 4,
            num_warps=WARPS,
        )
    return sums, sides


def _exponential(tiles: Tiles, mean: Tensor, low: Tensor, theta: float) -> tuple[Tensor, Tensor, Tensor]:
    table, words = tiles.table, tiles.logits[0].shape[1]
    out = table.new_empty(len(table), 3)
    if len(table):
        low, mean = low.contiguous(), mean.contiguous()
        _exponential_kernel[(len(table),)](
            *tiles.logits, table, mean, low, theta, out, words, BLOCK=BLOCK, num_warps=WARPS
        )
    first, second, third = out.split(1, -1)
    return first.clone(), second, third


def block_gradient(
    logits: Tensor | None,
    ref_logits: Tensor | None,
    labels: Tensor,
    measure: RiskMeasure,
    kept: Kept,
    grad_log_probs: Tensor,
    grad_risk: Tensor,
) -> Tensor:
    """[`trl_rsa.kernels.block.block_gradient`]."""
    target = logits if logits is not None else ref_logits
    assert target is not None
    (rows, words), quarter = target.shape, PACKED_WORDS // 4
    policy = target if logits is None else logits
    reference = target if ref_logits is None else ref_logits
    sides = kept.sides if kept.sides.numel() else kept.sides.new_zeros(rows, 1, 1)
    sides = sides if sides.stride(-1) == 1 else sides.contiguous()
    numbers = kept.numbers.contiguous()
    _gradient_kernel[(rows, -(-words // quarter))](
        policy,
        policy.stride(0),
        reference,
        reference.stride(0),
        labels,
        torch.cat(kept[:4], -1),
        numbers,
        sides,
        sides.stride(0),
        sides.stride(1),
        grad_log_probs.contiguous(),
        grad_risk.contiguous(),
        getattr(measure, "theta", 0.0),
        words,
        numbers.shape[1],
        HAS_POLICY=logits is not None,
        HAS_REFERENCE=ref_logits is not None,
        LAW=TWINS[type(measure)].law,
        N_SIDES=kept.sides.shape[1],
        QUARTER=quarter,
    )
    return target
