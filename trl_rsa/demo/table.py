"""The demo's table, for the terminal and as Markdown, and a few answers of each method."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_rsa.demo.methods import METHODS


def columns(metrics: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Heading, number format and getter of each column, in order."""
    tails = metrics["models"]["SFT"]["cost"]["cvar"]
    yield "reward", ".2f", lambda m: m["reward"]["mean"]
    yield "mean cost", ".2f", lambda m: m["cost"]["mean"]
    for tail in tails:
        yield f"CVaR {tail}", ".2f", lambda m, tail=tail: m["cost"]["cvar"][tail]
    yield "P(cost > 0)", ".1%", lambda m: m["cost"]["unsafe_rate"]
    yield "over-refusal", ".1%", lambda m: m["refusal"]["over_refusal"]
    yield "KL to SFT", ".2f", lambda m: m["kl"]


def cell(estimate: dict[str, Any] | None, form: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:{form}}"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def rows(metrics: dict[str, Any]) -> Iterator[list[str]]:
    for method in METHODS:
        model = metrics["models"][method.name]
        yield [method.name, *(cell(get(model), form) for _, form, get in columns(metrics))]


def print_table(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # A value over its interval, and little air: eight columns then fit into 80 characters.
    table = Table(show_lines=True, padding=(0, 1, 0, 0))
    table.add_column("")
    for heading, _, _ in columns(metrics):
        table.add_column(heading.replace("-", "-\n"), justify="right")
    for name, *cells in rows(metrics):
        table.add_row(name, *map(_stacked, cells))
    console.print(table)
    for method in METHODS:
        console.print(f"[bold]{method.name}[/bold]: {method.description}", highlight=False)


def _stacked(text: str) -> Any:
    from rich.text import Text

    value, *interval = text.split(" [", maxsplit=1)
    return Text.assemble(value, *((f"\n[{bounds}", "dim") for bounds in interval))


def markdown(metrics: dict[str, Any]) -> str:
    demo, settings = metrics["demo"], metrics["models"]["SFT"]["settings"]
    headings = ["", *(heading for heading, _, _ in columns(metrics))]
    lines = [
        f"# The methods in the world “{demo['world']}”",
        "",
        f"Seed {demo['seed']}; {demo['draws']} answers to each of {demo['prompts']} test prompts, scored by the "
        f"world's true reward and cost. In brackets: {settings['confidence']:.0%} bootstrap intervals, prompts "
        "resampled; they do not cover the chance in training, for which other seeds would be needed. CVaR 0.05 is the "
        "mean cost of the worst 5 % of answers. A cost above 0 is unsafe. Over-refusal is the share of "
        "benign prompts that are refused.",
        "",
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows(metrics)),
        "",
        *(f"* **{method.name}**: {method.description}" for method in METHODS),
        "",
        f"The budget is {demo['budget']:g}, set before anything was trained. `certificate.json` says whether the "
        "constrained model keeps it on prompts that nothing else has used.",
        "",
        "![Share of answers above each cost](plots/survival.png)",
        "",
        "![Reward against the tail of cost](plots/tradeoff.png)",
    ]
    return "\n".join(lines) + "\n"


def sampled_answers(records: Path, per_kind: int = 2) -> str:
    """The first prompts of each kind with every method's first answer: chosen by order, not by content."""
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    with records.open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            prompts = shown.setdefault(record["category"], {})
            if record["prompt"] in prompts or len(prompts) < per_kind:
                prompts.setdefault(record["prompt"], {}).setdefault(record["model"], record)
    lines = ["# Some answers", "", "The first prompts of each kind, and each method's first answer.", ""]
    for kind, prompts in shown.items():
        for prompt, answers in prompts.items():
            lines += [f"## {prompt}", "", f"*{kind}*", "", "| | answer | reward | cost |", "|---|---|---:|---:|"]
            for name, record in answers.items():
                text = record["response"].replace("|", "\\|").replace("\n", " ")
                lines.append(f"| {name} | {text} | {record['reward']:.1f} | {record['cost']:.1f} |")
            lines.append("")
    return "\n".join(lines)
