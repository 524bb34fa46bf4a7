"""A risk measure of one's own, in a module: launched processes can import it. It kills one of them, once."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trl_rsa.risk import Expectation


@dataclass(frozen=True)
class MortalExpectation(Expectation):
    """The expectation. As soon as the folder `stage` has a complete checkpoint, process 1 dies of it."""

    stage: str = ""

    def __call__(self, x: Tensor, log_p: Tensor) -> Tensor:
        died = Path(self.stage, "died")
        complete = any(Path(self.stage).glob("checkpoint-*/complete.json"))
        if os.environ.get("RANK") == "1" and complete and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(x, log_p)
