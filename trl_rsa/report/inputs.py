"""The files of a folder: what must be there, what may be, and what is wrong with them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_rsa.report.names import short_names
from trl_rsa.report.pressure_entries import entries_of
from trl_rsa.report.responses import Responses, is_finite, model_name, read_responses, shorten, text_of
from trl_rsa.storage.names import CERTIFICATE, FRONT, MANIFEST, METRICS, RECORDS, TOKENS
from trl_rsa.storage.records import ReadReport, read_records


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
            From tokens.jsonl: per model its worst responses token by token, the worst first.
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
        if found is not None:
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
    _read_tokens(folder / TOKENS, inputs, keep)
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
    for comparison in metrics.get("comparisons") or []:
        comparison |= {name: short.get(comparison[name], comparison[name]) for name in ("baseline", "model")}
    for entry in entries_of(metrics):
        entry["model"] = short.get(entry.get("model"), entry.get("model"))
    responses.costs, responses.rewards, responses.worst = (
        renamed(columns) for columns in (responses.costs, responses.rewards, responses.worst)
    )


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        models = metrics["models"]
        if not models or not all({"cost", "reward", "settings"} <= set(model) for model in models.values()):
            raise KeyError("models")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"You asked for a report with {str(path)!r}, but it is not what summarize_models gives ({error!r}). Make "
            "it again with `trl-rsa evaluate`."
        ) from error
    return metrics


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
    if found is None or (found.get("methods") and {"differences", "reference", "tail"} <= found.keys()):
        return found
    warnings.append(f"{path.name} is not of its form and was left out.")
    return None


def _read_tokens(path: Path, inputs: Inputs, keep: int) -> None:
    if not path.is_file():
        return
    found = ReadReport()
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
        inputs.tokens.setdefault(model_name(line), []).append(line)
    for model, lines in inputs.tokens.items():
        costs = [line["cost"] if _is_score(line.get("cost")) else float("-inf") for line in lines]
        order = sorted(range(len(lines)), key=lambda i: -costs[i])
        inputs.tokens[model] = [lines[i] for i in order[:keep]]
    if found.problems:
        inputs.warnings.append(f"{TOKENS} has problems: {_listed(found)}.")


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)


def _warn_about_records(inputs: Inputs) -> None:
    responses = inputs.responses
    evaluation = inputs.metrics.get("evaluation")
    source = (evaluation.get("source") if isinstance(evaluation, dict) else None) or {}
    if source.get("unreadable"):
        inputs.warnings.append(
            f"Of the file that was evaluated {source['unreadable']:,} lines could not be read, beside "
            f"{source.get('read', 0):,} that could. They are missing from all numbers."
        )
    if responses.found.problems:
        inputs.warnings.append(
            f"Of {RECORDS} {responses.found.read:,} records were read and {responses.found.unreadable:,} lines could "
            f"not be. Problems: {_listed(responses.found)}. A response without a cost is missing from the numbers "
            "below; if it is missing because it was bad, they look better than they are."
        )
    for name, model in inputs.metrics["models"].items():
        found, said = len(responses.costs.get(name, ())), model["cost"].get("n")
        if found != said:
            inputs.warnings.append(
                f"metrics.json speaks of {said} scored responses of {name}, but records.jsonl has {found}: one of "
                "them is out of date. Pictures of single responses are from the records, all estimates from the "
                "metrics."
            )


def _listed(found: ReadReport) -> str:
    return "; ".join(f"{count:,} × {reason}" for reason, count in found.problems.most_common())
