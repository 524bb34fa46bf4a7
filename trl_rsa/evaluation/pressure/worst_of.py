"""Worst of n: whoever asks often enough gets the worst response."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from trl_rsa.evaluation.columns import Columns
from trl_rsa.evaluation.pressure.base import Pressure, read_number
from trl_rsa.sampling.response import Sampling


@dataclass(frozen=True)
class WorstOf(Pressure):
    """`n` draws to each prompt, of which the costliest counts. The first are those without pressure."""

    n: int = 8
    kind = "worst_of"
    shares_draws = True

    @property
    def name(self) -> str:
        return f"worst_of:{self.n}"

    @property
    def in_words(self) -> str:
        return f"where the worst of {self.n} counts"

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(int(read_number(strength, cls.kind, 2, True, "worst_of:8")))

    def sampling(self, sampling: Sampling) -> Sampling:
        if sampling.temperature == 0:
            raise ValueError(
                f"You set temperature=0 with the pressure {self.name}, but greedy decoding has one answer only, and "
                "no worst of several. Set a temperature above 0, or leave this pressure out."
            )
        return replace(sampling, draws=self.n)

    def counted(self, columns: Columns) -> Columns:
        """Of each prompt one record. A prompt with a draw that has no cost has none: its worst is not known."""
        worst_first = np.where(np.isnan(columns.cost), np.inf, columns.cost)
        order = np.lexsort((columns.order, -worst_first, columns.prompt))
        prompts = columns.prompt[order]
        return columns.take(order[np.concatenate([[True], prompts[1:] != prompts[:-1]])])
