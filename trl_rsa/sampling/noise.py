"""Randomness that belongs to a draw, not to a batch: Gumbel noise as a function of (seed, prompt, draw, step, token).

`generate` draws a whole batch with one multinomial, so that a response depends on the others in its batch. Here the
next token is argmax(log-probability + Gumbel noise), which has the law of a draw from the softmax (the Gumbel-max
trick), and the noise is a hash: nothing is kept, and any row can be drawn alone.
"""

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trl_rsa.storage.digests import digest


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# SplitMix64 (Steele, Lea and Flood, 2014): output i of the stream with state s is mix(s + i·γ). Integer arithmetic
# modulo 2⁶⁴ gives the same bits on every device; torch has no unsigned 64-bit product, the signed one has these bits.
_GAMMA = _signed(0x9E3779B97F4A7C15)
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = (x ^ _shift_right(x, shift)) * factor
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Torch's `>>` copies the sign bit; the mask takes the copies away."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def draw_key(seed: int, prompt: Any, draw: int) -> int:
    """64 bits that stand for one draw: the same on every machine. `prompt` is a string or messages."""
    content = f"{seed}/{draw}/".encode() + digest(prompt)
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)


def gumbel_noise(keys: Tensor, step: int, n_tokens: int) -> Tensor:
    """Standard Gumbel noise of one step.

    Args:
        keys (`torch.Tensor` of shape `[B]`, int64):
            From [`draw_key`], one per row.
        step (`int`), n_tokens (`int`):
            Position of the token in the response, and size of the vocabulary.

    Returns:
        `torch.Tensor` of shape `[B, n_tokens]`, in float64: in float32 the largest of 150,000 noises would often be
        the largest number there is, and rare tokens would be tied.
    """
    states = _mix(keys + _mix(torch.tensor(step, device=keys.device) * _GAMMA))
    counters = torch.arange(1, n_tokens + 1, device=keys.device) * _GAMMA
    bits = _shift_right(_mix(states[:, None] + counters), 12)
    # 52 bits and a half: strictly between 0 and 1, exactly representable.
    uniform = (bits.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform))


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling: filters the scores, adds the noise of each row's draw, keeps the largest.

    Args:
        keys (`torch.Tensor` of shape `[B]`, int64):
            From [`draw_key`].
        prompt_width (`int`):
            Tokens of the padded prompts, after which step 0 stands.
        temperature, top_p, top_k:
            As in `generate`, in its order: temperature, top-k, top-p. Top-k 0 and top-p 1 keep every token.
    """

    def __init__(self, keys: Tensor, prompt_width: int, temperature: float, top_p: float = 1.0, top_k: int = 0):
        self.keys, self.prompt_width = keys, prompt_width
        self.filters = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
        if top_k > 0:
            self.filters.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            self.filters.append(TopPLogitsWarper(top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, T], [B, V] -> [B, V]
        scores = self.filters(input_ids, scores.float())
        # The noise is made where the keys are: not every accelerator has float64.
        noise = gumbel_noise(self.keys, input_ids.shape[1] - self.prompt_width, scores.shape[-1])
        drawn = (scores.to(noise.device).double() + noise).argmax(-1, keepdim=True).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)
