"""The page: what its templates need, and how they are filled."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from trl_rsa import __version__
from trl_rsa.report.audits import audit_sentences
from trl_rsa.report.bars import MOST_GROUPS, groups_of
from trl_rsa.report.front import compared, difference_table, explanation, front_markdown, method_table, sentences
from trl_rsa.report.headline import columns, headline_markdown, inline_markdown, rows
from trl_rsa.report.inputs import Inputs
from trl_rsa.report.ladder import conditions_of, ladder_table, observations_of
from trl_rsa.report.numbers import interval_of, out_of, prompts_needed, text_of, value_of
from trl_rsa.report.pictures import MOST_PANELS
from trl_rsa.report.pressure import HEADINGS, pressure_table
from trl_rsa.report.tokens import LEGENDS, VIEWS, Scales, coloured
from trl_rsa.report.unscored import all_in_words
from trl_rsa.report.words import Limit, summarise, verdict
from trl_rsa.storage.names import MANIFEST, METRICS


# Of all models together: a page with more is read by nobody.
MOST_RESPONSES = 40

_HERE = Path(__file__).parent


def page_context(inputs: Inputs, tail: float, limit: Limit, title: str, plots: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the templates show.

    Args:
        inputs ([`Inputs`]):
            What the folder holds.
        tail (`float`), limit ([`Limit`]):
            Tail of the CVaR, and what it should not exceed.
        title (`str`):
            Title of the page.
        plots (`Mapping[str, str]`):
            The drawings, by name.
    """
    metrics, worst = inputs.metrics, _worst_responses(inputs)
    found = {name: verdict(model, tail, limit.value) for name, model in metrics["models"].items()}
    return {
        "title": title,
        "left_out": _left_out(inputs, tail),
        "plots": {name: Markup(svg) for name, svg in plots.items()},
        "summary": [*(sentences(inputs.front) if inputs.front else ()), *summarise(metrics, tail, limit)],
        "front": _front(inputs.front),
        "warnings": inputs.warnings,
        "columns": columns(metrics),
        "rows": rows(metrics),
        "verdicts": found,
        "headline_markdown": headline_markdown(metrics),
        "full_names": inputs.full_names,
        "tail": tail,
        "count_of": out_of(tail),
        "limit": limit,
        "prompts_needed": prompts_needed(tail),
        "comparisons": inputs.optional(
            f"A comparison in {METRICS}", lambda: [_comparison(c, tail) for c in metrics["comparisons"]]
        )
        or [],
        "pressures": inputs.optional(f"“pressures” in {METRICS}", lambda: pressure_table(metrics, tail)) or [],
        "pressure_headings": HEADINGS,
        "ladders": [
            ladder
            for i, (name, m) in enumerate(inputs.manifests.items())
            if (ladder := inputs.optional(manifest_file(name), partial(_ladder, i, name, m)))
        ],
        "worst": worst,
        "coloured": any(response["views"] for group in worst for response in group["responses"]),
        "views": VIEWS,
        "legends": LEGENDS,
        "certificates": [
            {
                "name": name,
                "content": content,
                "attempts": list(_attempts(content)),
                "rows": _certificate_rows(content),
            }
            for name, content in inputs.certificates.items()
        ],
        "unscored": all_in_words(metrics),
        "cut": {name: model["cut"] for name, model in metrics["models"].items() if model.get("cut")},
        "benchmarks": inputs.optional(
            f"“benchmarks” in {METRICS}", lambda: list(_benchmarks(metrics.get("benchmarks")))
        )
        or [],
        "settings": list(_settings(inputs)),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
    }


def _left_out(inputs: Inputs, tail: float) -> dict[str, str]:
    """By picture what it does not show, for its caption."""
    said = {}
    for by in ("category", "attack"):
        groups = inputs.optional(f"“by {by}” in {METRICS}", partial(groups_of, inputs.metrics, by, tail)) or []
        if len(groups) > MOST_GROUPS:
            said[f"by_{by}"] = f" Shown are the {MOST_GROUPS} worst of {len(groups):,}; all are in metrics.json."
    for name, scores in ("costs", inputs.responses.costs), ("rewards", inputs.responses.rewards):
        others = sum(1 for values in scores.values() if len(values)) - 1
        if others > MOST_PANELS:
            said[name] = f" Shown are {MOST_PANELS} of {others:,} models after it; the curves above have all."
    return said


def manifest_file(name: str) -> str:
    return f"{name}/{MANIFEST}" if name else MANIFEST


def _ladder(index: int, name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "table": ladder_table(manifest),
        "rungs": bool(observations_of(manifest)),
        "conditions": conditions_of(manifest),
        "plot": f"ladder_{index}" if index else "ladder",
        "audits": audit_sentences(manifest),
        "audit_plot": f"audit_{index}" if index else "audit",
    }


def _front(front: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if front is None:
        return None
    tables = [method_table(front), *([difference_table(front)] if compared(front) else [])]
    return {
        "tables": tables,
        "notes": front.get("notes", []),
        "explanation": explanation(front),
        "markdown": front_markdown(front),
    }


def _comparison(comparison: Mapping[str, Any], tail: float) -> dict[str, Any]:
    cost, reward = ((comparison.get(name) or {}).get("difference") or {} for name in ("cost", "reward"))
    arena = comparison.get("arena") or {}
    safe, unsafe = arena.get("safe") or {}, arena.get("unsafe") or {}
    total = sum(safe.values()) + sum(unsafe.values())
    estimates = [
        (cost.get(f"cvar_{tail:g}"), ".2f"),
        (cost.get("unsafe_rate"), ".2%"),
        (reward.get("mean"), ".2f"),
        (comparison.get("win_rate"), ".1%"),
    ]
    return {
        "baseline": comparison.get("baseline"),
        "model": comparison.get("model"),
        "cells": [
            *((text_of(value_of(estimate), form), interval_of(estimate, form)) for estimate, form in estimates),
            (text_of(safe.get("better", 0) / total, ".1%") if total else "–", ""),
        ],
    }


def _worst_responses(inputs: Inputs) -> list[dict[str, Any]]:
    """Per model its worst responses, with coloured tokens where there are any."""
    models = list(inputs.metrics["models"])
    most = max(1, min(5, MOST_RESPONSES // len(models)))
    chosen = {
        name: [
            one | _tokens_of(one, inputs.tokens.get(name, ())) for one in inputs.responses.worst.get(name, [])[:most]
        ]
        for name in models
    }
    scales = Scales.of(line for lines in chosen.values() for line in lines)
    return [
        {
            "model": name,
            "responses": [
                {key: line.get(key) for key in ("prompt", "category", "attack", "finished")}
                | {"text": line.get("response")}
                | {key: text_of(line.get(key)) for key in ("cost", "reward")}
                | (coloured(line, scales) if line.get("drift") or line.get("harm") else {"views": {}, "left_out": 0})
                for line in lines
            ],
        }
        for name, lines in chosen.items()
        if lines
    ]


def _tokens_of(response: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What tokens.jsonl says of a response; its scores are those of the records."""
    text = response["prompt"], response["response"]
    found = (line for line in lines if (line["prompt"], line["response"]) == text)
    return {key: line.get(key) for line in found for key in ("tokens", "drift", "harm")}


def _certificate_rows(certificate: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = certificate.get("parts")
    parts = parts if isinstance(parts, Mapping) else {}
    bounds = parts.get("bounds")
    return [
        ("Upper bound", text_of(certificate.get("bound"), ".4g")),
        ("Limit", text_of(certificate.get("budget"), "g")),
        ("Average of the worst, in the sample", text_of(certificate.get("estimate"), ".4g")),
        *_as_they_are(parts),
        ("Tail", text_of(certificate.get("tail"), "g")),
        ("Confidence of this attempt", text_of(certificate.get("attempt_confidence"), ".4g")),
        ("Prompts; responses", f"{certificate.get('n_prompts', '–')}; {parts.get('n', '–')}"),
        ("Responses drawn", str(certificate.get("under") or "as usual")),
        ("Method", str(certificate.get("method", "–"))),
        ("Costs cut to", " to ".join(text_of(b, "g") for b in bounds) if isinstance(bounds, list) else "–"),
        ("Scored by", str(certificate.get("scorer", "–"))),
        ("Prompt set", str(certificate.get("prompt_fingerprint", "–"))),
    ]


def _as_they_are(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the cut at the upper bound leaves out of the claim."""
    above = value_of(parts.get("n_clipped_above"))
    if above:
        yield "The same, of the costs as they are", text_of(parts.get("unclipped_estimate"), ".4g")
        yield "Costs above the range", text_of(above, ",.0f")


def _attempts(certificate: Mapping[str, Any]) -> Iterator[list[str]]:
    attempts = certificate.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else []:
        if isinstance(attempt, Mapping):
            names = [str(attempt.get(name, "–")) for name in ("attempt", "model")]
            numbers = [text_of(attempt.get(name), ".4g") for name in ("bound", "budget")]
            yield [*names, *numbers, "certified" if attempt.get("certified") else "not certified"]


def _benchmarks(found: Any) -> Iterator[list[str]]:
    """Model, task, number, value with its standard error, of what lm-evaluation-harness measured."""
    for model, requested in (found or {}).items():
        for tasks in requested.values():
            for task, numbers in tasks.items():
                for key, value in numbers.items():
                    name, _, kind = key.partition(",")
                    if name.endswith("_stderr") or value_of(value) is None:
                        continue
                    error = value_of(numbers.get(f"{name}_stderr,{kind}"))
                    yield [model, task, name, text_of(value, ".3f") + (f" ± {text_of(error, '.3f')}" if error else "")]


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """A nested dict as rows, its keys joined by dots."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _settings(inputs: Inputs) -> Iterator[tuple[str, str]]:
    yield "trl-rsa (this page)", __version__
    yield (
        "records.jsonl",
        f"{inputs.responses.found.read:,} records read, {inputs.responses.found.unreadable:,} lines unreadable",
    )
    settings = next(iter(inputs.metrics["models"].values()))["settings"]
    yield from _flat(settings, "metrics")
    evaluation = inputs.metrics.get("evaluation")
    if isinstance(evaluation, dict):
        yield from _flat(evaluation.get("settings") or {}, "evaluation")
        yield from _flat(evaluation.get("versions") or {}, "evaluated with")
    yield from _flat(inputs.metrics.get("demo") or {}, "demo")
    versions: dict[str, str] = {}
    for manifest in inputs.manifests.values():
        found = manifest.get("versions")
        versions |= {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    yield from ((f"trained with.{name}", value) for name, value in versions.items())


def render_html(context: Mapping[str, Any]) -> str:
    css, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    # Only this very script may run, and nothing may be loaded: even a hole in the escaping would not open the page.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment(autoescape=True).get_template("page.html.j2")
    return template.render(context, css=Markup(css), script=Markup(script), script_hash=digest)


def render_markdown(context: Mapping[str, Any]) -> str:
    return _environment(autoescape=False).get_template("page.md.j2").render(context)


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = inline_markdown
    return environment
