"""Randomness that belongs to a draw, not to a batch: the next token as a function of (seed, prompt, draw, step).

`generate` draws a whole batch with one multinomial, so that a response depends on the others in its batch. Here every
token i of the vocabulary has an arrival time E_i, exponential with mean 1, and the next token is the one with the
least E_i / p_i. That is the Gumbel-max trick (−ln E_i is Gumbel noise), so it has the law of a draw from p. The times
are hashes of (seed, prompt, draw, step): nothing is kept, and any row can be drawn alone.

Two models share the times, so that they mostly draw the same token. Measured with SmolLM2-135M-Instruct at 365 places
of short texts, against the same model with noise of 2, 5 or 10 % on its weights: 92, 82 and 57 of 100 tokens are the
same; no coupling can reach more than 93, 84 and 61. One uniform number and the inverse distribution function would be
simpler, but shares only 68, 56 and 40 tokens of 100: paired comparisons would be blunt.

The times are laid out so that few of them have to be made. Together the tokens' first arrivals are those of a Poisson
process, and a Poisson process starts afresh after its K-th arrival:

* The first K arrivals of the process are a short list: times t_1 < … < t_K, each at a token of its own choice.
* A token that is not in the list arrives at t_K + H_i, where H_i is again exponential, a hash of i.

So every token outside of the list comes later than t_K, and one with p_i ≤ t_K / (least E / p found so far) cannot
win. What is left to be hashed is the list and the few probable tokens, not the whole vocabulary. The result is the
same as with all of them (the tests make all of them), to the last bit.
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


N_ARRIVALS = 128
"""K: arrivals that are listed. More of them cost more, and leave fewer probable tokens to be looked at."""


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


def _states(keys: Tensor, steps: Tensor) -> Tensor:  # [B], [B] -> [B]
    return _mix(keys + _mix(steps * _GAMMA))


def _exponential(states: Tensor, counters: Tensor) -> Tensor:
    """Exponential with mean 1, in float64: in float32 the earliest of 150,000 tokens would often be tied."""
    bits = _shift_right(_mix(states + counters * _GAMMA), 12)
    # 52 bits and a half: strictly between 0 and 1, exactly representable.
    return -torch.log((bits.double() + 0.5) * 2.0**-52)


def _listed(states: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """The first arrivals, [B, K] times in float64 and [B, K] tokens. The process has room for the next power of two of
    tokens, so that a vocabulary that is padded a little more has the same noise; tokens beyond `n_tokens` are void."""
    places = max(n_tokens - 1, 1).bit_length()
    counters = torch.arange(1, N_ARRIVALS + 1, device=states.device)
    gaps = _exponential(states[:, None], counters)
    tokens = _shift_right(_mix(states[:, None] + (N_ARRIVALS + counters) * _GAMMA), 64 - places)
    return gaps.cumsum(-1) / 2**places, tokens


def _later(states: Tensor, tokens: Tensor) -> Tensor:
    """H: how long after the last listed arrival a token comes that is not listed."""
    return _exponential(states, 2 * N_ARRIVALS + 1 + tokens)


def arrival_times(keys: Tensor, steps: Tensor, n_tokens: int) -> Tensor:
    """
    The arrival times of the whole vocabulary, from which [`draw_tokens`] makes only those that matter.

    Args:
        keys (`torch.Tensor` of shape `[B]`, int64):
            From [`draw_key`], one per row.
        steps (`torch.Tensor` of shape `[B]`, int64):
            Position of the next token in each response, from 0.
        n_tokens (`int`):
            Size of the vocabulary.

    Returns:
        `torch.Tensor` of shape `[B, n_tokens]`, float64: independent and exponential with mean 1.
    """
    states = _states(keys, steps)
    times, tokens = _listed(states, n_tokens)
    arrivals = times[:, -1:] + _later(states[:, None], torch.arange(n_tokens, device=keys.device))
    room = torch.cat([arrivals, arrivals.new_zeros(len(keys), 1)], dim=-1)  # void tokens go to the last column
    return room.scatter_reduce(-1, tokens.clamp(max=n_tokens), times, "amin")[:, :n_tokens]


def draw_tokens(scores: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
    """
    Draws a token per row from the softmax of its scores.

    Args:
        scores (`torch.Tensor` of shape `[B, V]`, float32):
            Logits, after temperature and filters.
        keys, steps (`torch.Tensor` of shape `[B]`, int64):
            As in [`arrival_times`], on the same device.

    Returns:
        `torch.Tensor` of shape `[B]`, int64.

    Raises:
        ValueError: if a row's largest score is not finite.
    """
    n_tokens = scores.shape[-1]
    top, top_token = scores.max(-1)
    if not bool(torch.isfinite(top).all()):
        raise ValueError(
            "The model's next-token scores are not finite, so nothing can be drawn. Load it in float32 or bfloat16, "
            "and check that its training did not diverge."
        )
    states = _states(keys, steps)
    times, tokens = _listed(states, n_tokens)
    last = times[:, -1]
    # Largest score − ln E in place of least E / p: the softmax need not be made.
    values = scores.gather(-1, tokens.clamp(max=n_tokens - 1)).double() - times.log()
    values, places = values.masked_fill(tokens >= n_tokens, -torch.inf).max(-1)
    drawn = tokens.gather(-1, places[:, None])[:, 0]
    # A listed token may come up here a second time, with a later arrival. It then loses to itself.
    top_value = top.double() - torch.log(last + _later(states, top_token))
    drawn = torch.where(top_value > values, top_token, drawn)
    values = torch.maximum(values, top_value)
    # Rounded down, so that no token that could win is left out.
    least = torch.nextafter((values + last.log()).float(), torch.tensor(-torch.inf, device=scores.device))
    rows, found = torch.nonzero(scores >= least[:, None], as_tuple=True)
    found_values = scores[rows, found].double() - torch.log(last[rows] + _later(states[rows], found))
    best = values.scatter_reduce(0, rows, found_values, "amax")
    winners = (found_values == best[rows]) & (found_values > values[rows])
    return drawn.index_put((rows[winners],), found[winners])


class TokenDraw:
    """
    Draws the next tokens of a batch: filters the scores, then [`draw_tokens`]; at temperature 0 the largest score.

    Args:
        temperature, top_p, top_k:
            As in `generate`, in its order: temperature, top-k, top-p. Top-k 0 and top-p 1 keep every token.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, top_k: int = 0):
        self.greedy = temperature == 0
        self.filters = LogitsProcessorList()
        if temperature not in (0, 1):
            self.filters.append(TemperatureLogitsWarper(float(temperature)))
        if top_k > 0:
            self.filters.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            self.filters.append(TopPLogitsWarper(top_p))

    def __call__(self, scores: Tensor, keys: Tensor, steps: Tensor) -> Tensor:  # [B, V], [B], [B] -> [B]
        if self.greedy:
            return scores.argmax(-1)
        scores = self.filters(None, scores.float())
        # The noise is made where the keys are: not every accelerator has float64.
        return draw_tokens(scores.to(keys.device), keys, steps).to(scores.device)


class SeededSampling(LogitsProcessor):
    """Turns the greedy decoding of `model.generate` into sampling: leaves the drawn token alone.

    Args:
        keys (`torch.Tensor` of shape `[B]`, int64):
            From [`draw_key`].
        prompt_width (`int` or `torch.Tensor` of shape `[B]`, int64):
            Tokens of the padded prompts, after which step 0 stands; without those of a forced beginning.
        temperature, top_p, top_k:
            As in [`TokenDraw`], with a temperature above 0.
    """

    def __init__(
        self, keys: Tensor, prompt_width: int | Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
    ):
        self.keys, self.prompt_width = keys, prompt_width
        self.draw = TokenDraw(temperature, top_p, top_k)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, T], [B, V] -> [B, V]
        steps = torch.full_like(self.keys, input_ids.shape[1]) - self.prompt_width
        drawn = self.draw(scores, self.keys, steps)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn[:, None], 0.0)
