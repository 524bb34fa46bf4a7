"""The folder of an evaluation: its files, and the settings that everything in it was made with."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from trl_rsa.storage.files import write_json
from trl_rsa.storage.names import CERTIFICATE, METRICS, RECORDS, TOKENS
from trl_rsa.storage.provenance import differences, now, versions


SCHEMA_VERSION = 1


class ScorerJSON(TypedDict):
    """A reward or cost model. `raw_higher_is` and `zero` say how its raw score is read."""

    name: str
    fingerprint: str
    raw_higher_is: str
    zero: float


class ModelJSON(TypedDict):
    """A model that is sampled: its folder or repository, and the digest of a folder's content."""

    path: str
    sha256: str | None


class PromptsJSON(TypedDict):
    """The prompts, attacked ones included."""

    n: int
    fingerprint: str


class ResponsesFileJSON(TypedDict):
    """The file of responses that was evaluated."""

    file: str
    sha256: str


class PressureJSON(TypedDict):
    """What a model is put under: the pressure's name, its fields, and the sources that it uses with their digests."""

    name: str
    fields: dict[str, Any]
    sources: dict[str, ModelJSON]


class EvaluationSettings(TypedDict):
    """All that changes the responses or their scores: either `responses`, or the three after it."""

    scorers: dict[str, ScorerJSON]  # "reward", "cost"
    base_prompts: bool
    responses: NotRequired[ResponsesFileJSON]
    models: NotRequired[dict[str, ModelJSON]]
    prompts: NotRequired[PromptsJSON]
    sampling: NotRequired[dict[str, Any]]  # the fields of Sampling, and dtype
    pressure: NotRequired[PressureJSON]  # in the folder of a pressure


class EvaluationFile(TypedDict):
    """evaluation.json: the settings that everything in the folder was made with."""

    schema_version: int
    created: str
    versions: dict[str, str]
    settings: EvaluationSettings


class Workspace:
    """The output folder. Opening it pins the settings; another start with others is refused.

    Args:
        folder (`str` or `Path`):
            Made if it is not there.
        settings ([`EvaluationSettings`]):
            All that changes the responses or their scores.

    Raises:
        ValueError: if the folder was begun with other settings; the message names the differences.
    """

    def __init__(self, folder: str | Path, settings: EvaluationSettings) -> None:
        self.folder = Path(folder)
        self.responses = self.folder / "responses.jsonl"
        self.records = self.folder / RECORDS
        self.metrics = self.folder / METRICS
        self.tokens = self.folder / TOKENS
        self.drift = self.folder / "drift.jsonl"
        self.nested = self.folder / "nested.jsonl"
        self.benchmarks = self.folder / "benchmarks.json"
        self.certificate = self.folder / CERTIFICATE
        self.settings: EvaluationSettings = json.loads(json.dumps(settings))
        self.versions = versions()
        self._pin(self.folder / "evaluation.json")

    def scores(self, kind: str) -> Path:
        return self.folder / f"{kind}_scores.jsonl"

    def _pin(self, path: Path) -> None:
        if not path.exists():
            if self.folder.exists() and not self.folder.is_dir():
                raise ValueError(f"You set output_dir to {self.folder}, but that is a file. Name a folder.")
            pages = (self.folder / "report.html", self.folder / "report.md")
            taken = [file.name for file in (self.responses, self.records, self.metrics, *pages) if file.exists()]
            if taken:
                raise ValueError(
                    f"You set output_dir to {self.folder}, but there is a {taken[0]} without the settings that made "
                    "it (evaluation.json). Use another output_dir."
                )
            content: EvaluationFile = {
                "schema_version": SCHEMA_VERSION,
                "created": now(),
                "versions": self.versions,
                "settings": self.settings,
            }
            write_json(path, content)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            pinned = before["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"You set output_dir to {self.folder}, but its evaluation.json cannot be read ({error!r}). Use "
                "another output_dir."
            ) from error
        changes = list(differences(pinned, self.settings))
        if changes:
            more = f"; and {len(changes) - 5} more" if len(changes) > 5 else ""
            raise ValueError(
                f"You set output_dir to {self.folder}, but what is there was made with other settings "
                f"({'; '.join(changes[:5])}{more}). Restore them, or use another output_dir."
            )
