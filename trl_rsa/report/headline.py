"""The headline table: one row per model, an interval beside every number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from trl_rsa.report.numbers import cell, interval_of, out_of, text_of, value_of
from trl_rsa.report.unscored import all_in_words


Model = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Args:
        heading (`str`), meaning (`str`):
            What it is called, and what it says, in a few plain words.
        form (`str`):
            Format of its numbers.
        get (`Callable`):
            The estimate, of a model's entry in metrics.json.
        tail (`float`, *optional*):
            For a CVaR.
    """

    heading: str
    meaning: str
    form: str
    get: Callable[[Model], Any]
    tail: float | None = None


def tails_of(metrics: Mapping[str, Any]) -> list[float]:
    """The tails that were evaluated, in the order of metrics.json. A model without costs has none of them."""
    found = {tail: None for model in metrics["models"].values() for tail in model["cost"].get("cvar") or {}}
    return [float(tail) for tail in found]


def cvar_of(model: Model, tail: float) -> Any:
    return (model["cost"].get("cvar") or {}).get(f"{tail:g}")


def columns(metrics: Mapping[str, Any]) -> list[Column]:
    """The columns that have a number for at least one model."""
    limit = next(iter(metrics["models"].values()))["settings"].get("unsafe_above", 0.0)
    candidates = [
        *(
            Column(
                f"CVaR {tail:g}",
                "average cost of the worst {} of {:,} responses".format(*out_of(tail)),
                ".2f",
                partial(cvar_of, tail=tail),
                tail,
            )
            for tail in tails_of(metrics)
        ),
        Column("Unsafe", f"share of responses with a cost above {limit:g}", ".2%", lambda m: m["cost"]["unsafe_rate"]),
        Column("Mean cost", "average over all responses", ".2f", lambda m: m["cost"]["mean"]),
        Column("Reward", "average helpfulness, higher is better", ".2f", lambda m: m["reward"]["mean"]),
        Column(
            "Over-refusal", "harmless prompts refused", ".1%", lambda m: (m.get("refusal") or {}).get("over_refusal")
        ),
        Column(
            "Drift risk",
            "against the reference, summed over a response, in nats",
            ".2f",
            lambda m: (m.get("drift") or {}).get("mean"),
        ),
        Column("KL", "distance from the reference, in nats", ".2f", lambda m: m.get("kl")),
        Column(
            "One wrong token",
            "average cost when one token goes wrong, never too high on average",
            ".2f",
            lambda m: (m.get("nested") or {}).get("cross_fitted"),
        ),
        Column(
            "One token away",
            "places of safe answers where one of the tokens drawn there leads to an unsafe answer on average",
            ".1%",
            lambda m: (m.get("nested") or {}).get("one_token_away"),
        ),
    ]
    models = metrics["models"].values()
    return [column for column in candidates if any(value_of(column.get(model)) is not None for model in models)]


def rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table for the page: per model its name, size, and (value, interval) per column."""
    shown = columns(metrics)
    return [
        {
            "name": name,
            "n": model.get("n"),
            "n_prompts": model.get("n_prompts"),
            "cells": [
                (text_of(value_of(column.get(model)), column.form), interval_of(column.get(model), column.form))
                for column in shown
            ],
        }
        for name, model in metrics["models"].items()
    ]


def headline_markdown(metrics: Mapping[str, Any]) -> str:
    """The headline table as Markdown, for a report or a model card.

    Args:
        metrics (`Mapping`):
            What `summarize_models` returned, or what `metrics.json` holds.

    Returns:
        `str`: the table, and below it a sentence on what the numbers and brackets are.
    """
    shown = columns(metrics)
    settings = next(iter(metrics["models"].values()))["settings"]
    lines = [
        "| Model | " + " | ".join(column.heading for column in shown) + " |",
        "|---" + "|---:" * len(shown) + "|",
    ]
    for name, model in metrics["models"].items():
        cells = [cell(column.get(model), column.form) for column in shown]
        lines.append(f"| {inline_markdown(name)} | " + " | ".join(cells) + " |")
    meanings = "; ".join(f"{column.heading}: {column.meaning}" for column in shown)
    lines += ["", f"{meanings}. Higher cost is worse. In brackets: {settings.get('confidence', 0.95):.0%} intervals."]
    missing = all_in_words(metrics)
    lines += ["", f"{inline_markdown(missing)} They are missing from these numbers."] if missing else []
    return "\n".join(lines) + "\n"


def inline_markdown(text: Any) -> str:
    """Foreign text inside a line of Markdown: no HTML, no table borders, no links or emphasis."""
    text = escape(" ".join(str(text).split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
