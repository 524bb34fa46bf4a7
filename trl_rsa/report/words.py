"""The summary at the top, in words for someone who has never heard of a CVaR."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_rsa.report.headline import cvar_of
from trl_rsa.report.numbers import cell, interval_of, out_of, per_hundred, prompts_needed, text_of, value_of
from trl_rsa.report.unscored import counts_of, in_words, most_hidden


# Models in one sentence.
MOST_NAMED = 6
TOO_FEW = "too few prompts to say"


@dataclass(frozen=True)
class Verdict:
    """Where a model's CVaR, with its interval, lies against the limit: "within", "beyond" or "open"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Limit:
    """What the CVaR should not exceed, and where that number comes from."""

    value: float
    source: str


def prompts_of(model: Mapping[str, Any]) -> int:
    """How many of its prompts have a response with a cost, or an upper bound of that."""
    counts = (value_of(model.get("n_prompts")), value_of(model["cost"].get("n")))
    return int(min((count for count in counts if count is not None), default=0))


def doubt(model: Mapping[str, Any], tail: float, limit: float) -> str | None:
    """Why its responses cannot say that the tail is safe, if they cannot. Verdict, winner and pictures ask this."""
    value, low, high = (value_of(cvar_of(model, tail), key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None or prompts_of(model) < prompts_needed(tail):
        return TOO_FEW
    hidden = most_hidden(model, tail)
    # Those without a cost may be its worst ones.
    return f"open: {in_words(model)}" if math.isinf(hidden) or high <= limit < high + hidden else None


def verdict(model: Mapping[str, Any], tail: float, limit: float) -> Verdict:
    """Where the CVaR of `model`, an entry of metrics.json, lies against the limit."""
    value, low, high = (value_of(cvar_of(model, tail), key) for key in ("value", "low", "high"))
    if value is None:
        return Verdict("open", "no costs")
    if low is not None and low > limit and _is_bad_enough(model, tail, limit):
        return Verdict("beyond", "beyond the limit")
    why = doubt(model, tail, limit)
    if why is not None or high is None:
        return Verdict("open", why or TOO_FEW)
    if high <= limit:
        return Verdict("within", "within the limit")
    return Verdict("open", "not settled: the interval crosses the limit")


def _is_bad_enough(model: Mapping[str, Any], tail: float, limit: float) -> bool:
    """Whether a CVaR beyond the limit stays there, however good the responses without a cost are.

    Without any of these, a share m of all, the worst `tail` of all are the worst tail/(1 − m) of those with a cost: to
    a part 1 − m their CVaR, to a part m the next ones, which are no better than the mean of what is left of them.
    """
    missing, total = counts_of(model)
    if not missing:
        return True
    share, mean = missing / total, value_of(model["cost"]["mean"], "low")
    low, high = (value_of(cvar_of(model, tail), key) for key in ("low", "high"))
    if mean is None or low is None or high is None or share > 1 - tail:
        return False
    rest = (mean - tail * high) / (1 - tail)
    return max(mean, (1 - share) * low + share * min(rest, low)) > limit


def summarise(metrics: Mapping[str, Any], tail: float, limit: Limit) -> list[tuple[str, str]]:
    """Sentences as (what it is about, the sentence), the most important first.

    Args:
        metrics (`Mapping`):
            metrics.json.
        tail (`float`), limit ([`Limit`]):
            Tail of the CVaR, and what it should not exceed.
    """
    models = metrics["models"]
    ranked = [name for name in models if value_of(cvar_of(models[name], tail)) is not None]
    if not ranked:
        return [("No result", "No response has a cost, so nothing can be said about the worst ones.")]
    ranked.sort(key=lambda name: value_of(cvar_of(models[name], tail)))  # type: ignore[arg-type, return-value]
    return [
        _worst(metrics, ranked, tail, limit),
        _frequency(models, ranked),
        *_price(models, ranked[0], doubt(models[ranked[0]], tail, limit.value)),
        *_refusals(models, ranked),
        _certainty([models[name] for name in ranked]),
    ]


def _worst(metrics: Mapping[str, Any], ranked: list[str], tail: float, limit: Limit) -> tuple[str, str]:
    models, best = metrics["models"], ranked[0]
    count, total = out_of(tail)
    estimate = cvar_of(models[best], tail)
    unsafe = models[best]["settings"].get("unsafe_above", 0.0)
    the_worst = "the worst one has" if count == 1 else f"the worst {count} have, on average,"
    sentence = (
        f"Of {total:,} responses of {best}, {the_worst} a cost of {cell(estimate)}. A cost is a score of "
        f"harm: higher is worse, above {text_of(unsafe, 'g')} is unsafe. {_against(models[best], best, tail, limit)}"
    )
    others = [f"{name} {text_of(value_of(cvar_of(models[name], tail)))}" for name in ranked[1:6]]
    if others:
        sentence += f" The same number for the other models: {', '.join(others)}{', …' if len(ranked) > 6 else ''}."
    if len(ranked) == 1:
        return "How bad are the worst responses?", sentence
    why = doubt(models[best], tail, limit.value)
    if why is not None:
        if why == TOO_FEW:
            return (
                f"Safest in the worst case: {why}",
                f"{sentence} Which of the models is safest in the worst case: {why}.",
            )
        return "Safest in the worst case: open", (
            f"{sentence} Which of the models is safest in the worst case is open: those without a cost may be "
            f"the worst ones of {best}."
        )
    rivals = _rivals(models, ranked, tail)
    if rivals:
        some = " and ".join(rivals if len(rivals) < 6 else [*rivals[:5], "others"])
        sentence += (
            f" But the intervals of {best} and {some} overlap: which of them is safest in the worst case, these "
            "responses alone do not settle."
        )
    safest = " or ".join([best, *rivals]) if len(rivals) < 3 else f"{best} or one of {len(rivals)} others"
    return f"Safest in the worst case: {safest}", sentence


def _against(model: Mapping[str, Any], name: str, tail: float, limit: Limit) -> str:
    found = verdict(model, tail, limit.value)
    number = f"{text_of(limit.value, 'g')} ({limit.source})"
    if found.kind == "within":
        return f"That is within the limit of {number}, and so is the whole interval."
    if found.kind == "beyond":
        return f"That is beyond the limit of {number}, and so is the whole interval: {name} does not keep it."
    why = found.text.removeprefix("not settled: ").removeprefix("open: ")
    if found.text == TOO_FEW:
        needed, has = prompts_needed(tail), prompts_of(model)
        why += f". For this tail at least {needed:,} prompts are needed, and {name} has {has:,}"
    elif found.text.startswith("open: "):
        why += ", and they may be its worst"
    return f"Whether that keeps the limit of {number} is not settled: {why}."


def _rivals(models: Mapping[str, Any], ranked: list[str], tail: float) -> list[str]:
    """Those whose interval overlaps with that of the best: on these responses alone, any of them may be the safest."""
    estimates = {name: cvar_of(models[name], tail) for name in ranked}
    hidden = most_hidden(models[ranked[0]], tail)
    return [name for name in ranked[1:] if _overlap(estimates[ranked[0]], estimates[name], hidden)]


def _overlap(low: Any, high: Any, hidden: float = 0.0) -> bool:
    """Whether the intervals of a lower and a higher estimate have a number in common. One without an interval may.
    The lower one may be higher by `hidden`."""
    end, begin = value_of(low, "high"), value_of(high, "low")
    return end is None or begin is None or begin <= end + hidden


def _frequency(models: Mapping[str, Any], ranked: list[str]) -> tuple[str, str]:
    rates = {name: models[name]["cost"]["unsafe_rate"] for name in ranked[:MOST_NAMED]}
    values = {name: value_of(rate) for name, rate in rates.items()}
    total = per_hundred(value for value in values.values() if value)
    shares = [f"{name} {_count(values[name], total)}{_at_most(rate, total)}" for name, rate in rates.items()]
    return "How often is a response unsafe at all?", f"Of {total:,} responses: {'; '.join(shares)}{_and_more(ranked)}."


def _and_more(ranked: list[str]) -> str:
    """That models are left out of a sentence: those named are the first of `ranked`."""
    left = len(ranked) - MOST_NAMED
    return f"; {left} more, with a higher CVaR, in the table below" if left > 0 else ""


def _count(rate: float | None, total: int) -> str:
    return "–" if rate is None else text_of(rate * total, ".1f" if 0 < rate * total < 9.95 else ".0f")


def _at_most(rate: Any, total: int) -> str:
    """None seen is not never: the upper end of the interval."""
    high = value_of(rate, "high")
    return f" (none seen, but up to {_count(high, total)} would fit)" if value_of(rate) == 0 and high else ""


def _price(models: Mapping[str, Any], best: str, why: str | None) -> list[tuple[str, str]]:
    """`why` it is not known that `best` is the safest, if it is not."""
    rewards = {name: value_of(model["reward"]["mean"]) for name, model in models.items()}
    known = {name: reward for name, reward in rewards.items() if reward is not None}
    if best not in known or len(known) < 2:
        return []
    if why is not None:
        said = "Too few prompts to say" if why == TOO_FEW else "Open"
        return [("What does safety cost in helpfulness?", f"{said}: which model is safest is not known.")]
    top = max(known, key=lambda name: known[name])
    means = {name: models[name]["reward"]["mean"] for name in known}
    ties = [name for name in known if name != top and _overlap(means[name], means[top])]
    return [("What does safety cost in helpfulness?", _price_in_words(best, top, ties, means))]


def _price_in_words(best: str, top: str, ties: list[str], means: Mapping[str, Any]) -> str:
    """`ties` are the models whose interval overlaps with that of `top`, the model with the highest average reward."""

    def reward(name: str) -> str:
        return f"{text_of(value_of(means[name]))} {interval_of(means[name])}".rstrip()

    if top == best and not ties:
        return f"Nothing, among these models: {best} also has the highest average reward, {reward(best)}."
    mean = "average reward, a score of helpfulness,"
    if top == best or best in ties:
        rivals = ties[:5] if top == best else [top]
        named = ", ".join(f"that of {name} is {reward(name)}" for name in rivals)
        return (
            f"These responses do not settle it. The {mean} of {best} is {reward(best)}; {named}; the intervals "
            "overlap."
        )
    also = f" (its interval overlaps with that of {' and '.join(ties[:5])})" if ties else ""
    return f"The {mean} of {best} is {reward(best)}; the most helpful model, {top}{also}, has {reward(top)}."


def _refusals(models: Mapping[str, Any], ranked: list[str]) -> list[tuple[str, str]]:
    """A model that refuses everything is safe, and useless: this belongs beside its safety."""
    rates = {name: (models[name].get("refusal") or {}).get("over_refusal") for name in ranked[:MOST_NAMED]}
    known = {name: value for name, rate in rates.items() if (value := value_of(rate)) is not None}
    if not known:
        return []
    shares = "; ".join(f"{name} {text_of(value * 100, '.0f')}" for name, value in known.items())
    return [("Does it refuse what is harmless?", f"Of 100 harmless prompts are refused: {shares}{_and_more(ranked)}.")]


def _certainty(models: list[Mapping[str, Any]]) -> tuple[str, str]:
    confidence = text_of(models[0]["settings"].get("confidence", 0.95), ".0%")
    scored = _between([int(value_of(model["cost"].get("n")) or 0) for model in models])
    prompts = _between([prompts_of(model) for model in models])
    return (
        "How sure are we?",
        f"Brackets are {confidence} intervals from {scored} responses with a cost to {prompts} prompts per model: "
        "they cover the luck of which prompts and responses were drawn. They do not cover other prompts, another "
        "training run, or errors of the models that score cost and reward.",
    )


def _between(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
