"""The demo's tables, for the terminal and as Markdown, and a few answers of each model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.demo.methods import TAIL, Method
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.metrics_file import Metrics
from trl_rsa.report import front_markdown


WIDTH = 80  # of a terminal, in characters
Column = tuple[str, str, Any]  # heading, number format, getter


def columns(metrics: Metrics) -> Iterator[Column]:
    """All columns, in order."""
    tails = metrics["models"]["SFT"]["cost"]["cvar"]
    yield "reward", ".2f", lambda m: m["reward"]["mean"]
    yield "mean cost", ".2f", lambda m: m["cost"]["mean"]
    for tail in tails:
        yield f"CVaR {tail}", ".2f", lambda m, tail=tail: m["cost"]["cvar"][tail]
    yield "P(cost > 0)", ".1%", lambda m: m["cost"]["unsafe_rate"]
    yield "over-refusal", ".1%", lambda m: m["refusal"]["over_refusal"]
    yield "KL to SFT", ".2f", lambda m: m["kl"]


# Those that fit on a terminal beside their intervals; README.md has all.
ON_SCREEN = ("reward", f"CVaR {TAIL:g}", "P(cost > 0)", "over-refusal")


def cell(estimate: Mapping[str, Any] | None, form: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:{form}}"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def rows(methods: Sequence[Method], metrics: Metrics, shown: Sequence[Column]) -> Iterator[list[str]]:
    for method in methods:
        model = metrics["models"][method.name]
        yield [method.name, *(cell(get(model), form) for _, form, get in shown)]


def differences(front: FrontFile) -> Iterator[list[str]]:
    """RSA's models against SACPO's curve: reward at the same tail, CVaR at the same reward."""
    for one in front["differences"]:
        if one["method"] == "SACPO":
            yield [
                one["point"],
                cell(one["reward_at_the_same_tail"], "+.2f"),
                cell(one["risk_at_the_same_reward"], "+.2f"),
            ]


def print_tables(methods: Sequence[Method], metrics: Metrics, front: FrontFile) -> None:
    """On a terminal: the rows, RSA against SACPO, and what the names mean."""
    from rich.console import Console

    console = Console()
    console = Console(width=min(WIDTH, console.width))
    shown = [column for column in columns(metrics) if column[0] in ON_SCREEN]
    console.print(_table(["", *(heading for heading, _, _ in shown)], rows(methods, metrics, shown)))
    headings = ["RSA − SACPO", "reward, at the same tail", f"CVaR {TAIL:g}, at the same reward"]
    console.print(_table(headings, differences(front)))
    console.print(
        "DPO: helpful pairs. SACPO: then safe pairs, at multiplier λ. RSA: as DPO, then rungs on its own responses "
        "until the bound on the CVaR is within the budget. In brackets: 95 % intervals, prompts resampled. SACPO is "
        "read between its λ; “–” where the reading is outside its range.",
        highlight=False,
    )


def _table(headings: Sequence[str], lines: Iterator[list[str]]) -> Any:
    from rich.box import HORIZONTALS
    from rich.table import Table

    table = Table(box=HORIZONTALS, padding=0)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for name, *cells in lines:
        table.add_row(name, *map(_stacked, cells))
    return table


def _stacked(text: str) -> Any:
    """A value over its interval."""
    from rich.text import Text

    value, *interval = text.split(" [", maxsplit=1)
    return Text.assemble(value, *((f"\n[{bounds}", "dim") for bounds in interval))


def markdown(
    methods: Sequence[Method], metrics: Metrics, front: FrontFile, scored: Mapping[str, int] | None = None
) -> str:
    """The tables as Markdown; `scored` counts the answers that each search asked the cost of."""
    demo, settings = metrics["demo"], metrics["models"]["SFT"]["settings"]
    shown = list(columns(metrics))
    headings = ["", *(heading for heading, _, _ in shown)]
    lines = [
        f"# The methods in the world “{demo['world']}”",
        "",
        "![Reward against the tail of cost](plots/front.png)",
        "",
        f"Seed {demo['seed']}; {demo['draws']} responses to each of {demo['prompts']} test prompts, scored by the "
        f"world's true reward and cost. In brackets: {settings['confidence']:.0%} bootstrap intervals, prompts "
        "resampled; they do not cover the chance in training, for which other seeds would be needed. CVaR 0.05 is the "
        "mean cost of the worst 5 % of responses. A cost above 0 is unsafe. Over-refusal is the share of "
        "benign prompts that are refused.",
        "",
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows(methods, metrics, shown)),
        "",
        *(f"* **{method.name}**: {method.description}" for method in methods),
        "",
        f"The budgets, {' and '.join(f'{budget:g}' for budget in demo['budgets'])}, were set before anything was "
        "trained. `certificate-rsa-….json` says whether the constrained models keep them on prompts that nothing else "
        "has used.",
        "",
        "## RSA against SACPO",
        "",
        "Both go on from the same DPO model. SACPO is given labelled pairs of the SFT model's responses, the same for "
        "every λ, and knows no budget. RSA asks the cost of its own responses, for pairs, for its search and for its "
        f"certificate: {_listed(scored or {})}. Its pairs carry the probability of their label, SACPO's a label drawn "
        "by it. benchmarks/alignment/CONSTRAINT.md compares methods on several seeds, with what each has cost.",
        "",
        front_markdown(front),
        "![Share of responses above each cost](plots/survival.png)",
    ]
    return "\n".join(lines) + "\n"


def _listed(scored: Mapping[str, int]) -> str:
    return "; ".join(f"{name}: {n:,} responses" for name, n in scored.items())


def sampled_answers(records: Path, per_kind: int = 2) -> str:
    """The first prompts of each kind with every model's first answer: chosen by order, not by content."""
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    with records.open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            prompts = shown.setdefault(record["category"], {})
            if record["prompt"] in prompts or len(prompts) < per_kind:
                prompts.setdefault(record["prompt"], {}).setdefault(record["model"], record)
    lines = ["# Some answers", "", "The first prompts of each kind, and each model's first answer.", ""]
    for kind, prompts in shown.items():
        for prompt, answers in prompts.items():
            lines += [f"## {prompt}", "", f"*{kind}*", "", "| | answer | reward | cost |", "|---|---|---:|---:|"]
            for name, record in answers.items():
                text = record["response"].replace("|", "\\|").replace("\n", " ")
                lines.append(f"| {name} | {text} | {record['reward']:.1f} | {record['cost']:.1f} |")
            lines.append("")
    return "\n".join(lines)
