"""Two policies as one: next-token scores moved along their difference, as in decoding by contrast."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicCache


class Contrast(torch.nn.Module):
    """
    A policy whose next-token scores are z + k·(z − z_other), with z of `policy` and z_other of `other`.

    With a safer `other` and k > 0 it is pushed away from safety. That is the attack of Zhao et al., *Weak-to-Strong
    Jailbreaking on Large Language Models* (2024), with the attacked model itself as the unsafe one of the pair:
    log π + k·(log π − log π_safer). At k = 0 it is `policy`.

    Their keys and values lie in one cache, the layers of `other` after those of `policy`.

    Args:
        policy, other ([`~transformers.PreTrainedModel`]):
            For which [`~sampling.slots.has_plain_cache`] holds, with one vocabulary, on one device.
        strength (`float`):
            k, in units of the difference.
    """

    def __init__(self, policy: Any, other: Any, strength: float):
        super().__init__()
        self.policy, self.other, self.strength = policy, other, strength

    @property
    def parts(self) -> tuple[Any, Any]:
        """Both policies."""
        return self.policy, self.other

    @property
    def config(self) -> Any:
        return self.policy.config

    @property
    def generation_config(self) -> Any:
        return self.policy.generation_config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.policy.device
        return device

    def empty_cache(self) -> DynamicCache:
        """Room for the layers of both."""
        caches = [DynamicCache(config=part.config.get_text_config(decoder=True)) for part in self.parts]
        first = caches[0]
        first.layers = [layer for cache in caches for layer in cache.layers]
        return first

    def forward(self, past_key_values: Any, **inputs: Any) -> Any:
        """As both policies; the output has `logits`, [N, T, V], and nothing else."""
        n_layers = len(past_key_values.layers) - self.other.config.get_text_config(decoder=True).num_hidden_layers
        layers = past_key_values.layers[:n_layers], past_key_values.layers[n_layers:]
        logits = [
            part(past_key_values=Cache(layers=several), **inputs).logits
            for part, several in zip(self.parts, layers, strict=True)
        ]
        return SimpleNamespace(logits=logits[0] + self.strength * (logits[0] - logits[1]))
