"""manifest.json: what was planned, what was done, with which data and versions. Written atomically."""

import dataclasses
import json
import os
from collections.abc import Container
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from trl_rsa.alignment.merges import MergeEntry
from trl_rsa.alignment.plan import Plan
from trl_rsa.data.report import DataReportJSON
from trl_rsa.ladder.human import HumanCounts
from trl_rsa.ladder.observations import FILE_NAME as OBSERVATIONS
from trl_rsa.ladder.summary import LadderSummary
from trl_rsa.scoring.load import spec_fingerprint
from trl_rsa.storage.files import write_json
from trl_rsa.storage.folders import model_fingerprint, sync_folder
from trl_rsa.storage.names import MANIFEST
from trl_rsa.storage.provenance import differences, now, versions
from trl_rsa.training.anchor import model_identity


SCHEMA_VERSION = 1


class StageData(TypedDict):
    """The pairs of a stage: what was read, and what is held out of it, a data set of its own or a number of pairs."""

    train: DataReportJSON
    eval: NotRequired[DataReportJSON]
    held_out_pairs: NotRequired[int]


class StageEntry(TypedDict):
    """A stage in the manifest. It has its `name` and `status` ("planned", "running", "complete") from the beginning,
    what follows until `data` once it is begun, and the rest, a [`~training.stage.StageResult`] too, at its end.
    `reference` and `temperature` are those of a method that has them; `copied_from` is the folder of a stage that
    another point of a sweep has trained."""

    name: str
    status: str
    folder: NotRequired[str]
    started: NotRequired[str]
    reference: NotRequired[str]
    temperature: NotRequired[float]
    data: NotRequired[StageData]
    finished: NotRequired[str]
    seconds: NotRequired[float]
    steps: NotRequired[int]
    metrics: NotRequired[dict[str, float | None]]
    engine: NotRequired[str]
    processes: NotRequired[int]
    fingerprint: NotRequired[str]
    copied_from: NotRequired[str]


class ManifestFile(TypedDict):
    """manifest.json. `ladder` is there when the ladder has ended."""

    schema_version: int
    created: str
    versions: dict[str, str]
    plan: dict[str, Any]  # what describe gives
    models: dict[str, str | None]
    stages: list[StageEntry]
    human_pairs: NotRequired[dict[str, HumanCounts]]
    merges: NotRequired[list[MergeEntry]]
    ladder: NotRequired[LadderSummary]


def describe(plan: Plan, fields: Container[str] | None = None) -> dict[str, Any]:
    """The plan as JSON: every setting that changes the result, or these `fields`. Objects appear by content or by
    `repr`."""
    described = {
        f.name: _describe(getattr(plan, f.name))
        for f in dataclasses.fields(plan)
        # What is merged of finished stages may change.
        if f.name not in ("output_dir", "merge") and (fields is None or f.name in fields)
    }
    for stage in described.get("stages", ()):
        for name, default in _ADDED.items():
            if stage.get(name) == default:
                del stage[name]  # the manifests of plans from before stay as they were
    return json.loads(json.dumps(described))


_ADDED: dict[str, Any] = {"method": "rsa", "rewards": [], "costs": [], "eval_options": {}}


# What a run may change when it goes on: where it is watched, and how long a search that found nothing may last. Not
# the number of walk-backs: they follow on a model that is met and certified, and would hand out one that is less safe.
_WATCHING = ("logging_", "log_", "report_to", "disable_tqdm", "project", "trackio_", "include_num_input_tokens_seen")
_LIMITS = ("rungs.max_rungs",)
_ADDRESSES = ("rungs.sampling.server_url", "rungs.sampling.server_key_env")


def _is_free(change: str) -> bool:
    """Whether a difference, as [`differences`] writes it, leaves what was done as it is."""
    path, _, numbers = change.partition(": ")
    before, _, after = numbers.removesuffix(" now").partition(" before, ")
    if path in _LIMITS:
        return int(after) > int(before)
    *_, place, name = ["", "", *path.split(".")]
    if place == "audit" and name in ("budget", "confirm"):
        # What is kept back grows with the budget; runs from before kept nothing back.
        return int(after) > int(before) if before != "null" else after == "0"
    if place == "audit" and name == "wait":
        return True
    if path in _ADDRESSES:
        return True
    return place == "args" and name.startswith(_WATCHING)


def _describe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "state_dict"):
        return f"a {type(value).__name__} in memory, {_hash_weights(value)}"
    if hasattr(value, "column_names"):
        # Its content is fingerprinted when the stage reads it; `Dataset._fingerprint` changes from run to run.
        return f"a {type(value).__name__} in memory with columns {sorted(value.column_names)}"
    if hasattr(value, "to_dict"):
        return _describe(value.to_dict())
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if hasattr(value, "value"):  # enumerations, as in a PeftConfig
        return _describe(value.value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # An object's default repr holds its address, which changes from run to run.
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _hash_weights(model: Any) -> str:
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _fingerprints(plan: Plan) -> dict[str, str | None]:
    """Of the model that the plan starts from and of the cost models, where they are known by a name."""
    found = {}
    if isinstance(plan.model, str):
        found[f"the model {plan.model}"] = model_identity(plan.model, plan.model_init_kwargs.get("revision"))
    for _, _, term in plan.scored_by:
        if isinstance(term.scorer, str) and (fingerprint := spec_fingerprint(term.scorer)):
            found[f"the scorer {term.scorer}"] = fingerprint
    return found


def _is_entry(stage: Any) -> bool:
    return isinstance(stage, dict) and isinstance(stage.get("status"), str)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


class Manifest:
    """The manifest of one output folder, in memory and on disk.

    Args:
        plan ([`Plan`]):
            The plan to run in `plan.output_dir`.

    Raises:
        ValueError: if the folder holds the manifest of another plan, or a model has changed under its name; the
            message names the differences.
    """

    def __init__(self, plan: Plan):
        self.path = Path(plan.output_dir) / MANIFEST
        described, models = describe(plan), _fingerprints(plan)
        if self.path.exists():
            self.content: ManifestFile = self._read(described)
            self._check_models(models)
            self._check_results()
        else:
            self._refuse_ladder()
            self.content = {
                "schema_version": SCHEMA_VERSION,
                "created": now(),
                "versions": versions(),
                "plan": described,
                "models": models,
                "stages": [{"name": stage.name, "status": "planned"} for stage in plan.stages],
            }

    def _refuse_ladder(self) -> None:
        """Without the manifest nobody knows of which plan the rungs are, and they would be taken for this one's."""
        folder = self.path.parent
        if (folder / OBSERVATIONS).exists() or any(folder.glob("ladder/rung-*")):
            raise ValueError(
                f"You set the output_dir {folder}, but it holds a ladder without its {MANIFEST}, which says of which "
                "plan the ladder is. Restore the file, or use another output_dir."
            )

    def _read(self, described: dict[str, Any]) -> ManifestFile:
        content = self._load()
        if content.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"You set an output_dir whose {MANIFEST} has schema version {_shown(content.get('schema_version'))}, "
                f"but this trl-rsa writes version {SCHEMA_VERSION}. Use another output_dir."
            )
        stages, plan = content.get("stages"), content.get("plan")
        if not isinstance(plan, dict) or not isinstance(stages, list) or not all(map(_is_entry, stages)):
            raise ValueError(
                f"You set an output_dir whose {self.path} does not say what was planned and done. Restore it, or use "
                "another output_dir."
            )
        changes = [change for change in differences(plan, described) if not _is_free(change)]
        if len(stages) != len(described["stages"]):
            changes.append(f"stages: {len(stages)} before, {len(described['stages'])} now")
        if changes:
            raise ValueError(
                f"You changed the plan in {self.path.parent} since it was started ({'; '.join(changes[:5])}"
                f"{'; …' if len(changes) > 5 else ''}), but a resumed run must end like an uninterrupted one. Restore "
                "the plan, or use another output_dir."
            )
        return cast(ManifestFile, content | {"plan": described})

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise ValueError(
                f"You set an output_dir whose {self.path} is not valid JSON ({said}), but it says what is done "
                "already. Restore it, or use another output_dir."
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"You set an output_dir whose {self.path} is not a mapping, but it says what is done already. Restore "
                "it, or use another output_dir."
            )
        return content

    def _check_models(self, models: dict[str, str | None]) -> None:
        """What bears the same name as at the start must be the same model."""
        before = self.content.setdefault("models", models)
        for name, fingerprint in models.items():
            if before.get(name) is None:
                before[name] = fingerprint  # it had not been fetched
            elif fingerprint is not None and before[name] != fingerprint:
                raise ValueError(
                    f"You resume in {self.path.parent}, but {name} is another model than at the start, under the same "
                    "name. Restore it, or use another output_dir."
                )

    def _check_results(self) -> None:
        """A finished stage is not repeated: its model must be the one that was trained."""
        for entry in self.content["stages"]:
            if entry["status"] != "complete" or "fingerprint" not in entry:
                continue
            folder = self.path.parent / str(entry.get("folder"))
            if not folder.is_dir() or model_fingerprint(folder) != entry["fingerprint"]:
                raise ValueError(
                    f"You resume in {self.path.parent}, but the model of the finished stage {entry['name']!r} in "
                    f"{folder} is not as it was saved. Restore the folder, or use another output_dir."
                )

    def stage(self, index: int) -> StageEntry:
        return self.content["stages"][index]

    def update(self, index: int | None = None, **entries: Any) -> None:
        """Sets entries of the stage `index` (or of the whole) and writes the file.

        The model of a stage that is complete is on the disk by then, and its fingerprint in the file.
        """
        changed = cast(dict[str, Any], self.content if index is None else self.stage(index))
        changed.update(entries)
        if index is not None and entries.get("status") == "complete" and "folder" in self.stage(index):
            folder = self.path.parent / self.stage(index)["folder"]
            sync_folder(folder)
            self.stage(index)["fingerprint"] = model_fingerprint(folder)
        write_json(self.path, self.content)
