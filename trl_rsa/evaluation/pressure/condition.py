"""A condition of sampling: what responses are drawn under. Pressures use it, and so do budgets (`under:`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.stress import attack_prompts, find_attack
from trl_rsa.sampling.response import Sampling


@dataclass(frozen=True)
class Condition:
    """
    What responses are drawn under, where it is not the policy's ordinary sampling. What is set holds together.

    Args:
        temperature (`float`, *optional*):
            Softmax temperature, above 0.
        prefill (`int`, *optional*):
            Number of tokens that every response is made to begin with.
        beginnings (`str`, *optional*):
            A file of responses, such as harmful ones, from which these tokens are taken: one to each prompt, in the
            columns `prompt` and `response`. By default they are those of a reference model's own responses.
        attack (`str`, *optional*):
            A transform of the prompts: a name in [`~evaluation.stress.ATTACKS`], or `module:function`.

    Raises:
        ValueError: if nothing is set, or something that cannot work.
    """

    temperature: float | None = None
    prefill: int | None = None
    beginnings: str | None = None
    attack: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is None and self.prefill is None and self.attack is None:
            raise ValueError(
                "You set a condition that changes nothing about the sampling. Set a temperature, prefill or attack, "
                "or leave it out."
            )
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"You set temperature={self.temperature!r} as a condition, but it is above 0 and finite. Set 1.6, say."
            )
        if self.prefill is not None and (isinstance(self.prefill, bool) or self.prefill < 1):
            raise ValueError(
                f"You set prefill={self.prefill!r}, but it is the number of tokens that are forced. Set 5, say."
            )
        if self.beginnings is not None and self.prefill is None:
            raise ValueError(
                f"You set beginnings to {self.beginnings!r}, but not how many of their tokens are forced. Set prefill."
            )
        if self.attack is not None:
            find_attack(self.attack)

    @property
    def in_words(self) -> str:
        """Such as "at temperature 1.6"."""
        words = []
        if self.attack is not None:
            words.append(f"under the attack {self.attack}")
        if self.prefill is not None:
            source = "" if self.beginnings is None else f" from {self.beginnings}"
            tokens = "token" if self.prefill == 1 else "tokens"
            words.append(f"after a forced beginning of {self.prefill} {tokens}{source}")
        if self.temperature is not None:
            words.append(f"at temperature {self.temperature:g}")
        return ", ".join(words)

    def sampling(self, sampling: Sampling) -> Sampling:
        """How to draw."""
        return sampling if self.temperature is None else replace(sampling, temperature=float(self.temperature))

    def prompts(self, rows: Sequence[PromptRow], seed: int) -> list[PromptRow]:
        """The prompts as they are asked, with `attack` and `base_prompt` where they are attacked."""
        return list(rows) if self.attack is None else attack_prompts(rows, [self.attack], seed, keep_plain=False)
