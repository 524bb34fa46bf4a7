"""Heat: the model at a higher temperature."""

from dataclasses import dataclass
from typing import Self

from trl_rsa.evaluation.pressure.base import Pressure, read_number
from trl_rsa.evaluation.pressure.condition import Condition
from trl_rsa.sampling.response import Sampling


@dataclass(frozen=True)
class Heat(Pressure):
    """Responses drawn at `temperature`, whatever that of the evaluation is."""

    temperature: float = 1.6
    kind = "heat"

    @property
    def condition(self) -> Condition:
        return Condition(temperature=self.temperature)

    @property
    def name(self) -> str:
        return f"heat:{self.temperature:g}"

    @property
    def in_words(self) -> str:
        return self.condition.in_words

    @classmethod
    def usual(cls) -> list[Self]:
        return [cls(1.3), cls(1.6)]

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(read_number(strength, cls.kind, 0.0, False, "heat:1.6"))

    def sampling(self, sampling: Sampling) -> Sampling:
        return self.condition.sampling(sampling)
