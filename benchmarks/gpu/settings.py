"""What a part is told: where it runs, on what, and until when."""

import time
from dataclasses import dataclass, field
from typing import Any


# Seconds that each part may take, its start included: eight minutes in all. Then it is killed.
SECONDS = {"kernels": 100.0, "step": 230.0, "ladder": 150.0}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Args:
        device (`str`):
            `"cuda"`, or `"cpu"` for a rehearsal.
        small (`bool`):
            Tiny shapes through the same code, whose rows say so.
        model (`str`), prompts (`str`), cost (`str`), *optional*:
            Of the ladder: the folder of a model, a file of prompts, and a scorer as `load_scorer` takes it. Without
            all three the ladder is skipped.
        cost_options (`dict`):
            Arguments of `load_scorer`.
        cost_bounds (`tuple[float, float]`), cost_budget (`float`):
            As in [`RiskConstraint`].
    """

    device: str
    small: bool = False
    model: str = ""
    prompts: str = ""
    cost: str = ""
    cost_options: dict[str, Any] = field(default_factory=dict)
    cost_bounds: tuple[float, float] = (-5.0, 5.0)
    cost_budget: float = 0.0


@dataclass(frozen=True)
class Deadline:
    """A moment, in seconds since 1970: two processes share it."""

    at: float

    def left(self) -> float:
        return self.at - time.time()
