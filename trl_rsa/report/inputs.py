"""The files of a folder: what must be there, what may be, and what is wrong with them."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trl_rsa.report.front import check_front
from trl_rsa.report.names import short_names
from trl_rsa.report.numbers import value_of
from trl_rsa.report.pressure_entries import entries_of
from trl_rsa.report.responses import Responses, is_finite, model_name, read_responses, shorten, text_of
from trl_rsa.report.unscored import all_in_words
from trl_rsa.storage.names import CERTIFICATE, FRONT, MANIFEST, METRICS, RECORDS, TOKENS
from trl_rsa.storage.records import ReadReport, read_records


T = TypeVar("T")

# What reading a part of a file raises where it has not its form.
DAMAGE = (KeyError, IndexError, TypeError, AttributeError, ValueError)


@dataclass
class Inputs:
    """What was found.

    Args:
        metrics (`dict`):
            metrics.json.
        responses ([`Responses`]):
            From records.jsonl.
        certificates (`dict[str, dict]`):
            certificate.json under the name "", and the ladder's certificate-NAME.json under the constraint's name.
        manifests (`dict[str, dict]`):
            manifest.json of the folder, or those of its subfolders by their name.
        tokens (`dict[str, list[dict]]`):
            From tokens.jsonl: per model those of its worst responses that are there token by token.
        warnings (`list[str]`):
            Sentences for the reader of the page: what could not be used, and why.
        front (`dict`, *optional*):
            front.json: models by method, reward against the tail.
        full_names (`dict[str, str]`):
            By the short name of a model, under which it stands in all of the above, the one in the files.
    """

    metrics: dict[str, Any]
    responses: Responses
    certificates: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    full_names: dict[str, str] = field(default_factory=dict)
    front: dict[str, Any] | None = None

    def optional(self, part: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; if `part` is not of its form, None and a warning."""
        try:
            return make()
        except DAMAGE:
            sentence = f"{part} is not of its form and was left out."
            if sentence not in self.warnings:
                self.warnings.append(sentence)
            return None


def read_inputs(folder: Path, keep: int = 5) -> Inputs:
    """Reads a folder.

    Args:
        folder (`Path`):
            With `records.jsonl` and `metrics.json`; `certificate.json`, `manifest.json`, `front.json` and
            `tokens.jsonl` may be missing or damaged.
        keep (`int`, *optional*, defaults to 5):
            Worst responses per model.

    Raises:
        FileNotFoundError: if there is no `records.jsonl` or no `metrics.json`.
        ValueError: if `metrics.json` is damaged or not of its form.
    """
    for name in (RECORDS, METRICS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"You asked for a report of {str(folder)!r}, but it has no {name}. Give the folder that "
                "`trl-rsa evaluate` or `trl-rsa demo` wrote."
            )
    metrics = _read_metrics(folder / METRICS)
    inputs = Inputs(metrics, read_responses(folder / RECORDS, keep))
    stem, suffix = CERTIFICATE.split(".")
    for path in [folder / CERTIFICATE, *sorted(folder.glob(f"{stem}-*.{suffix}"))]:
        found = _optional(path, inputs.warnings)
        if found is not None and not _is_certificate(found):
            inputs.warnings.append(f"{path.name} is not of its form and was left out.")
        elif found is not None:
            inputs.certificates[path.stem.removeprefix(stem).removeprefix("-")] = found
    own = _optional(folder / MANIFEST, inputs.warnings)
    if own is not None:
        inputs.manifests[""] = own
    else:
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            found = _optional(path, inputs.warnings)
            if found is not None:
                inputs.manifests[path.parent.name] = found
    inputs.front = _read_front(folder / FRONT, inputs.warnings)
    _read_tokens(folder / TOKENS, inputs)
    _keep_comparisons(inputs)
    _warn_about_records(inputs)
    _rename(inputs)
    return inputs


def _rename(inputs: Inputs) -> None:
    """Gives every model its short name."""
    names = list(inputs.metrics["models"])
    short = dict(zip(names, short_names(names), strict=True))
    inputs.full_names = {new: old for old, new in short.items()}

    def renamed(by_model: dict[str, Any]) -> dict[str, Any]:
        """In the order of the metrics, which decides the colours."""
        return {new: by_model[old] for old, new in short.items() if old in by_model}

    metrics, responses = inputs.metrics, inputs.responses
    metrics["models"], inputs.tokens = renamed(metrics["models"]), renamed(inputs.tokens)
    for comparison in metrics["comparisons"]:
        comparison |= {name: short.get(comparison[name], comparison[name]) for name in ("baseline", "model")}
    for entry in entries_of(metrics):
        entry["model"] = short.get(str(entry.get("model")), entry.get("model"))
    responses.costs, responses.rewards, responses.worst = (
        renamed(columns) for columns in (responses.costs, responses.rewards, responses.worst)
    )


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if not metrics["models"]:
            raise KeyError("models")
        for name, model in metrics["models"].items():
            _check_model(name, model)
    except DAMAGE as error:
        raise not_metrics(path, error) from error
    return metrics


def not_metrics(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"You asked for a report with {str(path)!r}, but it is not what summarize_models gives ({error!r}). Make it "
        "again with `trl-rsa evaluate`."
    )


def _check_model(name: str, model: Any) -> None:
    """Raises where an entry of metrics.json lacks what every page shows; its numbers may be null."""
    for part, keys in ("cost", ("mean", "unsafe_rate")), ("reward", ("mean",)), ("settings", ()):
        for key in keys:
            model[part][key]  # a KeyError names the key
        if not isinstance(model[part], dict):
            raise TypeError(f"{part} of {name!r} is no object")
    if not isinstance(model["cost"].get("cvar") or {}, dict):
        raise TypeError(f"cvar of {name!r} is no object")
    for tail in model["cost"].get("cvar") or {}:
        float(tail)
    for key in ("unsafe_above", "confidence"):
        if value_of(model["settings"].get(key, 0.0)) is None:
            raise TypeError(f"{key} of {name!r} is no number")


def _is_certificate(content: Mapping[str, Any]) -> bool:
    lists = (content.get(key) for key in ("limits", "warnings"))
    return isinstance(content.get("statement"), str) and all(isinstance(of, list) for of in lists if of is not None)


def _keep_comparisons(inputs: Inputs) -> None:
    """Of the comparisons in metrics.json those that name two models."""
    found = inputs.metrics.get("comparisons") or []
    whole = [
        one
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and all(isinstance(one.get(name), str) for name in ("baseline", "model"))
    ]
    if not isinstance(found, list) or len(whole) < len(found):
        inputs.warnings.append("A comparison in metrics.json is not of its form and was left out.")
    inputs.metrics["comparisons"] = whole


def _optional(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    warnings.append(f"{path.name} is damaged and was left out.")
    return None


def _read_front(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    found = _optional(path, warnings)
    if found is None:
        return None
    try:
        check_front(found)
    except DAMAGE:
        warnings.append(f"{path.name} is not of its form and was left out.")
        return None
    return found


def _read_tokens(path: Path, inputs: Inputs) -> None:
    if not path.is_file():
        return
    found = ReadReport()
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in read_records(path, found, scores=()):
        given = line.get("tokens")
        tokens: list[Any] = given if isinstance(given, list) else []
        line["tokens"] = tokens
        for name in ("drift", "harm"):
            values = line.get(name)
            fits = isinstance(values, list) and len(values) == len(tokens) and all(map(_is_score, values))
            if values is not None and not fits:
                found.problems[f"{name} is not one number per token"] += 1
                line[name] = None
        line |= {name: shorten(text_of(line[name])) for name in ("prompt", "response")}
        lines.setdefault(model_name(line), []).append(line)
    stale = 0
    for model, of_model in lines.items():
        # An old file has responses that are not in the records, or no longer among the worst.
        by_text = {(line["prompt"], line["response"]): line for line in of_model}
        worst = inputs.responses.worst.get(model, [])
        kept = [by_text[text] for one in worst if (text := (one["prompt"], one["response"])) in by_text]
        stale += min(len(of_model), len(worst)) - len(kept) if worst else len(of_model)
        inputs.tokens[model] = kept
    if found.problems:
        inputs.warnings.append(f"{TOKENS} has problems: {_listed(found)}.")
    if stale > 0:
        inputs.warnings.append(
            f"{TOKENS} lacks some of the worst responses in {RECORDS} and has others in their place, so it is out of "
            "date. Only what is in both is shown token by token. Make it again with `trl-rsa evaluate`."
        )


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)


def _warn_about_records(inputs: Inputs) -> None:
    responses = inputs.responses
    evaluation = inputs.metrics.get("evaluation")
    source = evaluation.get("source") if isinstance(evaluation, dict) else None
    source = source if isinstance(source, dict) else {}
    if value_of(source.get("unreadable")):
        inputs.warnings.append(
            f"Of the file that was evaluated {source['unreadable']:,} lines could not be read, beside "
            f"{value_of(source.get('read')) or 0:,.0f} that could. They are missing from all numbers."
        )
    if responses.found.problems:
        whose = f"{all_in_words(inputs.metrics)} ".lstrip()
        inputs.warnings.append(
            f"Of {RECORDS} {responses.found.read:,} records were read and {responses.found.unreadable:,} lines could "
            f"not be. Problems: {_listed(responses.found)}. {whose}A response without a cost is missing from "
            "the numbers below; if it is missing because it was bad, they look better than they are."
        )
    for name, model in inputs.metrics["models"].items():
        found, said = len(responses.costs.get(name, ())), model["cost"].get("n")
        if found != said:
            what, ours = f"{said} scored responses of {name}", str(found)
        else:
            # Costs may change where their number does not.
            highest, expected = _highest(responses.worst.get(name)), _highest(model["cost"].get("worst"))
            if highest is None or expected is None or math.isclose(highest, expected, rel_tol=1e-6, abs_tol=1e-9):
                continue
            what, ours = f"{expected:g} as the highest cost of {name}", f"{highest:g}"
        inputs.warnings.append(
            f"metrics.json speaks of {what}, but records.jsonl has {ours}: one of them is out of date. Pictures of "
            "single responses are from the records, all estimates from the metrics."
        )
    unknown = [str(name) for name in responses.costs if name not in inputs.metrics["models"]]
    if unknown:
        some = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        inputs.warnings.append(
            f"records.jsonl has responses of {some}, of which metrics.json says nothing. They are not on this page; "
            "evaluate again to have them."
        )


def _highest(worst: Any) -> float | None:
    """The cost of the first of some responses, the worst first."""
    first = worst[0] if isinstance(worst, list) and worst else None
    return value_of(first.get("cost")) if isinstance(first, dict) else None


def _listed(found: ReadReport) -> str:
    return "; ".join(f"{count:,} × {reason}" for reason, count in found.problems.most_common())
