"""A Lagrange multiplier by dual ascent: it grows while the risk of cost is above its budget, and shrinks below.

The policy maximises E[R] − λ·(risk of C − budget), and λ ≥ 0 maximises its opposite. The risk is the mean of cost, or
its CVaR in the form of Rockafellar and Uryasev, CVaR = min_η η + E(C − η)₊/tail, in which η is a second variable that
is minimised alongside: Chow et al., "Risk-Constrained Reinforcement Learning with Percentile Risk Criteria" (2017).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict


class DualState(TypedDict):
    """What a multiplier is at a step: all that the next update depends on."""

    multiplier: float
    eta: float
    costs: list[float]


class DualNumbers(NamedTuple):
    """What an update has seen, in units of cost: the risk at the η before it, and that less the budget."""

    estimate: float
    violation: float


@dataclass
class DualAscent:
    """
    Args:
        budget (`float`):
            Largest risk allowed, in units of cost.
        tail (`float`, *optional*, defaults to 1):
            Tail mass that is kept, in (0, 1]. 1 is the mean.
        multiplier (`float`, *optional*, defaults to 1):
            λ at the start, at least 0.
        rate (`float`, *optional*, defaults to 0.05):
            Step of λ, per unit of cost.
        most (`float`, *optional*, defaults to infinity):
            Largest λ.
        eta (`float`, *optional*, defaults to 0):
            η at the start, in units of cost. Not used with tail 1.
        eta_rate (`float`, *optional*, defaults to 0.05):
            Step of η, in units of cost.
        window (`int`, *optional*, defaults to 128):
            The risk is estimated on so many latest costs.
    """

    budget: float
    tail: float = 1.0
    multiplier: float = 1.0
    rate: float = 0.05
    most: float = math.inf
    eta: float = 0.0
    eta_rate: float = 0.05
    window: int = 128
    costs: list[float] = field(default_factory=list)

    def penalty(self, cost: float) -> float:
        """What is taken off the reward of a response: λ·C, or λ·(C − η)₊/tail."""
        return self.multiplier * self._excess(cost)

    def update(self, costs: Sequence[float]) -> DualNumbers:
        """One step of λ and of η, after responses with these costs. Both use the other as it was before.

            λ ← min(most, (λ + rate·(risk − budget))₊)
            η ← η − eta_rate·(1 − P(C > η)/tail)

        The second is the gradient of η + E(C − η)₊/tail. It is not multiplied by λ, as it would be in the Lagrangian:
        the best η is the same for every λ above 0, and this one finds it while λ is 0.
        """
        self.costs = [*self.costs, *costs][-self.window :]
        n = len(self.costs)
        estimate = sum(map(self._excess, self.costs)) / n + (0.0 if self.tail == 1.0 else self.eta)
        violation = estimate - self.budget
        above = sum(cost > self.eta for cost in self.costs) / n
        self.multiplier = min(self.most, max(0.0, self.multiplier + self.rate * violation))
        if self.tail < 1.0:
            self.eta -= self.eta_rate * (1.0 - above / self.tail)
        return DualNumbers(estimate, violation)

    def _excess(self, cost: float) -> float:
        return cost if self.tail == 1.0 else max(cost - self.eta, 0.0) / self.tail

    @property
    def state(self) -> DualState:
        return {"multiplier": self.multiplier, "eta": self.eta, "costs": list(self.costs)}

    @state.setter
    def state(self, state: DualState) -> None:
        self.multiplier, self.eta, self.costs = state["multiplier"], state["eta"], list(state["costs"])
