"""align(): runs a plan stage by stage, keeps the manifest, and resumes after a kill."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from trl_rsa.alignment.manifest import Manifest, ManifestFile
from trl_rsa.alignment.merges import make_merges
from trl_rsa.alignment.plan import Plan
from trl_rsa.alignment.prepare import check_data, check_room, make_ladder, model_settings, prepare_stage
from trl_rsa.ladder.climb import Ladder
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.provenance import differences, now
from trl_rsa.training.anchor import ModelSettings, starting_point
from trl_rsa.training.launched import Launched, check_launch
from trl_rsa.training.launcher import Launcher
from trl_rsa.training.runner import InProcess, StageRunner
from trl_rsa.training.stage import ReadyStage


@dataclass
class Alignment:
    """What `align` returns.

    Args:
        model (`str`):
            Folder of the last stage's policy: an ordinary Hugging Face folder (an adapter's, with PEFT).
        manifest ([`~alignment.manifest.ManifestFile`]):
            Content of `manifest.json`.
    """

    model: str
    manifest: ManifestFile


def align(
    plan: Plan,
    processing_class: PreTrainedTokenizerBase | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    log: Callable[[str], None] = print,
    launcher: Launcher | None = None,
) -> Alignment:
    """
    Runs the stages of `plan`, each anchored at the policy of the one before.

    Every stage writes an ordinary Hugging Face folder, `<output_dir>/<number>-<name>`, and is its own tracker run.
    `<output_dir>/manifest.json` records settings, data fingerprints, versions and metrics. Called again with the same
    plan after a kill, it goes on from the newest complete checkpoint and ends like an uninterrupted run; finished
    stages are not repeated.

    Args:
        plan ([`Plan`]):
            What to run, and where.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default the one beside the model.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Added to every stage's trainer.
        log (`Callable[[str], None]`, *optional*):
            Where the lines about progress go. Those of launched processes go to their standard output.
        launcher ([`Launcher`], *optional*):
            Trains every stage, and samples, in a group of processes of its own. This process stays outside, keeps the
            manifest, and takes the group with it when it ends. By default this process does everything.

    Returns:
        [`Alignment`]: the last stage's folder and the manifest.

    Raises:
        ValueError: if the plan or a stage's data has changed since the run in `output_dir` was started, or an option
            cannot be honoured.
        ChildProcessError: if launched processes failed.
    """
    _refuse_many_processes()
    with ExitStack() as held:
        if Path(plan.output_dir).is_dir():
            held.enter_context(hold_folder(plan.output_dir))
        return _align(plan, processing_class, callbacks, log, launcher)


def _align(
    plan: Plan,
    processing_class: PreTrainedTokenizerBase | None,
    callbacks: Sequence[TrainerCallback],
    log: Callable[[str], None],
    launcher: Launcher | None,
) -> Alignment:
    if launcher is not None:
        args = {"the plan": plan.args} | {f"stage {stage.name!r}": stage.args for stage in plan.stages}
        check_launch(args, callbacks, launcher)
    manifest = Manifest(plan)
    models = model_settings(plan)
    start = starting_point(plan.model, Path(plan.output_dir), models, processing_class)
    if processing_class is None:
        processing_class = load_tokenizer(start)
    # All of them before the first is run: a mistake in the last stage should not cost the others' hours.
    stages = [prepare_stage(plan, index, processing_class) for index in range(len(plan.stages))]
    for index, ready in enumerate(stages):
        check_data(ready, manifest.stage(index))
    runner = _runner(plan, models, processing_class, callbacks, log, launcher)
    if isinstance(runner, Launched):
        for ready in stages:
            runner.check(ready)
    ladder = make_ladder(plan, models, processing_class, runner, log, stages)
    check_room(plan, stages, ladder)
    # Until here nothing was written: a mistake leaves no trace, not even a new folder.
    with hold_folder(plan.output_dir):
        return _run(plan, start, models, stages, ladder, runner, log)


def _run(
    plan: Plan,
    start: str,
    models: ModelSettings,
    stages: Sequence[ReadyStage],
    ladder: Ladder | None,
    runner: StageRunner,
    log: Callable[[str], None],
) -> Alignment:
    # Read again, now that no other run can write it.
    manifest = Manifest(plan)
    if ladder is not None:
        _check_human_pairs(ladder, manifest)
        for line in ladder.warnings():
            log(line)
    manifest.update()
    previous = start
    for index, ready in enumerate(stages):
        entry = manifest.stage(index)
        if entry["status"] == "complete":
            log(f"{ready.title}: complete already, in {ready.folder}")
        else:
            temperature = plan.stages[index].temperature
            anchored: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
            anchored |= {"reference": models.reference(previous)} if ready.does.has_reference else {}
            manifest.update(
                index,
                status="running",
                folder=ready.folder.name,
                started=entry.get("started", now()),
                **anchored,
                data=ready.data,
            )
            for line in ready.warnings:
                log(f"{ready.title}: {line}")
            result = runner.train(ready, previous)
            manifest.update(index, status="complete", finished=now(), **result)
        if ready.does.makes == "policy":
            previous = str(ready.folder)
    if plan.merge is not None:
        folders = {stage.name: ready.folder for stage, ready in zip(plan.stages, stages, strict=True)}
        manifest.update(merges=make_merges(plan.merge, folders, Path(plan.output_dir), log))
    if ladder is not None:
        summary = ladder.climb(previous)
        manifest.update(ladder=summary)
        previous = summary["model"]
    log(f"Aligned model: {previous}")
    return Alignment(previous, manifest.content)


def _refuse_many_processes() -> None:
    """Several processes would write one manifest."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ValueError(
            f"You launched align in {processes} processes, but it launches them itself, a group for every stage. "
            f"Start it without a launcher: `trl-rsa align --accelerate_config NAME --num_processes {processes} …`, or "
            "align(plan, launcher=Launcher(NAME)) in Python."
        )


def _runner(
    plan: Plan,
    models: ModelSettings,
    processing_class: PreTrainedTokenizerBase,
    callbacks: Sequence[TrainerCallback],
    log: Callable[[str], None],
    launcher: Launcher | None,
) -> StageRunner:
    if launcher is None:
        return InProcess(models, processing_class, callbacks, log)
    return Launched(models, processing_class, launcher, Path(plan.output_dir))


def _check_human_pairs(ladder: Ladder, manifest: Manifest) -> None:
    """As [`check_data`], for the pairs that are mixed into the rungs."""
    counts = {name: pairs.counts for name, pairs in ladder.human.items()}
    before = manifest.content.setdefault("human_pairs", counts)
    if before != counts:
        raise ValueError(
            f"You resume with human_pairs that have changed since the run was started "
            f"({'; '.join(differences(before, counts))}). Restore the data, or use another output_dir."
        )
