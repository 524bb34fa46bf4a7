"""Attack: the prompts in another guise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from trl_rsa.evaluation.pressure.base import Pressure, Work
from trl_rsa.evaluation.pressure.condition import Condition
from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.stress import ATTACKS


@dataclass(frozen=True)
class Attack(Pressure):
    """Each prompt under a transform of [`~evaluation.stress.ATTACKS`], or `module:function`."""

    attack: str = "role_play"
    kind = "attack"

    def __post_init__(self) -> None:
        Condition(attack=self.attack)  # which says what is wrong with it

    @property
    def name(self) -> str:
        return f"attack:{self.attack}"

    @property
    def in_words(self) -> str:
        return Condition(attack=self.attack).in_words

    @classmethod
    def usual(cls) -> list[Self]:
        return [cls(name) for name in ATTACKS]

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(strength)

    def prompts(self, rows: Sequence[PromptRow], work: Work) -> list[PromptRow]:
        return Condition(attack=self.attack).prompts(rows, work.sampling.seed)
