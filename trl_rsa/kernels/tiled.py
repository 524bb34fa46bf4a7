"""The dense statistics in tiles, with the derivative by hand: the fused kernel, in torch, and in Triton on CUDA.

The forward projects a tile of tokens onto the whole vocabulary and finishes it in blocks of a few tokens that stay in
cache, keeping some numbers per token and two bits per word. The backward makes the logits again, turns them into their
own gradient in place and multiplies it out; it needs no whole rows, so its tiles are tall and narrow and each part of
the head is read once.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trl_rsa.kernels import block, triton_kernels
from trl_rsa.kernels.block import PACKED_WORDS, Kept
from trl_rsa.kernels.chunked import Gather, _no_gather
from trl_rsa.kernels.parallel import map_blocks
from trl_rsa.kernels.projection import (
    add_product,
    logit_slope,
    operand_dtype,
    project,
    slices,
    sum_dtype,
    transform_,
)
from trl_rsa.kernels.statistics import Head, TokenStatistics
from trl_rsa.kernels.tilts import TILTS, needs_loss
from trl_rsa.risk import RiskMeasure


# Logits in a tile of the forward, two of which are held, in float32. A projection of 100 tokens takes a third longer
# per token than one of 250, so a CPU's 168 MB are for 256 tokens of a large vocabulary. The forward can afford it:
# there is no gradient of the head yet.
LOGITS_PER_TILE = {"cpu": 5 * 2**23, "cuda": 2**26}
# And of the backward, whose tiles can be as tall as there are tokens and as narrow as one likes.
GRADIENTS_PER_TILE = {"cpu": 2**24, "cuda": 2**26}
# Logits in a block: on a CPU small for the caches, but four rows of a large vocabulary: with one row the threads wait
# for Python's lock between operations, and two of them are no faster than one.
LOGITS_PER_BLOCK = {"cpu": 5 * 2**17, "cuda": 2**26}
# Tokens in a tile of the backward.
TOKENS_PER_TILE = 4096


def is_supported(measure: RiskMeasure) -> bool:
    """Whether the fused kernel knows the tilted law of `measure`."""
    return type(measure) in TILTS


def tiled_token_statistics(
    hidden: Tensor,  # [N, H]
    head: Head,
    ref_hidden: Tensor,  # [N, H_ref]
    ref_head: Head,
    labels: Tensor,  # [N]
    measure: RiskMeasure,
    gather: Gather = _no_gather,
    logits_per_tile: int | None = None,
) -> TokenStatistics:
    """[`~trl_rsa.kernels.dense.dense_token_statistics`] for the measures of `trl_rsa.risk`, never holding `[N, V]`.

    Differentiable in `hidden`, `head.weight` and `head.bias`; sums are made in float32 at least.

    Args:
        gather (`Callable`, *optional*):
            Context manager that makes sharded head parameters whole. The caller holds it open around this call; the
            backward, which runs later, opens it again.
        logits_per_tile (`int`, *optional*):
            Size of the tiles; by default what suits the device.

    Raises:
        `TypeError`: if `measure` is not one of [`is_supported`].
    """
    if not is_supported(measure):
        raise TypeError(
            f"You gave the risk measure {measure!r}, but the fused kernel knows only those of trl_rsa.risk. Use "
            "chunked_token_statistics, which takes any."
        )
    sizes = (
        logits_per_tile or size.get(hidden.device.type, size["cuda"]) for size in (LOGITS_PER_TILE, GRADIENTS_PER_TILE)
    )
    call = _Call(head, ref_hidden, ref_head, labels, measure, gather, *sizes)
    return TokenStatistics(*_TiledStatistics.apply(hidden, head.weight, head.bias, call))


class _Call(NamedTuple):
    """Everything that gets no gradient."""

    head: Head
    ref_hidden: Tensor
    ref_head: Head
    labels: Tensor
    measure: RiskMeasure
    gather: Gather
    logits_per_tile: int
    gradients_per_tile: int


class _TiledStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> tuple[Tensor, ...]:
        ctx.call, ctx.dtypes = call, (operand_dtype(hidden), operand_dtype(call.ref_hidden))
        tiles, ctx.of_weight = _tiles(hidden, call, trained=ctx.needs_input_grad[1])
        with torch.autocast(hidden.device.type, enabled=False):
            statistics, kept = _forward(hidden, call, ctx.dtypes, tiles)
        ctx.save_for_backward(hidden, *kept)
        no_gradient = (x for name, x in statistics._asdict().items() if name not in ("log_probs", "risk"))
        ctx.mark_non_differentiable(*no_gradient)
        return tuple(statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *kept = ctx.saved_tensors
        call: _Call = ctx.call
        grad = TokenStatistics(*grads)
        inputs = hidden, call.head.weight, call.head.bias
        policy, reference = call.head, call.ref_head
        # After a first backward it is a parameter's gradient.
        of_weight, ctx.of_weight = ctx.of_weight, None
        gathered = call.gather(policy.weight, policy.bias, reference.weight, reference.bias)
        with gathered, torch.autocast(hidden.device.type, enabled=False):
            totals = [
                torch.zeros_like(x, dtype=sum_dtype(hidden)) if needed and i != 1 else None
                for i, (x, needed) in enumerate(zip(inputs, ctx.needs_input_grad, strict=False))
            ]
            if ctx.needs_input_grad[1]:
                # Not filled with zeros: it is written as a whole before anything is added.
                totals[1] = torch.empty_like(inputs[1], dtype=sum_dtype(hidden)) if of_weight is None else of_weight
            _backward(totals, hidden, call, Kept(*kept), grad.log_probs, grad.risk, ctx.dtypes)
            return *(None if t is None else t.to(x.dtype) for t, x in zip(totals, inputs, strict=True)), None


def _tiles(hidden: Tensor, call: _Call, trained: bool) -> tuple[Tensor, Tensor | None]:
    """Memory for the forward's two tiles, `[2, tokens, V]`, and for the gradient of a trained weight.

    It is the same memory if that is large enough: the gradient is not made before the tiles are done with, and fresh
    pages cost as much as what is computed in them.
    """
    weight, vocabulary = call.head.weight, call.head.weight.shape[0]
    tiles = -(-len(hidden) // max(1, call.logits_per_tile // vocabulary))
    tokens = -(-len(hidden) // max(1, tiles))  # of the same height
    shape = 2, tokens, vocabulary
    if trained and math.prod(shape) <= weight.numel():
        of_weight = hidden.new_empty(weight.shape, dtype=sum_dtype(hidden))
        return of_weight.view(-1)[: math.prod(shape)].view(shape), of_weight
    return hidden.new_empty(shape, dtype=sum_dtype(hidden)), None


def _forward(
    hidden: Tensor, call: _Call, dtypes: tuple[torch.dtype, torch.dtype], memory: Tensor
) -> tuple[TokenStatistics, Kept]:
    """All tokens, tile by tile, in `memory` `[2, tokens, V]`."""
    head, ref_head = call.head, call.ref_head
    _, tokens, vocabulary = memory.shape
    logits, ref_logits = memory
    kernels = triton_kernels if triton_kernels.is_usable(logits) else block
    # Made here, with the shapes of no token: left by the threads among their temporaries, they would pin those.
    nothing = kernels.block_statistics(logits[:0], ref_logits[:0], call.labels[:0], call.measure)
    results = [x.new_empty(len(hidden), *x.shape[1:]) for part in nothing for x in part]
    for tile in slices(len(hidden), max(1, tokens)):
        labels = call.labels[tile]
        project(hidden[tile], head.weight, dtypes[0], logits[: len(labels)])
        project(call.ref_hidden[tile], ref_head.weight, dtypes[1], ref_logits[: len(labels)])

        def finish(b: slice, labels: Tensor = labels, start: int = tile.start) -> None:
            policy, reference = transform_(logits[b], head), transform_(ref_logits[b], ref_head)
            statistics, kept = kernels.block_statistics(policy, reference, labels[b], call.measure)
            for whole, part in zip(results, (*statistics, *kept), strict=True):
                whole[start + b.start : start + b.stop] = part

        map_blocks(finish, _blocks(len(labels), vocabulary, hidden), hidden.device.type)
    split = len(TokenStatistics._fields)
    return TokenStatistics(*results[:split]), Kept(*results[split:])


def _backward(
    totals: list[Tensor | None],
    hidden: Tensor,
    call: _Call,
    kept: Kept,
    grad_log_probs: Tensor,
    grad_risk: Tensor,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    """Fills `totals`, the gradients in hidden states, weight and bias."""
    uses_reference = grad_risk != 0
    # In RSA-1 a token's whole gradient is onehot − q: π cancels. RSA-2 has no risk gradient in the chosen answer.
    uses_policy = grad_risk != grad_log_probs
    if needs_loss(call.measure) or call.head.softcap is not None:
        uses_policy = uses_policy | uses_reference
    groups = uses_policy & ~uses_reference, uses_policy & uses_reference, uses_reference & ~uses_policy
    order = torch.cat([group.nonzero().squeeze(-1) for group in groups])
    ends = int(groups[0].sum()), int(uses_policy.sum())
    if totals[1] is not None and not len(order):
        totals[1].zero_()
    for tile in slices(len(order), TOKENS_PER_TILE):
        tokens = order[tile]
        total_hidden = None if totals[0] is None else hidden.new_zeros(len(tokens), hidden.shape[1]).to(totals[0])
        _backward_tokens(
            [total_hidden, *totals[1:]],
            hidden[tokens],
            call._replace(ref_hidden=call.ref_hidden[tokens], labels=call.labels[tokens]),
            Kept(*(x[tokens] for x in kept)),
            [g[tokens].unsqueeze(-1).to(sum_dtype(hidden)) for g in (grad_log_probs, grad_risk)],
            dtypes,
            tuple(min(max(end - tile.start, 0), len(tokens)) for end in ends),
            first=tile.start == 0,
        )
        if totals[0] is not None:
            totals[0][tokens] = total_hidden


def _backward_tokens(
    totals: list[Tensor | None],
    hidden: Tensor,
    call: _Call,
    kept: Kept,
    grads: list[Tensor],
    dtypes: tuple[torch.dtype, torch.dtype],
    ends: tuple[int, ...],
    first: bool,
) -> None:
    """The tiles of up to `TOKENS_PER_TILE` tokens: all of them and part of the vocabulary at once.

    First come the tokens that need the policy's logits alone, from `ends[0]` on those that need the reference's too,
    and from `ends[1]` on those that need only these. In one tile, a part of the head is read once for all of them.
    At the `first` call there is nothing in the weight's total yet.
    """
    n, vocabulary = len(hidden), call.head.weight.shape[0]
    width = max(1, call.gradients_per_tile // n // PACKED_WORDS) * PACKED_WORDS
    policy_only, both, reference_only = slice(0, ends[0]), slice(*ends), slice(ends[1], n)
    memory, beside = (
        hidden.new_empty(rows, min(width, vocabulary), dtype=sum_dtype(hidden)) for rows in (n, ends[1] - ends[0])
    )
    for words in slices(vocabulary, width):
        gradient, ref_logits = (m[:, : words.stop - words.start] for m in (memory, beside))
        project(hidden[: ends[1]], call.head.weight[words], dtypes[0], gradient[: ends[1]])
        project(call.ref_hidden[both], call.ref_head.weight[words], dtypes[1], ref_logits)
        project(call.ref_hidden[reference_only], call.ref_head.weight[words], dtypes[1], gradient[reference_only])
        sides = kept.sides[..., words.start // 4 : -(-words.stop // PACKED_WORDS) * PACKED_WORDS // 4]
        for rows, logits, reference in (
            (policy_only, gradient[policy_only], None),
            (both, gradient[both], ref_logits),
            (reference_only, None, gradient[reference_only]),
        ):
            of_rows = Kept(*(x[rows] for x in kept._replace(sides=sides)))
            _differentiate(logits, reference, words, call, call.labels[rows], of_rows, [g[rows] for g in grads])
        _multiply_out(totals, gradient, hidden, call.head.weight, words, dtypes[0], first)


def _differentiate(
    logits: Tensor | None,
    ref_logits: Tensor | None,
    words: slice,
    call: _Call,
    labels: Tensor,
    kept: Kept,
    grads: list[Tensor],
) -> None:
    """Makes the gradient of the policy's projection of `logits` `[R, words]`, or of `ref_logits` without them."""
    gradient = ref_logits if logits is None else logits
    assert gradient is not None
    kernels = triton_kernels if triton_kernels.is_usable(gradient) else block

    def of_block(b: slice) -> None:
        policy, reference = (
            None if tile is None else transform_(tile[b], head, words)
            for tile, head in ((logits, call.head), (ref_logits, call.ref_head))
        )
        slope = logit_slope(policy, call.head)
        of_tokens = Kept(*(x[b] for x in kept))
        kernels.block_gradient(
            policy, reference, labels[b] - words.start, call.measure, of_tokens, *(g[b] for g in grads)
        )
        if slope is not None:
            gradient[b] *= slope

    map_blocks(of_block, _blocks(gradient.shape[0], gradient.shape[1], gradient), gradient.device.type)


def _multiply_out(
    totals: list[Tensor | None],
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    words: slice,
    dtype: torch.dtype,
    first: bool,
) -> None:
    """Adds what the gradient `[T, words]` of the projection means for hidden states, weight and bias."""
    total_hidden, total_weight, total_bias = totals
    if total_bias is not None:
        total_bias[words] += gradient.sum(0)
    gradient = gradient.to(dtype)  # once for both products
    if total_hidden is not None:
        add_product(total_hidden, gradient, weight[words], dtype)
    if total_weight is not None:
        add_product(total_weight[words], gradient.t(), hidden, dtype, beta=0 if first else 1)


def _blocks(tokens: int, words: int, like: Tensor) -> list[slice]:
    """Slices of tokens small enough for the cache."""
    return slices(tokens, max(1, LOGITS_PER_BLOCK.get(like.device.type, LOGITS_PER_BLOCK["cuda"]) // words))
