"""What a program becomes, a stage of a plan or a command of ours, and how a plan is written down with comments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml


# By key of the plan, as "stages.beta" or "constraint.tail": lines that are written above it.
Comments = dict[str, list[str]]


@dataclass
class StageDraft:
    """
    One program that trains a policy.

    Args:
        program (`str`):
            As the script calls it.
        model, output_dir (`str`):
            Where it starts, and where it writes.
        stage (`dict`, *optional*):
            A stage, without the arguments of its training; None if there is nothing to learn from.
        args (`dict`):
            Arguments of its training.
        seed (`int`):
            Its seed.
        constraint, rungs (`dict`, *optional*):
            The budget, and how the ladder works.
        model_init_kwargs, peft_config (`dict`, *optional*):
            As in a plan.
        engine (`str`, *optional*):
            A name for `--accelerate_config`.
        temperature (`bool`, *optional*):
            Whether the program's β is β/λ of a safety stage.
        comments, without, notes:
            Of what is written.
    """

    program: str
    model: str
    output_dir: str
    stage: dict[str, Any] | None
    args: dict[str, Any]
    seed: int = 42
    constraint: dict[str, Any] | None = None
    rungs: dict[str, Any] | None = None
    model_init_kwargs: dict[str, Any] = field(default_factory=dict)
    peft_config: dict[str, Any] | None = None
    engine: str | None = None
    divides_beta: bool = False
    comments: Comments = field(default_factory=dict)
    without: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class CommandDraft:
    """One program that becomes a command of ours, beside a plan or alone."""

    program: str
    lines: list[str]
    without: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Draft = StageDraft | CommandDraft


def write_plan(plan: Mapping[str, Any], comments: Comments) -> list[str]:
    """A plan as lines of YAML, short mappings in one line, comments above their keys."""
    lines: list[str] = []
    for key, value in plan.items():
        _write(lines, key, value, "", key, comments)
    return lines


def _write(lines: list[str], key: str, value: Any, indent: str, path: str, comments: Comments) -> None:
    lines.extend(f"{indent}# {' '.join(comment.split())}" for comment in comments.get(path, ()))
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        lines.append(f"{indent}{key}:")
        for item in value:
            start = len(lines)
            for name, inner in item.items():
                _write(lines, name, inner, indent + "    ", f"{path}.{name}", comments)
            first = next(i for i in range(start, len(lines)) if not lines[i].lstrip().startswith("#"))
            lines[first] = f"{indent}  - {lines[first].lstrip()}"
            # A comment above the first key stands above the dash.
            lines[start:first] = [f"{indent}  {line.lstrip()}" for line in lines[start:first]]
        return
    if isinstance(value, Mapping) and value and (len(value) > 3 or _has_comments(path, comments)):
        lines.append(f"{indent}{key}:")
        for name, inner in value.items():
            _write(lines, name, inner, indent + "  ", f"{path}.{name}", comments)
        return
    lines.append(f"{indent}{key}: {_in_line(value)}")


def _has_comments(path: str, comments: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for name in comments)


def _in_line(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def shared(arguments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of the mappings say alike."""
    first, *others = arguments
    return {key: value for key, value in first.items() if all(o.get(key, ...) == value for o in others)}
