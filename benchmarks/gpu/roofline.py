"""What a step must compute and move, by formulas, and what a card can do at most.

With N tokens that are scored, T tokens in all, V words, H the width of the head, and P weights in the layers'
matrices:

* Body. A forward multiplies 2·P·T, and its attention 2·2·L·h·T²/R/2 with L layers, h the width of the attention and R
  rows of T/R tokens, half of which lie in the future. A backward costs two forwards. The policy has both, the
  reference a forward: 4·(2·P·T + 2·L·h·T²/R).
* Head. A product of N tokens is 2·N·V·H. DPO and RSA-2 with α = 0 make five: the logits of both models, the policy's
  again in the backward, and two gradients. RSA-2 makes the reference's again for the rejected half: 5.5.
* Bytes of the risk head, with a CVaR of one tail, in Triton. Per token and word, in float32, the forward writes two
  logits, and reads both twice for the statistics, five times for the quantile and once for its masses: 4·(2 + 16)
  bytes, and 1/4 byte for the sides. The backward of a chosen token writes, reads and writes one logit, that of a
  rejected one reads and writes the reference's too: 4·3 and 4·5 bytes. The gradient is then cast once and read for
  two products: 4 + 2 + 2·2 bytes. The weights: both heads once per tile of the forward, and per 4,096 tokens of the
  backward; the gradient of the policy's, in float32, read and written once per 4,096 tokens. What stays in a cache of
  50 MB between two reads is not taken off, as a tile has 2²⁶ logits.

They are what the algorithm asks for, so that `of peak flops` is that share of the card's peak that a step has put to
use. Element-wise work is not counted.
"""

from dataclasses import dataclass
from typing import Any

from trl_rsa.kernels.tiled import LOGITS_PER_TILE, TOKENS_PER_TILE


@dataclass(frozen=True)
class Card:
    """Peaks by the vendor's data sheet: dense bfloat16 FLOP/s, and bytes/s of the memory."""

    flops: float
    bytes: float


# The first name that is part of the device's name counts. SXM unless it says otherwise.
CARDS = {
    "H200": Card(989e12, 4.8e12),
    "H100 PCIe": Card(756e12, 2.0e12),
    "H100 NVL": Card(835e12, 3.9e12),
    "H100": Card(989e12, 3.35e12),
    "A100": Card(312e12, 2.0e12),
}


def card(name: str) -> Card | None:
    return next((card for key, card in CARDS.items() if key in name), None)


def layer_weights(shape: dict[str, Any]) -> int:
    """Weights in the matrices of the layers, of a Llama or a Qwen2: attention, and three of the feed-forward part."""
    h, heads = shape["hidden_size"], shape["num_attention_heads"]
    of_values = h // heads * shape.get("num_key_value_heads", heads)
    attention = 2 * h * h + 2 * h * of_values
    return shape["num_hidden_layers"] * (attention + 3 * h * shape["intermediate_size"])


def step_flops(shape: dict[str, Any], rows: int, tokens: int, scored: int, products: float) -> float:
    """Of one step: `rows` sequences of `tokens` tokens, of which `scored` in each are an answer's."""
    body = 2 * layer_weights(shape) * rows * tokens
    attention = 2 * shape["num_hidden_layers"] * shape["hidden_size"] * rows * tokens**2
    return 4 * (body + attention) + head_flops(shape, rows * scored, products)


def head_flops(shape: dict[str, Any], scored: int, products: float) -> float:
    return products * 2 * scored * shape["vocab_size"] * shape["hidden_size"]


def risk_head_bytes(vocabulary: int, hidden: int, scored: int, weight_bytes: int = 2) -> float:
    """Forward and backward of the head with one CVaR; half of the `scored` tokens are chosen."""
    logits = scored * vocabulary * (4 * (2 + 16) + 1 / 4 + 4 * (3 + 5) / 2 + 1 / 8 + (4 + 2 + 2 * 2))
    tiles = -(-scored // max(1, LOGITS_PER_TILE["cuda"] // vocabulary))
    turns = -(-scored // TOKENS_PER_TILE)
    # Of a turn of the backward: the policy's weights for the logits and for the hidden states' gradient, the
    # reference's once; and the gradient of the weights.
    weights = vocabulary * hidden * (weight_bytes * (2 * tiles + 3 * turns) + 4 * (2 * turns - 1))
    return logits + weights
