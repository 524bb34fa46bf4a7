"""align(): runs a plan stage by stage, keeps the manifest, and resumes after a kill."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback

from trl_rsa.alignment.manifest import Manifest
from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.data import load_preferences, split_by_prompt
from trl_rsa.ladder.climb import Ladder, refuse_adapters_with_vllm
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.provenance import differences, now
from trl_rsa.training.anchor import ModelSettings, load_processing_class, starting_point
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
        manifest (`dict`):
            Content of `manifest.json`.
    """

    model: str
    manifest: dict[str, Any]


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
    with hold_folder(plan.output_dir):
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
    models = _model_settings(plan)
    start = starting_point(plan.model, Path(plan.output_dir), models, processing_class)
    if processing_class is None:
        processing_class = load_processing_class(start)
    # All of them before the first is run: a mistake in the last stage should not cost the others' hours.
    stages = [_prepare(plan, index, processing_class) for index in range(len(plan.stages))]
    for index, ready in enumerate(stages):
        _check_data(ready, manifest.stage(index))
    runner = _runner(plan, models, processing_class, callbacks, log, launcher)
    if isinstance(runner, Launched):
        for ready in stages:
            runner.check(ready)
    ladder = _ladder(plan, models, processing_class, runner, log, stages)
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
            manifest.update(
                index,
                status="running",
                folder=ready.folder.name,
                started=entry.get("started", now()),
                reference=models.reference(previous),
                temperature=ready.config.beta / ready.config.constraint_multiplier,
                data=ready.data,
            )
            result = runner.train(ready, previous)
            manifest.update(index, status="complete", finished=now(), **result)
        previous = str(ready.folder)
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


def _model_settings(plan: Plan) -> ModelSettings:
    return ModelSettings.of(plan.model_init_kwargs, plan.peft_config, plan.args)


def _ladder(
    plan: Plan,
    models: ModelSettings,
    processing_class: PreTrainedTokenizerBase,
    runner: StageRunner,
    log: Callable[[str], None],
    stages: Sequence[ReadyStage],
) -> Ladder | None:
    """What follows on the stages; None for a plan without a constraint."""
    if not plan.constraints:
        return None
    refuse_adapters_with_vllm(models, plan.model, plan.rungs)
    return Ladder(
        plan.constraints,
        plan.rungs,
        Path(plan.output_dir),
        plan.args,
        models,
        plan.seed,
        processing_class,
        runner,
        log,
        _prompts_of(stages),
    )


def preview(
    plan: Plan, processing_class: PreTrainedTokenizerBase | None = None, log: Callable[[str], None] = print
) -> None:
    """Checks everything that can be checked without loading a model, and reports what `align` would run.

    Raises:
        ValueError: as [`align`].
    """
    manifest = Manifest(plan)
    if processing_class is None:
        if not isinstance(plan.model, str):
            raise ValueError("You gave a model in memory, but not its tokenizer. Set processing_class.")
        processing_class = load_processing_class(plan.model)
    stages = [_prepare(plan, index, processing_class) for index in range(len(plan.stages))]
    for index, ready in enumerate(stages):
        _check_data(ready, manifest.stage(index))
        config, held_out = ready.config, len(ready.eval_dataset or ())
        measure = f" with {plan.stages[index].risk_measure}" if config.is_risk_aware else ""
        log(
            f"{ready.title}: {len(ready.train_dataset)} pairs, {held_out} held out; {config.loss_type[0]}{measure} at "
            f"temperature {config.beta / config.constraint_multiplier:g}; "
            f"{manifest.stage(index)['status']}, in {ready.folder}"
        )
    models = _model_settings(plan)
    ladder = _ladder(
        plan, models, processing_class, _runner(plan, models, processing_class, (), log, None), log, stages
    )
    if ladder is not None:
        for line in [*ladder.describe(), *ladder.warnings()]:
            log(line)


def _prepare(plan: Plan, index: int, processing_class: PreTrainedTokenizerBase) -> ReadyStage:
    stage = plan.stages[index]
    folder = Path(plan.output_dir) / f"{index + 1:02d}-{stage.name}"
    return ReadyStage(
        f"[{index + 1}/{len(plan.stages)}] {stage.name}",
        _stage_arguments(plan, stage, folder),
        None if isinstance(stage.risk_measure, str) else stage.risk_measure,
        *_load_data(plan, stage, processing_class),
    )


def _prompts_of(stages: Sequence[ReadyStage]) -> Iterator[Any]:
    for ready in stages:
        yield from ready.train_dataset["prompt"]


def _check_data(ready: ReadyStage, entry: dict[str, Any]) -> None:
    if "data" in entry and entry["data"] != ready.data:
        raise ValueError(
            f"You resume the stage {entry['name']!r}, but its data has changed since it was started "
            f"({'; '.join(differences(entry['data'], ready.data))}). Restore the data, or use another output_dir."
        )


def _check_human_pairs(ladder: Ladder, manifest: Manifest) -> None:
    """As [`_check_data`], for the pairs that are mixed into the rungs."""
    counts = {name: pairs.counts for name, pairs in ladder.human.items()}
    before = manifest.content.setdefault("human_pairs", counts)
    if before != counts:
        raise ValueError(
            f"You resume with human_pairs that have changed since the run was started "
            f"({'; '.join(differences(before, counts))}). Restore the data, or use another output_dir."
        )


def _load_data(
    plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase
) -> tuple[Dataset, Dataset | None, dict[str, Any]]:
    """The stage's pairs for training and evaluation, and their counts and fingerprints for the manifest."""
    options = {"preferred_by": stage.preferred_by, "seed": plan.seed, **stage.dataset_options}
    if options.get("template") == "safe-rlhf":
        options.setdefault("eos_token", processing_class.eos_token)
    loaded = load_preferences(stage.dataset, **options)
    _refuse_text_on_a_chat_model(stage, loaded.dataset, processing_class)
    train, data = loaded.dataset, {"train": loaded.counts.to_dict()}
    if stage.eval_dataset is not None:
        held_out = load_preferences(stage.eval_dataset, **options)
        return train, held_out.dataset, data | {"eval": held_out.counts.to_dict()}
    if not stage.held_out:
        return train, None, data
    train, held_out_dataset = split_by_prompt(train, stage.held_out, seed=plan.seed)
    return train, held_out_dataset, data | {"held_out_pairs": len(held_out_dataset)}


def _refuse_text_on_a_chat_model(stage: Stage, pairs: Dataset, processing_class: PreTrainedTokenizerBase) -> None:
    """Text would be trained on as it is, while the model answers, and is judged, in its chat template."""
    if (
        processing_class.chat_template
        and stage.dataset_options.get("template") is None
        and isinstance(pairs[0]["prompt"], str)
    ):
        raise ValueError(
            f"You gave the stage {stage.name!r} pairs in plain text, but the model has a chat template, in which it "
            "answers and is judged. Set `dataset_options: {template: chat}` to train on conversations, or "
            "`template: none` to train on the text as it is."
        )


def _stage_arguments(plan: Plan, stage: Stage, folder: Path) -> dict[str, Any]:
    measure = {"risk_measure": stage.risk_measure} if isinstance(stage.risk_measure, str) else {}
    own = {
        "beta": stage.beta,
        "constraint_multiplier": stage.constraint_multiplier,
        "output_dir": str(folder),
        "run_name": f"{Path(plan.output_dir).name}/{stage.name}",
        "seed": plan.seed,
    }
    return plan.args | stage.args | measure | own
