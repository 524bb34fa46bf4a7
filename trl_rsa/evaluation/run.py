"""One evaluation: samples, scores, summarises, looks for the risk, certifies; each phase goes on where it was."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.branching import add_nested
from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.columns import NAMELESS
from trl_rsa.evaluation.costs import ModelCosts, costs_of_model
from trl_rsa.evaluation.ledger import Attempt, costs_fingerprint, prompt_sketch, read_attempts
from trl_rsa.evaluation.lm_eval import require_harness, run_benchmarks
from trl_rsa.evaluation.localise import add_drift, write_tokens
from trl_rsa.evaluation.metrics import read_columns, summarize_models
from trl_rsa.evaluation.metrics_file import Metrics
from trl_rsa.evaluation.pressure.base import Work
from trl_rsa.evaluation.pressure.run import PressureRun
from trl_rsa.evaluation.request import CertificateSettings, Evaluation, Progress
from trl_rsa.evaluation.responses import sample_responses
from trl_rsa.evaluation.scores import ScorerSpec, StoredScores, describe, score_responses, sign_in_words, with_scores
from trl_rsa.evaluation.tables import read_responses
from trl_rsa.evaluation.token_risk import HarmModels, NothingToCompare
from trl_rsa.evaluation.workspace import EvaluationSettings, ModelJSON, ScorerJSON, Workspace
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring.weights import folder_digest
from trl_rsa.storage.digests import digest
from trl_rsa.storage.files import replacing, write_json
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.names import CERTIFICATE, MANIFEST, RECORDS
from trl_rsa.storage.records import ReadReport, Record, RecordWriter, read_records


Log = Callable[[str], None]


class EvaluationRun:
    """
    An evaluation in its folder. The methods stand in the order in which [`run`] calls them; each does what is left of
    its phase and writes it down. Killed and started again with the same settings, it goes on; the records end up the
    same, byte by byte.

    Making the object checks all that can be checked before anything is sampled, loads every scorer once, and pins the
    settings in the folder.

    ```python
    metrics = EvaluationRun(Evaluation("runs/evaluation", responses="responses.jsonl", cost=spec)).run()
    ```

    Args:
        evaluation ([`Evaluation`]):
            What to do.
        log (`Callable`, *optional*):
            Where the lines about progress go.
        progress (`Callable`, *optional*):
            Called with the phase, and how many of how many are done.
        write_page (`Callable`, *optional*):
            Given the folder once everything is in it, makes the page: [`~report.write_report`]. None without it.

    Attributes:
        workspace ([`Workspace`]): The folder.
        metrics ([`~evaluation.metrics_file.Metrics`]): What metrics.json holds, as far as it is known.
        page (`Any`): What `write_page` returned.

    Raises:
        ValueError, FileNotFoundError: if something cannot be done as it was asked for; before anything is sampled
            wherever possible.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        log: Log = print,
        progress: Progress = lambda phase, done, total: None,
        write_page: Callable[[Path], Any] | None = None,
    ) -> None:
        self.evaluation, self.log, self.progress, self.write_page = evaluation, log, progress, write_page
        self.metrics: Metrics = {}
        self.page: Any = None
        self._source = ReadReport()  # of the file that is evaluated
        self._refuse_own_file()
        # A mistake in what comes last should not cost the sampling.
        if evaluation.benchmarks:
            require_harness()
        self.harm = self._find_harm()
        self._try_templates()
        self.pressures = self._find_pressures()
        self.specs: dict[str, ScorerSpec] = {
            spec.kind: spec for spec in (evaluation.reward, evaluation.cost) if spec is not None
        }
        # The scorers are let go at once: the models that are sampled first need the memory.
        self.workspace = Workspace(evaluation.output_dir, settings_of(evaluation, log))

    def run(self) -> Metrics:
        """All phases, in their order. Nobody else may write to the folder meanwhile."""
        with hold_folder(self.workspace.folder):
            return self._run()

    def _run(self) -> Metrics:
        if self.evaluation.rows or self.evaluation.responses is not None:
            self.sample()
            self.score()
            self.summarise()
            self.drift()
            self.nested()
            self.tokens()
            self.certify()
            self.press()
        self.benchmarks()
        self.report()
        return self.metrics

    # Phases

    def sample(self) -> None:
        """responses.jsonl: every draw of every model, once. Nothing where responses are given."""
        evaluation, sampling = self.evaluation, self.evaluation.sampling
        if evaluation.responses is not None:
            return
        total = len(evaluation.rows) * sampling.draws
        for name, path in evaluation.models.items():
            self.log(f"{name}: {sampling.draws} responses to each of {len(evaluation.rows)} prompts")
            sample_responses(
                self.workspace.responses,
                name,
                path,
                evaluation.rows,
                sampling,
                batch_size=evaluation.batch_size,
                device=evaluation.device,
                dtype=evaluation.dtype,
                progress=lambda done, name=name: self.progress(  # type: ignore[misc]
                    f"sampling {name}", done, total
                ),
            )

    def score(self) -> None:
        """reward_scores.jsonl and cost_scores.jsonl, and records.jsonl, which has both beside the responses."""
        n = sum(1 for _ in self._responses(self._source))
        if n == 0:
            raise ValueError(
                f"You set the responses to {self.evaluation.responses}, but it holds none. {self._source}"
            )
        # In our own file a problem is a line that a kill cut off, and that was written again since.
        if self._source.problems and self.evaluation.responses is not None:
            self.log(f"warning: {self._source}")
        scores = {kind: self._score_kind(spec, n) for kind, spec in self.specs.items()}
        with replacing(self.workspace.records) as partial_file, RecordWriter(partial_file) as writer:
            for record in with_scores(self._responses(), scores):
                writer.write(record)

    def summarise(self) -> None:
        """metrics.json: all numbers with their intervals, from records.jsonl. Written again when there is more."""
        evaluation, workspace = self.evaluation, self.workspace
        problems, cut = ReadReport(), dict[str, int]()
        columns = read_columns(self._counting_cut(problems, cut))
        metrics = summarize_models(
            columns,
            evaluation.tails,
            unsafe_above=evaluation.unsafe_above,
            bootstrap=Bootstrap(seed=evaluation.sampling.seed),
            n_worst=evaluation.n_worst,
        )
        for name, model in metrics["models"].items():
            model["cut"] = cut.get(name, 0)
        source = self._source if evaluation.responses is not None else problems
        metrics["evaluation"] = {
            "settings": workspace.settings,
            "versions": workspace.versions,
            "records": problems.to_dict(),
            "source": source.to_dict(),
        }
        self.metrics = metrics
        if not any(model["cost"]["n"] or model["reward"]["n"] for model in metrics["models"].values()):
            raise ValueError(
                "You evaluate responses that have no score. "
                + (
                    "Mend the scorer, and start again: the responses are kept."
                    if self.specs
                    else "Set a cost, or a reward."
                )
            )
        write_json(workspace.metrics, metrics)

    def drift(self) -> None:
        """`kl` and `drift` of every model in the metrics, and drift.jsonl, if there is a reference."""
        if self.evaluation.drift is not None:
            add_drift(self.evaluation, self.workspace, self.metrics, self.progress)

    def nested(self) -> None:
        """`nested` of every model in the metrics, and nested.jsonl, if answers are to be continued."""
        if self.evaluation.nested is not None:
            self.log("continuing answers from places within them")
            add_nested(self.evaluation, self.workspace, self.metrics, self.progress)

    def tokens(self) -> None:
        """tokens.jsonl: the worst responses token by token, if there is a reference or a manifest."""
        if self.evaluation.drift is not None or self.harm is not None:
            write_tokens(self.evaluation, self.workspace, self.metrics, self.harm)

    def certify(self) -> None:
        """certificate.json, if there is a budget. Started again on the same costs, it is no new attempt."""
        settings = self.evaluation.certificate
        if settings is None:
            return
        records = read_records(self.workspace.records, scores=("cost",))
        found = costs_of_model(records, str(self.evaluation.responses or self.workspace.records), settings.model)
        known = self.workspace.settings["scorers"].get("cost")
        scorer = "the file's own score" if known is None else known["name"]
        attempts = read_attempts(self.workspace.certificate)
        if attempts and _is_this_attempt(attempts[-1], settings, found, scorer):
            self.log("certificate: made already, of these costs")
            return
        certificate = certify(
            found.costs,
            settings.budget,
            prompts=found.prompts,
            tail=settings.tail,
            confidence=settings.confidence,
            bounds=settings.bounds,
            scorer=scorer,
            method=settings.method,
            model=found.model,
            n_unreadable=self._source.unreadable if self.evaluation.responses is not None else 0,
            max_new_tokens=None if self.evaluation.responses is not None else self.evaluation.sampling.max_new_tokens,
            n_cut=found.n_cut,
            notes=[*found.notes, *([] if self.evaluation.responses is not None else self.evaluation.sampling.limits)],
            under=found.under,
            ledger_path=self.workspace.certificate,
            again=settings.again,
            seed=found.seed,
            own_seed=False,
            unnamed=found.unnamed,
        )
        self.log(certificate.statement)

    def press(self) -> None:
        """The folder `pressure` and `pressures` in the metrics, if there are any."""
        evaluation = self.evaluation
        if self.pressures is None:
            return
        self.pressures.sample(self.workspace.settings)
        for spec in self.specs.values():
            batch_size, base_prompts = evaluation.score_batch_size, evaluation.base_prompts
            spec.use(partial(self.pressures.score, batch_size=batch_size, base_prompts=base_prompts))
        bootstrap = Bootstrap(seed=evaluation.sampling.seed)
        self.metrics["pressures"] = self.pressures.summarise(
            self.workspace.records, evaluation.tails, evaluation.unsafe_above, bootstrap
        )

    def benchmarks(self) -> None:
        """benchmarks.json, written after every task, so that none runs twice."""
        evaluation, path = self.evaluation, self.workspace.benchmarks
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name, model in evaluation.models.items():
            for task in evaluation.benchmarks:
                done = found.setdefault(name, {})
                if task in done:
                    continue
                self.log(f"{name}: {task}")
                done[task] = run_benchmarks(
                    model,
                    [task],
                    batch_size=evaluation.batch_size,
                    device=evaluation.device,
                    dtype=evaluation.dtype or "auto",
                    seed=evaluation.sampling.seed,
                )
                write_json(path, found)
        if path.exists():
            self.metrics["benchmarks"] = found

    def report(self) -> None:
        """metrics.json as it is now, the manifest beside it, and the page, if there is a cost."""
        if "models" not in self.metrics:
            return
        write_json(self.workspace.metrics, self.metrics)
        if self.evaluation.manifest is not None:
            _copy_manifest(Path(self.evaluation.manifest), self.workspace.folder)
        if self.write_page is not None and any(model["cost"]["n"] for model in self.metrics["models"].values()):
            self.page = self.write_page(self.workspace.folder)

    # What must be right before anything is sampled

    def _refuse_own_file(self) -> None:
        own, given = Path(self.evaluation.output_dir) / RECORDS, self.evaluation.responses
        if given is not None and Path(given).resolve() == own.resolve():
            raise ValueError(
                f"You set the responses to {given}, but that file is written in this output_dir. Use another "
                "output_dir."
            )

    def _find_harm(self) -> HarmModels | None:
        """What token harm compares. A run without two such models, as of a ladder which met its budget without a rung,
        is evaluated all the same."""
        if self.evaluation.manifest is None:
            return None
        try:
            return HarmModels.from_manifest(self.evaluation.manifest)
        except NothingToCompare:
            self.log(f"warning: {self.evaluation.manifest} has no helpful part and then a safe one: no token harm")
            return None

    def _try_templates(self) -> None:
        """Writes one prompt of text and one of messages down for every model."""
        evaluation = self.evaluation
        examples = {type(row["prompt"]): row["prompt"] for row in evaluation.rows}
        for path in evaluation.models.values() if examples else ():
            encoder = ConversationEncoder(load_tokenizer(path), evaluation.sampling.template)
            for prompt in examples.values():
                encoder.prompt(prompt)

    def _find_pressures(self) -> PressureRun | None:
        evaluation, settings = self.evaluation, self.evaluation.pressure
        if settings is None:
            return None
        work = Work(
            Path(evaluation.output_dir),
            settings.sources,
            evaluation.sampling,
            evaluation.batch_size,
            evaluation.device,
            evaluation.dtype,
            self.log,
            self.progress,
        )
        return PressureRun(settings, work, evaluation.models, evaluation.rows)

    # Parts of the phases

    def _responses(self, read: ReadReport | None = None) -> Iterator[Record]:
        given = self.evaluation.responses
        if given is None:
            return read_records(self.workspace.responses, read, scores=())
        # Scores that the file has already, and that no scorer is to replace, should be sound.
        kept = [kind for kind in ("reward", "cost") if kind not in self.specs]
        needed = ("response",) if self.specs else ()
        return read_responses(given, read, kept, needed, self.evaluation.rows_are_prompts)

    def _score_kind(self, spec: ScorerSpec, n: int) -> StoredScores:
        self.log(f"{spec.kind} of {n} responses, by {self.workspace.settings['scorers'][spec.kind]['name']}")
        path = self.workspace.scores(spec.kind)
        found = StoredScores.read(path)
        if len(found) < n:
            score = partial(
                score_responses,
                self._responses,
                path,
                batch_size=self.evaluation.score_batch_size,
                base_prompts=self.evaluation.base_prompts,
                progress=lambda done: self.progress(f"scoring {spec.kind}", done, n),
            )
            found = spec.use(score)
        if found.reasons:
            first = "; ".join(f"response {index}: {reason}" for index, reason in sorted(found.reasons.items())[:3])
            self.log(
                f"warning: {len(found.reasons)} of {n} responses have no {spec.kind}; records.jsonl says why. First: "
                f"{first}. Started again, the command tries them again."
            )
        return found

    def _counting_cut(self, problems: ReadReport, cut: dict[str, int]) -> Iterator[Record]:
        """The records; `cut` counts those of each model that did not end by themselves."""
        for record in read_records(self.workspace.records, problems, scores=list(self.specs)):
            if record.get("finished") is False:
                name = record["model"] or NAMELESS
                cut[name] = cut.get(name, 0) + 1
            yield record


def settings_of(evaluation: Evaluation, log: Log = lambda line: None) -> EvaluationSettings:
    """
    All that changes the responses of an evaluation, or their scores. Nothing is sampled or written; each scorer is
    loaded, and let go.

    Args:
        evaluation ([`Evaluation`]):
            What is to be done.
        log (`Callable`, *optional*):
            Gets a line per scorer: what its sign means.

    Raises:
        ValueError, FileNotFoundError: if a scorer cannot be loaded, or there is no file of responses.
    """
    scorers: dict[str, ScorerJSON] = {}
    for spec in (evaluation.reward, evaluation.cost):
        if spec is not None:
            scorers[spec.kind], words = spec.use(lambda scorer: (describe(scorer), sign_in_words(scorer)))
            log(words)
    settings: EvaluationSettings = {"scorers": scorers, "base_prompts": evaluation.base_prompts}
    if evaluation.responses is not None:
        path = Path(evaluation.responses)
        if not path.is_file():
            raise FileNotFoundError(f"You set the responses to {str(path)!r}, but there is no such file. Correct it.")
        with path.open("rb") as file:
            content = file_digest(file, "sha256").hexdigest()
        return {**settings, "responses": {"file": path.name, "sha256": content}}
    names = ("prompt", "attack", "category", "benign")
    rows = [[row.get(name) for name in names] for row in evaluation.rows]
    models: dict[str, ModelJSON] = {
        name: {"path": path, "sha256": folder_digest(Path(path)) if Path(path).is_dir() else None}
        for name, path in evaluation.models.items()
    }
    return {
        **settings,
        "models": models,
        "prompts": {"n": len(rows), "fingerprint": digest(rows).hex()},
        "sampling": _law(evaluation.sampling) | {"dtype": evaluation.dtype or "as saved"},
    }


def _is_this_attempt(attempt: Attempt, settings: CertificateSettings, found: ModelCosts, scorer: str) -> bool:
    wanted = {name: getattr(settings, name) for name in ("budget", "tail", "confidence", "method")}
    wanted |= {
        "bounds": list(settings.bounds),
        "model": found.model,
        "scorer": scorer,
        "prompt_fingerprint": prompt_sketch(found.prompts)[0],
        "costs_fingerprint": costs_fingerprint(found.prompts, found.costs),
        "own_seed": False,
    }
    made: Mapping[str, Any] = attempt
    return all(made.get(name) == value for name, value in wanted.items())


def _law(sampling: Sampling) -> dict[str, Any]:
    """What changes the responses: not where a server is today."""
    return {name: value for name, value in asdict(sampling).items() if not name.startswith("server_")}


def _copy_manifest(source: Path, folder: Path) -> None:
    """The manifest and the ladder's certificates, for the page: they are about the model that is evaluated."""
    source = source / MANIFEST if source.is_dir() else source
    stem, suffix = CERTIFICATE.split(".")
    for path in [source, *source.parent.glob(f"{stem}-*.{suffix}")]:
        target = folder / (MANIFEST if path == source else path.name)
        if path.resolve() != target.resolve():
            shutil.copyfile(path, target)
