"""Anti-safe: decoding that moves away from a safer policy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from trl_rsa.evaluation.pressure.base import Load, Pressure, Work, read_number
from trl_rsa.sampling.adapters import base_of_adapted
from trl_rsa.sampling.policies import config_of


@dataclass(frozen=True)
class AntiSafe(Pressure):
    """
    Next-token scores z + k·(z − z_safer), with k the `strength`: the attack of Zhao et al., *Weak-to-Strong
    Jailbreaking on Large Language Models* (2024), with the policy as the unsafe one of the pair. See
    [`~sampling.contrast.Contrast`].
    """

    strength: float = 1.0
    kind = "anti_safe"
    by_itself = True

    @property
    def name(self) -> str:
        return f"anti_safe:{self.strength:g}"

    @property
    def in_words(self) -> str:
        return f"decoded away from a safer policy (strength {self.strength:g})"

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(read_number(strength, cls.kind, 0.0, False, "anti_safe:1"))

    def needs(self) -> tuple[str, ...]:
        return ("safer",)

    def check(self, models: Sequence[str], work: Work) -> None:
        safer = work.sources.safer
        assert safer is not None
        sizes = {path: _vocabulary(path) for path in (*models, safer)}
        for path in models:
            if sizes[path] != sizes[safer]:
                raise ValueError(
                    f"You set the pressure anti_safe for {path} with the safer policy {safer}, but their "
                    f"vocabularies have {sizes[path]} and {sizes[safer]} tokens. Set safer to a model of one family."
                )
        for path in sizes:
            if not _is_plain(path):
                raise ValueError(
                    f"You set the pressure anti_safe, but {path} keeps something else than the keys and values of all "
                    "tokens (a sliding window, a state), and two such models are not decoded side by side. Leave this "
                    "pressure out."
                )

    @contextmanager
    def policy(self, path: str, work: Work) -> Iterator[tuple[str, Load]]:
        safer = work.sources.safer
        assert safer is not None

        def load() -> Any:
            from trl_rsa.sampling.contrast import Contrast

            return Contrast(_whole(work.load(path)), _whole(work.load(safer)), self.strength)

        yield path, load


def _whole(model: Any) -> Any:
    """The model with its adapters in its layers."""
    base = base_of_adapted(model)
    if base is None:
        raise ValueError(
            "You set the pressure anti_safe for a model with prompt tuning or the like, whose layers hold no adapter. "
            "Leave this pressure out."
        )
    return base


def _vocabulary(path: str) -> int:
    size: int = config_of(path).get_text_config().vocab_size
    return size


def _is_plain(path: str) -> bool:
    """Looked at in a model without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from trl_rsa.sampling.slots import has_plain_cache

    with torch.device("meta"):
        return has_plain_cache(AutoModelForCausalLM.from_config(config_of(path)))
