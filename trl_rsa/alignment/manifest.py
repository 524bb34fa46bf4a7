"""manifest.json: what was planned, what was done, with which data and versions. Written atomically."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from trl_rsa.alignment.plan import Plan
from trl_rsa.storage.files import write_json
from trl_rsa.storage.names import MANIFEST
from trl_rsa.storage.provenance import differences, now, versions


SCHEMA_VERSION = 1


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: every setting that changes the result. Objects appear by content or by `repr`."""
    described = {f.name: _describe(getattr(plan, f.name)) for f in dataclasses.fields(plan) if f.name != "output_dir"}
    return json.loads(json.dumps(described))


# What a run may change when it goes on: where it is watched, and how long a search that found nothing may last.
_WATCHING = ("logging_", "log_", "report_to", "disable_tqdm", "project", "trackio_", "include_num_input_tokens_seen")
_LIMITS = ("rungs.max_rungs", "rungs.max_walk_backs")


def _is_free(change: str) -> bool:
    """Whether a difference, as [`differences`] writes it, leaves what was done as it is."""
    path, _, numbers = change.partition(": ")
    if path in _LIMITS:
        before, _, after = numbers.removesuffix(" now").partition(" before, ")
        return int(after) > int(before)
    *_, place, name = ["", "", *path.split(".")]
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


class Manifest:
    """The manifest of one output folder, in memory and on disk.

    Args:
        plan ([`Plan`]):
            The plan to run in `plan.output_dir`.

    Raises:
        ValueError: if the folder holds the manifest of another plan; the message names the differences.
    """

    def __init__(self, plan: Plan):
        self.path = Path(plan.output_dir) / MANIFEST
        described = describe(plan)
        if self.path.exists():
            self.content = self._read(described)
        else:
            self.content = {
                "schema_version": SCHEMA_VERSION,
                "created": now(),
                "versions": versions(),
                "plan": described,
                "stages": [{"name": stage.name, "status": "planned"} for stage in plan.stages],
            }

    def _read(self, described: dict[str, Any]) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"You set an output_dir whose {MANIFEST} is not valid JSON ({error}), but it says what is done "
                "already. Restore it, or use another output_dir."
            ) from error
        if content.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"You set an output_dir whose {MANIFEST} has schema version {content.get('schema_version')}, but "
                f"this trl-rsa writes version {SCHEMA_VERSION}. Use another output_dir."
            )
        changes = [change for change in differences(content["plan"], described) if not _is_free(change)]
        if changes:
            raise ValueError(
                f"You changed the plan in {self.path.parent} since it was started ({'; '.join(changes[:5])}"
                f"{'; …' if len(changes) > 5 else ''}), but a resumed run must end like an uninterrupted one. Restore "
                "the plan, or use another output_dir."
            )
        content["plan"] = described
        return content

    def stage(self, index: int) -> dict[str, Any]:
        return self.content["stages"][index]

    def update(self, index: int | None = None, **entries: Any) -> None:
        """Sets entries of the stage `index` (or of the whole) and writes the file."""
        (self.content if index is None else self.stage(index)).update(entries)
        write_json(self.path, self.content)
