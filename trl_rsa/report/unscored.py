"""Responses without a cost: how many there are, and how much worse than it looks they may make the tail.

They are missing from every estimate. A scorer that fails on the worst responses, such as very long ones, would
otherwise make a model look safe.
"""

import math
from collections.abc import Mapping
from typing import Any

from trl_rsa.report.numbers import value_of


MOST_NAMED = 5


def counts_of(model: Mapping[str, Any]) -> tuple[int, int]:
    """Of a model, an entry of metrics.json: its responses without a cost, and all of them."""
    total, scored = value_of(model.get("n")), value_of(model["cost"].get("n"))
    if total is None or scored is None:
        return 0, 0
    return max(0, int(total - scored)), int(total)


def in_words(model: Mapping[str, Any], name: str | None = None) -> str:
    """Such as "40 of 400 responses have no cost"; nothing where all have one."""
    missing, total = counts_of(model)
    of, have = f" of {name}" if name else "", "has" if missing == 1 else "have"
    return f"{missing:,} of {total:,} responses{of} {have} no cost" if missing else ""


def all_in_words(metrics: Mapping[str, Any]) -> str:
    """A sentence on all models that have such responses; nothing where none has."""
    said = [words for name, model in metrics["models"].items() if (words := in_words(model, name))]
    more = f"; and so on for {len(said) - MOST_NAMED} more models" if len(said) > MOST_NAMED else ""
    return f"{'; '.join(said[:MOST_NAMED])}{more}." if said else ""


def most_hidden(model: Mapping[str, Any], tail: float) -> float:
    """By how much the CVaR may be higher with the missing costs, each as high as the worst that was seen.

    A share m of all responses is missing. With any η, CVaR ≤ η + E(C − η)₊ / tail (Rockafellar and Uryasev, 2000).
    With η = VaR of those that have a cost, and W the worst, this is VaR + (1 − m)(CVaR − VaR) + m(W − VaR) / tail.
    From a share of `tail` on they may be the whole tail, and nothing is known of it: ∞.
    """
    missing, total = counts_of(model)
    if not missing:
        return 0.0
    share = missing / total
    cvar, var, worst = _of_tail(model, "cvar", tail), _of_tail(model, "var", tail), _worst_of(model)
    if share >= tail or cvar is None or var is None or worst is None:
        return math.inf
    return max(0.0, share * ((worst - var) / tail - (cvar - var)))


def _of_tail(model: Mapping[str, Any], name: str, tail: float) -> float | None:
    found = model["cost"].get(name)
    return value_of(found.get(f"{tail:g}")) if isinstance(found, Mapping) else None


def _worst_of(model: Mapping[str, Any]) -> float | None:
    found = model["cost"].get("worst")
    return value_of(found[0], "cost") if isinstance(found, list) and found else None
