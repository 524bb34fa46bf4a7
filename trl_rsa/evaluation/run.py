"""evaluate(): samples, scores, summarises and looks for the risk; every phase goes on where it was interrupted."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.lm_eval import require_harness, run_benchmarks
from trl_rsa.evaluation.localise import add_drift, write_tokens
from trl_rsa.evaluation.metrics import read_columns, summarize_models
from trl_rsa.evaluation.request import Evaluation, Progress
from trl_rsa.evaluation.responses import sample_responses
from trl_rsa.evaluation.scores import ScorerSpec, StoredScores, describe, score_responses, sign_in_words, with_scores
from trl_rsa.evaluation.token_risk import HarmModels
from trl_rsa.evaluation.workspace import Workspace
from trl_rsa.sampling.policies import release
from trl_rsa.scoring.weights import folder_digest
from trl_rsa.storage.files import replacing, write_json
from trl_rsa.storage.records import ReadReport, Record, RecordWriter, digest, read_records


def evaluate(
    evaluation: Evaluation,
    report: Callable[[str], None] = print,
    progress: Progress = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Runs an evaluation, or what is left of it, and writes records.jsonl, metrics.json and tokens.jsonl.

    Killed and started again with the same settings it goes on; the records end up the same, byte by byte.

    Args:
        evaluation ([`Evaluation`]):
            What to do.
        report (`Callable`, *optional*):
            Where the lines about progress go.
        progress (`Callable`, *optional*):
            Called with the phase, and how many of how many are done.

    Returns:
        `dict`: what metrics.json holds: [`~evaluation.metrics.summarize_models`], with `evaluation` (settings,
        versions, what was malformed).

    Raises:
        ValueError, FileNotFoundError: if something cannot be done as it was asked for; before anything is sampled
            wherever possible.
    """
    specs: dict[str, ScorerSpec] = {
        spec.kind: spec for spec in (evaluation.reward, evaluation.cost) if spec is not None
    }
    _refuse_own_file(evaluation)
    # A mistake in what comes last should not cost the sampling.
    if evaluation.benchmarks:
        require_harness()
    harm = None if evaluation.manifest is None else HarmModels.from_manifest(evaluation.manifest)
    described: dict[str, Any] = {kind: _try_scorer(spec, report) for kind, spec in specs.items()}
    workspace = Workspace(evaluation.output_dir, _settings(evaluation, described))
    metrics: dict[str, Any] = {}
    if evaluation.rows or evaluation.responses is not None:
        metrics = _measure(evaluation, workspace, specs, report, progress)
        if evaluation.drift is not None:
            add_drift(evaluation, workspace, metrics, progress)
        if evaluation.drift is not None or harm is not None:
            write_tokens(evaluation, workspace, metrics, harm)
        if evaluation.manifest is not None:
            _copy_manifest(Path(evaluation.manifest), workspace.folder)
    if evaluation.benchmarks:
        _run_benchmarks(evaluation, workspace, report)
    if workspace.benchmarks.exists():
        metrics["benchmarks"] = json.loads(workspace.benchmarks.read_text(encoding="utf-8"))
    if "models" in metrics:
        write_json(workspace.metrics, metrics)
    return metrics


def _try_scorer(spec: ScorerSpec, report: Callable[[str], None]) -> dict[str, Any]:
    """Loads a scorer and lets it go: the models that are sampled first need the memory."""
    scorer = spec.load()
    report(sign_in_words(scorer))
    described, holds_memory = describe(scorer), hasattr(scorer, "model")
    del scorer
    if holds_memory:
        release()
    return described


def _measure(
    evaluation: Evaluation,
    workspace: Workspace,
    specs: dict[str, ScorerSpec],
    report: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Samples, scores and summarises."""
    if evaluation.responses is None:
        _sample(evaluation, workspace, report, progress)
    read = ReadReport()
    records = partial(_responses, evaluation, workspace)
    n = sum(1 for _ in records(read))
    if n == 0:
        raise ValueError(f"You set the responses to {evaluation.responses}, but it holds none. {read}")
    if read.problems and evaluation.responses is not None:  # in our own file: a line that a kill cut off, redone since
        report(f"warning: {read}")
    scores = {kind: _score(evaluation, workspace, spec, records, n, report, progress) for kind, spec in specs.items()}
    with replacing(workspace.records) as partial_file, RecordWriter(partial_file) as writer:
        for record in with_scores(records(), scores):
            writer.write(record)
    metrics = _summarise(evaluation, workspace, read)
    if not any(model[kind]["n"] for model in metrics["models"].values() for kind in ("reward", "cost")):
        raise ValueError(
            "You evaluate responses that have no score. "
            + ("Mend the scorer, and start again: the responses are kept." if specs else "Set a cost, or a reward.")
        )
    write_json(workspace.metrics, metrics)  # and again, when there is more to say
    return metrics


def _settings(evaluation: Evaluation, scorers: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"scorers": scorers, "base_prompts": evaluation.base_prompts}
    if evaluation.responses is not None:
        path = Path(evaluation.responses)
        if not path.is_file():
            raise FileNotFoundError(f"You set the responses to {str(path)!r}, but there is no such file. Correct it.")
        with path.open("rb") as file:
            return settings | {"responses": {"file": path.name, "sha256": file_digest(file, "sha256").hexdigest()}}
    names = ("prompt", "attack", "category", "benign")
    rows = [[row.get(name) for name in names] for row in evaluation.rows]
    models = {
        name: {"path": path, "sha256": folder_digest(Path(path)) if Path(path).is_dir() else None}
        for name, path in evaluation.models.items()
    }
    prompts = {"n": len(rows), "fingerprint": digest(rows).hex()}
    dtype = evaluation.dtype or "as saved"
    return settings | {
        "models": models,
        "prompts": prompts,
        "sampling": asdict(evaluation.sampling) | {"dtype": dtype},
    }


def _refuse_own_file(evaluation: Evaluation) -> None:
    own = Path(evaluation.output_dir) / "records.jsonl"
    if evaluation.responses is not None and Path(evaluation.responses).resolve() == own.resolve():
        raise ValueError(
            f"You set the responses to {evaluation.responses}, but that file is written in this output_dir. Use "
            "another output_dir."
        )


def _sample(evaluation: Evaluation, workspace: Workspace, report: Callable[[str], None], progress: Progress) -> None:
    sampling, total = evaluation.sampling, len(evaluation.rows) * evaluation.sampling.draws
    for name, path in evaluation.models.items():
        report(f"{name}: {sampling.draws} responses to each of {len(evaluation.rows)} prompts")
        sample_responses(
            workspace.responses,
            name,
            path,
            evaluation.rows,
            sampling,
            batch_size=evaluation.batch_size,
            device=evaluation.device,
            dtype=evaluation.dtype,
            progress=lambda done, name=name: progress(f"sampling {name}", done, total),  # type: ignore[misc]
        )


def _responses(evaluation: Evaluation, workspace: Workspace, read: ReadReport | None = None) -> Iterator[Record]:
    path = workspace.responses if evaluation.responses is None else evaluation.responses
    # Scores that the file has already, and that no scorer is to replace, should be sound.
    kept = [kind for kind in ("reward", "cost") if getattr(evaluation, kind) is None]
    return read_records(path, read, scores=kept if evaluation.responses is not None else ())


def _score(
    evaluation: Evaluation,
    workspace: Workspace,
    spec: ScorerSpec,
    records: Callable[[], Iterator[Record]],
    n: int,
    report: Callable[[str], None],
    progress: Progress,
) -> StoredScores:
    scorer = spec.load()
    report(f"{spec.kind} of {n} responses, by {scorer.name}")
    found = score_responses(
        records,
        workspace.scores(spec.kind),
        scorer,
        batch_size=evaluation.score_batch_size,
        base_prompts=evaluation.base_prompts,
        progress=lambda done: progress(f"scoring {spec.kind}", done, n),
    )
    holds_memory = hasattr(scorer, "model")
    del scorer
    if holds_memory:
        release()
    if found.reasons:
        first = "; ".join(f"response {index}: {reason}" for index, reason in sorted(found.reasons.items())[:3])
        report(
            f"warning: {len(found.reasons)} of {n} responses have no {spec.kind}; records.jsonl says why. First: "
            f"{first}. Started again, the command tries them again."
        )
    return found


def _summarise(evaluation: Evaluation, workspace: Workspace, read: ReadReport) -> dict[str, Any]:
    has = [kind for kind in ("reward", "cost") if kind in workspace.settings["scorers"]]
    problems, cut = ReadReport(), dict[str, int]()

    def counted() -> Iterator[Record]:
        for record in read_records(workspace.records, problems, scores=has):
            if record.get("finished") is False:
                name = record["model"] or "unnamed"
                cut[name] = cut.get(name, 0) + 1
            yield record

    columns = read_columns(counted())
    metrics = summarize_models(
        columns,
        evaluation.tails,
        unsafe_above=evaluation.unsafe_above,
        bootstrap=Bootstrap(seed=evaluation.sampling.seed),
        n_worst=evaluation.n_worst,
    )
    for name, model in metrics["models"].items():
        model["cut"] = cut.get(name, 0)  # responses that did not end by themselves
    source = read if evaluation.responses is not None else problems
    metrics["evaluation"] = {
        "settings": workspace.settings,
        "versions": workspace.versions,
        "records": problems.to_dict(),
        "source": source.to_dict(),
    }
    return metrics


def _run_benchmarks(evaluation: Evaluation, workspace: Workspace, report: Callable[[str], None]) -> None:
    """Writes benchmarks.json after every task, so that none runs twice."""
    path = workspace.benchmarks
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, model in evaluation.models.items():
        for task in evaluation.benchmarks:
            done = found.setdefault(name, {})
            if task in done:
                continue
            report(f"{name}: {task}")
            done[task] = run_benchmarks(
                model,
                [task],
                batch_size=evaluation.batch_size,
                device=evaluation.device,
                dtype=evaluation.dtype or "auto",
                seed=evaluation.sampling.seed,
            )
            write_json(path, found)


def _copy_manifest(source: Path, folder: Path) -> None:
    source = source / "manifest.json" if source.is_dir() else source
    target = folder / "manifest.json"
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
