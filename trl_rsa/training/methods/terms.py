"""What on-policy RL maximises: rewards, and costs that each have a budget."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl_rsa.scoring.load import STAGE, check_spec, load_scorer
from trl_rsa.scoring.scorer import Kind, RewardFunction, Scorer
from trl_rsa.training.methods.dual_ascent import DualAscent


class _Term:
    """What rewards and costs share."""

    kind: ClassVar[Kind]
    scorer: str | RewardFunction
    scorer_options: dict[str, Any]

    def load(self) -> Scorer:
        return load_scorer(self.scorer, **{"kind": self.kind, **self.scorer_options})

    def describe(self) -> dict[str, Any]:
        """As JSON, the same in every process and place: a function by its name, a scorer by its fingerprint, one that
        a stage has trained as the plan names it."""
        found = dict(vars(self))
        scorer, name = found["scorer"], self.scorer_options.get("name", "")
        if name.startswith(f"{STAGE}:"):
            found["scorer"] = name  # its folder may have been moved with the run
        elif isinstance(scorer, Scorer):
            found["scorer"] = scorer.fingerprint
        elif not isinstance(scorer, str):
            named = scorer if hasattr(scorer, "__qualname__") else type(scorer)
            found["scorer"] = f"{named.__module__}.{named.__qualname__}"
        return found


@dataclass
class RewardTerm(_Term):
    """
    A reward in the objective of a stage with the method "rloo".

    Args:
        scorer (`str` or `Callable`):
            What [`~trl_rsa.scoring.load_scorer`] takes, or `stage:NAME`, an earlier stage with the method "reward".
        weight (`float`, *optional*, defaults to 1):
            Its weight in the sum.
        scorer_options (`dict`, *optional*):
            Arguments of [`~trl_rsa.scoring.load_scorer`].
    """

    kind: ClassVar[Kind] = "reward"
    scorer: str | RewardFunction
    weight: float = 1.0
    scorer_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_spec(self.scorer, self.scorer_options, "reward")
        if isinstance(self.weight, bool) or not math.isfinite(self.weight):
            raise ValueError(f"You set weight={self.weight!r} of a reward, but rewards are summed. Set a number.")


@dataclass
class CostTerm(_Term):
    """
    A cost with a budget in the objective of a stage with the method "rloo": RLOO-Lagrangian.

    Args:
        scorer (`str` or `Callable`):
            What [`~trl_rsa.scoring.load_scorer`] takes, or `stage:NAME`, an earlier stage with the method "cost".
        budget (`float`):
            Largest risk allowed, in units of cost.
        tail (`float`, *optional*, defaults to 1):
            The risk is CVaR with this tail, in (0, 1]; 1 is the mean, as in Safe RLHF.
        multiplier, rate, most, eta, eta_rate, window (`float`, `int`, *optional*):
            Of dual ascent: see [`~training.methods.dual_ascent.DualAscent`].
        scorer_options (`dict`, *optional*):
            Arguments of [`~trl_rsa.scoring.load_scorer`].
        name (`str`, *optional*, defaults to `"cost"`):
            Tells several costs apart, in trackers and checkpoints.
    """

    kind: ClassVar[Kind] = "cost"
    scorer: str | RewardFunction
    budget: float
    tail: float = 1.0
    multiplier: float = 1.0
    rate: float = 0.05
    most: float | None = None
    eta: float = 0.0
    eta_rate: float = 0.05
    window: int = 128
    scorer_options: dict[str, Any] = field(default_factory=dict)
    name: str = "cost"

    def __post_init__(self) -> None:
        check_spec(self.scorer, self.scorer_options)
        where = f"the cost {self.name!r}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(self.name)):
            raise ValueError(
                f"You set the name of a cost to {self.name!r}, but it becomes part of names. Use letters, digits, "
                "'.', '_' and '-'."
            )
        if not 0.0 < self.tail <= 1.0:
            raise ValueError(
                f"You set tail={self.tail!r} of {where}, but it is a share of responses. Set it in (0, 1]."
            )
        if not math.isfinite(self.budget) or not math.isfinite(self.eta):
            raise ValueError(f"You set budget or eta of {where} to no finite number, but both are costs. Set numbers.")
        for name, least in (("multiplier", 0.0), ("rate", 0.0), ("eta_rate", 0.0), ("window", 1)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"You set {name}={getattr(self, name)!r} of {where}, but it is at least {least:g} and finite. Set "
                    "it so."
                )
        if self.most is not None and not self.most >= self.multiplier:
            raise ValueError(
                f"You set most={self.most!r} of {where}, but λ starts at multiplier={self.multiplier!r}. Raise most."
            )

    def dual_ascent(self) -> DualAscent:
        most = math.inf if self.most is None else self.most
        return DualAscent(
            self.budget, self.tail, self.multiplier, self.rate, most, self.eta, self.eta_rate, int(self.window)
        )
