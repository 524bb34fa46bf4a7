"""The plans of papers: files in trl_rsa/presets, whose comments say what differs from the paper and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trl_rsa.alignment.typed import load_yaml, shown, suggest


FOLDER = Path(__file__).parents[1] / "presets"
# Besides the keys of a plan: what replaces the data of every stage, and what is added to how it is read.
FOR_ALL_STAGES = ("dataset", "dataset_options")


@dataclass(frozen=True)
class Preset:
    """
    Args:
        name (`str`):
            As in `preset: NAME`.
        path (`Path`):
            Its file.
    """

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """The file: a plan in YAML, under comments."""
        return self.path.read_text(encoding="utf-8")

    @property
    def comments(self) -> list[str]:
        """The lines above the plan, without `#`."""
        lines = self.text.splitlines()
        return [line[1:].removeprefix(" ") for line in lines if line.startswith("#")]

    @property
    def summary(self) -> str:
        return self.comments[0]

    @property
    def plan(self) -> dict[str, Any]:
        """What the file says."""
        return dict(load_yaml(self.path))


PRESETS = {path.stem: Preset(path.stem, path) for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: path.stem)}


def find_preset(name: Any) -> Preset:
    """
    Raises:
        ValueError: if there is no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(
            f"You set preset to {shown(name)}, but the presets are {', '.join(PRESETS)}."
            f"{suggest(name, PRESETS, otherwise='Set one of these.')}"
        )
    return PRESETS[name]


def apply_preset(name: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a preset with changes, as its YAML would say it.

    Args:
        name (`str`):
            Of the preset.
        changes (`Mapping[str, Any]`):
            Keys of a plan. A mapping changes the preset's key by key, and null removes a key; everything else takes
            the place of what the preset has. `stages` may be a mapping from the names of the preset's stages to what
            changes in each. `dataset` is the data of all stages, `dataset_options` is added to how all are read.

    Raises:
        ValueError: if there is no such preset, or it has no such stage.
    """
    plan, changes = find_preset(name).plan, dict(changes)
    stages = changes.pop("stages", None)
    for stage in plan["stages"]:
        if changes.get("dataset") is not None:
            stage["dataset"] = changes["dataset"]
        if isinstance(changes.get("dataset_options"), Mapping):
            added = dict(changes["dataset_options"])
            if stage.get("method") == "cost":
                added.pop("template", None)  # the tokenizer decides how a cost is asked
            stage["dataset_options"] = _merged(stage.get("dataset_options") or {}, added)
    if isinstance(stages, Mapping):
        plan["stages"] = _change_stages(str(name), plan["stages"], stages)
    elif stages is not None:
        plan["stages"] = stages
    merged: dict[str, Any] = _merged(plan, {key: value for key, value in changes.items() if key not in FOR_ALL_STAGES})
    return merged


def _change_stages(name: str, stages: list[dict[str, Any]], changes: Mapping[Any, Any]) -> list[dict[str, Any]]:
    known = [stage["name"] for stage in stages]
    for key in changes:
        if key not in known:
            raise ValueError(
                f"You set stages.{key}, but the stages of the preset {name!r} are {', '.join(known)}."
                f"{suggest(key, known)} For stages of your own, give `stages` as a list."
            )
    changed = [(stage, changes.get(stage["name"], {})) for stage in stages]
    return [_merged(stage, change) for stage, change in changed if change is not None]


def _merged(before: Any, after: Any) -> Any:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    merged = dict(before)
    for key, value in after.items():
        merged[key] = _merged(before.get(key), value)
    return {key: value for key, value in merged.items() if value is not None}
