"""All pressures of an evaluation: sampled, scored and summarised, each in a folder of its own, each of them once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from hashlib import file_digest
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.columns import Columns
from trl_rsa.evaluation.comparison import compare
from trl_rsa.evaluation.metrics import read_columns, summarize
from trl_rsa.evaluation.metrics_file import PressureMetrics
from trl_rsa.evaluation.pressure.base import Pressure, Sources, Work
from trl_rsa.evaluation.pressure.settings import PressureSettings
from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.responses import drawn, sample_responses
from trl_rsa.evaluation.scores import StoredScores, score_responses, with_scores
from trl_rsa.evaluation.stress import PLAIN
from trl_rsa.evaluation.workspace import EvaluationSettings, ModelJSON, PressureJSON, Workspace
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring import Scorer
from trl_rsa.scoring.weights import folder_digest
from trl_rsa.storage.digests import digest, prompt_key
from trl_rsa.storage.files import replacing
from trl_rsa.storage.records import Record, RecordWriter, read_records


FOLDER = "pressure"
NONE = "none"  # the pressure of a model as it is


@dataclass(frozen=True)
class Pushed:
    """A pressure in its folder.

    Args:
        pressure ([`Pressure`]):
            Itself.
        work ([`Work`]):
            Where and with what it works.
        workspace ([`Workspace`]):
            Its files.
        rows (`list[dict]`), sampling ([`Sampling`]):
            What is asked, and how the responses are drawn.
    """

    pressure: Pressure
    work: Work
    workspace: Workspace
    rows: list[PromptRow]
    sampling: Sampling


class PressureRun:
    """
    The pressures of an evaluation. Making it checks all that can be checked before anything is sampled.

    Args:
        settings ([`PressureSettings`]):
            Which.
        work ([`Work`]):
            As without pressure, in the evaluation's folder.
        models (`Mapping[str, str]`):
            Folder or repository by name.
        rows (`Sequence[dict]`):
            Prompts. Attacked ones are left out: they are under pressure already.

    Raises:
        ValueError: if a pressure cannot be put on a model as it was asked for.
    """

    def __init__(
        self,
        settings: PressureSettings,
        work: Work,
        models: Mapping[str, str],
        rows: Sequence[PromptRow],
    ) -> None:
        self.work, self.models, self.progress, self.log = work, models, work.progress, work.log
        self.rows = _some([row for row in rows if row.get("attack") in (None, PLAIN)], settings, work.sampling.seed)
        self.chosen, self.pushed = settings.chosen, list[Pushed]()
        for pressure in self.chosen:
            if pressure.by_itself and work.sampling.engine != "transformers":
                raise ValueError(
                    f"You set the pressure {pressure.name} with engine={work.sampling.engine!r}, but that engine "
                    "draws from models as they are. Leave the engine out, or this pressure."
                )
            pressure.check(list(models.values()), work)
            # What cannot be asked is found now; the folder is made when it is filled.
            pressure.prompts(self.rows, work)
            pressure.sampling(work.sampling)

    def _open(self, pressure: Pressure, pinned: EvaluationSettings) -> Pushed:
        work = self.work
        own = replace(work, folder=work.folder / FOLDER / pressure.name.replace(":", "-").replace("/", "-"))
        rows, sampling = pressure.prompts(self.rows, own), pressure.sampling(work.sampling)
        asked = [[row.get(name) for name in ("prompt", "attack")] for row in rows]
        settings: EvaluationSettings = {
            **pinned,
            "prompts": {"n": len(rows), "fingerprint": digest(asked).hex()},
            "sampling": {**pinned["sampling"], "draws": sampling.draws, "temperature": sampling.temperature},
            "pressure": _pinned(pressure, work.sources),
        }
        return Pushed(pressure, own, Workspace(own.folder, settings), rows, sampling)

    # Phases

    def sample(self, pinned: EvaluationSettings) -> None:
        """responses.jsonl of every pressure. `pinned` are the settings of the evaluation without pressure."""
        self.pushed = [self._open(pressure, pinned) for pressure in self.chosen]
        for one in self.pushed:
            if one.pressure.shares_draws and not one.workspace.responses.exists():
                self._take_over(one)
            for name, path in self.models.items():
                self._sample(one, name, path)

    def _sample(self, one: Pushed, name: str, path: str) -> None:
        total = len(one.rows) * one.sampling.draws
        if len(drawn(one.workspace.responses, name, one.rows)) >= total:
            return
        pressure, phase = one.pressure, f"{one.pressure.name}: sampling {name}"
        self.log(f"{name}, {pressure.in_words}: {one.sampling.draws} responses to each of {len(one.rows)} prompts")
        under = {} if pressure.shares_draws else {"under": pressure.in_words}
        with pressure.policy(path, one.work) as (folder, load):
            sample_responses(
                one.workspace.responses,
                name,
                folder,
                one.rows,
                one.sampling,
                batch_size=one.work.batch_size,
                load=load,
                beginnings=lambda tokenizer: pressure.beginnings(one.rows, tokenizer, one.work),
                more=under,
                progress=lambda done: self.progress(phase, done, total),
            )

    def _take_over(self, one: Pushed) -> None:
        """The draws that there are without pressure."""
        keys = {(prompt_key(row["prompt"]), row.get("attack")) for row in one.rows}
        with replacing(one.workspace.responses) as partial_file, RecordWriter(partial_file) as writer:
            for record in read_records(self.work.folder / "responses.jsonl", scores=()):
                known = (prompt_key(record["prompt"]), record.get("attack")) in keys
                if known and record["model"] in self.models and record["draw"] < one.sampling.draws:
                    writer.write(record)

    def score(self, scorer: Scorer, batch_size: int, base_prompts: bool) -> None:
        """The scores of every pressure by one scorer."""
        for one in self.pushed:
            n = sum(1 for _ in read_records(one.workspace.responses, scores=()))
            phase = f"{one.pressure.name}: scoring {scorer.kind}"
            found = score_responses(
                partial(read_records, one.workspace.responses, scores=()),
                one.workspace.scores(scorer.kind),
                scorer,
                batch_size=batch_size,
                base_prompts=base_prompts,
                progress=lambda done, phase=phase, n=n: self.progress(phase, done, n),  # type: ignore[misc]
            )
            if found.reasons:
                self.log(
                    f"warning: {one.pressure.name}: {len(found.reasons)} of {n} responses have no {scorer.kind}; "
                    "started again, the command tries them again"
                )

    def summarise(
        self, plain: Path, tails: Sequence[float], unsafe_above: float, bootstrap: Bootstrap
    ) -> list[PressureMetrics]:
        """The table of metrics.json, from the records without pressure and those of every pressure."""
        before = _by_model(
            record for record in read_records(plain, scores=()) if record.get("attack") in (None, PLAIN)
        )
        asked = {int(prompt_key(row["prompt"]), 16) for row in self.rows}
        groups = np.array(sorted(asked), dtype=np.uint64)
        before = {name: of.take(np.isin(of.group, groups)) for name, of in before.items()}
        options: dict[str, Any] = {"unsafe_above": unsafe_above, "bootstrap": bootstrap}
        found = [_metrics(name, NONE, "as it is", of, None, tails, options) for name, of in before.items()]
        cut = _cut(read_records(plain, scores=()), asked)
        for entry in found:
            entry["cut"] = cut.get(entry["model"], 0)
        for one in self.pushed:
            self._write_records(one)
            cut = _cut(read_records(one.workspace.records, scores=()), None)
            for name, columns in _by_model(read_records(one.workspace.records, scores=())).items():
                counted, words = one.pressure.counted(columns), one.pressure.in_words
                entry = _metrics(name, one.pressure.name, words, counted, before[name], tails, options)
                entry["cut"] = cut.get(name, 0)
                found.append(entry)
        return found

    def _write_records(self, one: Pushed) -> None:
        scores = {
            kind: StoredScores.read(one.workspace.scores(kind))
            for kind in ("reward", "cost")
            if one.workspace.scores(kind).exists()
        }
        with replacing(one.workspace.records) as partial_file, RecordWriter(partial_file) as writer:
            for record in with_scores(read_records(one.workspace.responses, scores=()), scores):
                writer.write(record)


def _some(rows: list[PromptRow], settings: PressureSettings, seed: int) -> list[PromptRow]:
    if settings.max_prompts is None or len(rows) <= settings.max_prompts:
        return rows
    places = sorted(Random(seed).sample(range(len(rows)), settings.max_prompts))
    return [rows[place] for place in places]


def _pinned(pressure: Pressure, sources: Sources) -> PressureJSON:
    assert is_dataclass(pressure)
    used: dict[str, ModelJSON] = {}
    for source in fields(sources):
        path = getattr(sources, source.name)
        if source.name in pressure.needs() and path is not None:
            used[source.name] = {"path": path, "sha256": _content(Path(path))}
    return {"name": pressure.name, "fields": asdict(pressure), "sources": used}


def _content(path: Path) -> str | None:
    if path.is_dir():
        return folder_digest(path)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _by_model(records: Iterator[Record]) -> dict[str, Columns]:
    return read_columns(records).by_model()


def _cut(records: Iterator[Record], asked: set[int] | None) -> dict[str, int]:
    """By model: how many responses did not end by themselves."""
    found: dict[str, int] = {}
    for record in records:
        plain = asked is None or (
            record.get("attack") in (None, PLAIN) and int(prompt_key(record["prompt"]), 16) in asked
        )
        if plain and record.get("finished") is False:
            found[record["model"]] = found.get(record["model"], 0) + 1
    return found


def _metrics(
    model: str,
    name: str,
    words: str,
    columns: Columns,
    before: Columns | None,
    tails: Sequence[float],
    options: Mapping[str, Any],
) -> PressureMetrics:
    found = summarize(columns, tails, by=(), n_worst=1, **options)
    del found["cost"]["worst"]
    difference = None if before is None else compare(before, columns, tails, crossed=True, **options)["cost"]
    return {
        "model": model,
        "pressure": name,
        "in_words": words,
        "n": found["n"],
        "n_prompts": found["n_prompts"],
        "cost": found["cost"],
        "reward": found["reward"],
        "refusal": found["refusal"],
        "cut": 0,
        "difference": difference,
    }
