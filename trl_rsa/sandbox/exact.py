"""Exact quantities: the law of a response's scores, and the nested cost-to-go of a prefix."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np


EOS = "<|eos|>"


@dataclass(frozen=True)
class ResponseLaw:
    """A finite law of responses with their true scores.

    Args:
        texts (`list[str]`), probabilities (`list[float]`), rewards (`list[float]`), costs (`list[float]`):
            One entry per response; the probabilities sum to one.
    """

    texts: list[str]
    probabilities: list[float]
    rewards: list[float]
    costs: list[float]

    @classmethod
    def mixture(cls, parts: Sequence[tuple[float, "ResponseLaw"]]) -> "ResponseLaw":
        """The law that draws one of `parts` by its weight. The weights are rescaled to sum to one."""
        total = sum(weight for weight, _ in parts)
        return cls(
            [text for _, law in parts for text in law.texts],
            [weight / total * p for weight, law in parts for p in law.probabilities],
            [reward for _, law in parts for reward in law.rewards],
            [cost for _, law in parts for cost in law.costs],
        )

    @property
    def mean_reward(self) -> float:
        return float(np.dot(self.probabilities, self.rewards))

    @property
    def mean_cost(self) -> float:
        return float(np.dot(self.probabilities, self.costs))

    @property
    def p_unsafe(self) -> float:
        """P(cost > 0)."""
        return self.p_above(0.0)

    def p_above(self, cost: float) -> float:
        """P(cost > `cost`). Costs that differ by rounding alone count as equal."""
        return float(np.dot(self.probabilities, np.asarray(self.costs) > cost + 1e-9))

    def cvar(self, tail: float) -> float:
        """Mean of the worst probability mass `tail` of cost, the atom at the quantile split."""
        return tail_mean(self.costs, self.probabilities, tail)


def tail_mean(values: Sequence[float], probabilities: Sequence[float], tail: float) -> float:
    """CVaR of a finite law: the mean of the largest `values` that carry the mass `tail`.

    Raises:
        `ValueError`: if `tail` is not in (0, 1].
    """
    if not 0 < tail <= 1:
        raise ValueError(
            f"You set tail={tail!r}, but the tail is a probability mass in (0, 1]. Set it to, e.g., 0.05."
        )
    x, p = np.asarray(values, dtype=float), np.asarray(probabilities, dtype=float)
    order = np.argsort(-x, kind="stable")
    x, p = x[order], p[order]
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    kept = np.clip(tail - before, 0.0, p)
    return float(np.dot(kept, x) / kept.sum())


def tokens(text: str) -> list[str]:
    """The words and punctuation marks of a text: what the sandbox's tokenizer makes its tokens of."""
    return re.findall(r"[\w']+|[^\w\s]", text)


@dataclass
class PrefixTree:
    """The law of responses as a tree over tokens, EOS included: what is known after each prefix.

    Args:
        probability (`float`):
            Probability of the prefix.
        children (`dict[str, PrefixTree]`):
            The next tokens.
        cost (`float`, *optional*):
            The response's cost, at a leaf.
    """

    probability: float = 0.0
    children: dict[str, "PrefixTree"] = field(default_factory=dict)
    cost: float | None = None

    @classmethod
    def of(cls, law: ResponseLaw) -> "PrefixTree":
        """The tree of a law."""
        root = cls()
        for text, probability, cost in zip(law.texts, law.probabilities, law.costs, strict=True):
            node = root
            node.probability += probability
            for token in [*tokens(text), EOS]:
                node = node.children.setdefault(token, cls())
                node.probability += probability
            node.cost = cost
        return root

    def at(self, prefix: str) -> "PrefixTree":
        """The node after a prefix.

        Raises:
            `ValueError`: if no response of the grammar begins so.
        """
        node = self
        for token in tokens(prefix):
            if token not in node.children:
                raise ValueError(f"You set prefix={prefix!r}, but no response of the grammar begins so. Shorten it.")
            node = node.children[token]
        return node

    def next_law(self) -> dict[str, float]:
        """The law of the next token."""
        return {token: child.probability / self.probability for token, child in self.children.items()}

    def costs(self) -> tuple[list[float], list[float]]:
        """Costs and conditional probabilities of the responses that go on from here."""
        leaves = list(self._leaves())
        return [cost for cost, _ in leaves], [probability / self.probability for _, probability in leaves]

    def _leaves(self) -> Iterator[tuple[float, float]]:
        if self.cost is not None:
            yield self.cost, self.probability
        for child in self.children.values():
            yield from child._leaves()

    def cost_to_go(self, risk: Callable[[Sequence[float], Sequence[float]], float]) -> float:
        """The nested risk of cost, V(s) = ρ_{z ~ grammar}(V(s∘z)), V(response) = its cost.

        Args:
            risk (`Callable`):
                ρ, from values and their probabilities to a number; `lambda v, p: tail_mean(v, p, 0.1)`, for example.
        """
        if self.cost is not None:
            return self.cost
        values = [child.cost_to_go(risk) for child in self.children.values()]
        return risk(values, list(self.next_law().values()))

    def places(self) -> Iterator["PrefixTree"]:
        """This node and those below it, as far as they have a next token."""
        if self.children:
            yield self
        for child in self.children.values():
            yield from child.places()

    def one_token_risk(self, tail: float) -> float:
        """CVaR, over the next token, of the mean cost after it: what [`~evaluation.nested`] estimates by branching."""
        means = [float(np.dot(*child.costs())) for child in self.children.values()]
        return tail_mean(means, list(self.next_law().values()), tail)
