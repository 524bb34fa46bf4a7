"""Hidden states times an LM head, and back, tile by tile and always summed in float32 or better."""

import torch
from torch import Tensor

from trl_rsa.kernels.statistics import Head


# Words cast at once where the head's dtype is not the product's: the copy stays small beside a tile.
WORDS_PER_CAST = 2**14


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of logits, statistics and gradient sums: rounding logits to bf16 would cost 0.06 nats."""
    return torch.promote_types(x.dtype, torch.float32)


def operand_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which hidden states and head are multiplied.

    Half precision, the tensors' own or autocast's, where the device multiplies it into float32 sums; else float32.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if dtype in (torch.float16, torch.bfloat16) and device == "cuda" and _HALF_INTO_FLOAT:
        return dtype
    return sum_dtype(x)


# `out_dtype=` of torch.mm and torch.addmm.
_HALF_INTO_FLOAT = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)


def project(hidden: Tensor, weight: Tensor, dtype: torch.dtype, out: Tensor) -> Tensor:
    """`hidden @ weight.T` into `out` `[T, V]`, with operands in `dtype`; bias, scale and softcap are left to
    [`transform_`], which is cheaper in cache."""
    hidden = hidden.to(dtype)
    for words in word_slices(weight, dtype):
        target = out[:, words]
        if dtype == out.dtype:
            torch.mm(hidden, weight[words].to(dtype).t(), out=target)
        else:
            torch.mm(hidden, weight[words].to(dtype).t(), out_dtype=out.dtype, out=target)
    return out


def add_product(total: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype, beta: int = 1) -> None:
    """`total = beta·total + a @ b`, with operands in `dtype`. With `beta` 0 the total may hold anything before."""
    if dtype == total.dtype:
        total.addmm_(a.to(dtype), b.to(dtype), beta=beta)
    else:
        torch.addmm(total, a.to(dtype), b.to(dtype), out_dtype=total.dtype, beta=beta, out=total)


def transform_(projection: Tensor, head: Head, words: slice = slice(None)) -> Tensor:  # [R, words]
    """Adds the bias and applies the model's logit scale and softcap, in place."""
    if head.bias is not None:
        projection.add_(head.bias[words].to(projection.dtype))
    if head.scale != 1.0:
        projection.mul_(head.scale)
    if head.softcap is not None:
        projection.div_(head.softcap).tanh_().mul_(head.softcap)
    return projection


def logit_slope(logits: Tensor | None, head: Head) -> Tensor | float | None:
    """The derivative of [`transform_`] at its result, as a factor, or `None` for 1. Only a softcap needs `logits`."""
    if head.softcap is not None:
        assert logits is not None
        # d softcap·tanh(s·u/softcap)/du = s·(1 − tanh²)
        return (logits / head.softcap).square_().neg_().add_(1).mul_(head.scale)
    return None if head.scale == 1.0 else head.scale


def word_slices(weight: Tensor, dtype: torch.dtype) -> list[slice]:
    return slices(weight.shape[0], weight.shape[0] if weight.dtype == dtype else WORDS_PER_CAST)


def slices(n: int, size: int) -> list[slice]:
    """Consecutive slices of `size`, the last one shorter, that cover `n` places."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
