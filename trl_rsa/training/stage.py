"""One stage: everything ready, trained from its anchor, resumed where a kill left it."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed

from trl_rsa._finite import check_finite
from trl_rsa.risk import RiskMeasure
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.checkpoints import (
    CheckpointMarker,
    EngineJSON,
    check_engine,
    check_run,
    engine_of,
    is_last,
    keep_dtypes,
    load_last,
    newest_complete_checkpoint,
    refuse_pieces,
    run_identity,
)
from trl_rsa.training.configuration import make_config
from trl_rsa.training.methods.method import Method, StageParts
from trl_rsa.training.methods.table import METHODS
from trl_rsa.training.tracking import LogAtStart
from trl_rsa.training.trend import rise_of, standstill_of


class StageResult(EngineJSON):
    """What a training gave: `seconds` of the last start, all `steps`, and metrics, None where one is not finite."""

    seconds: float
    steps: int
    metrics: dict[str, float | None]


@dataclass
class ReadyStage:
    """A stage with everything that can be checked before a model is loaded.

    Args:
        title (`str`):
            How the stage is called in lines about progress.
        arguments (`dict`):
            Of its configuration, which is made from them at once; `output_dir` is the stage's folder.
        risk_measure ([`~trl_rsa.risk.RiskMeasure`], *optional*):
            A measure that has no name in `config`.
        train_dataset, eval_dataset (`Dataset`):
            Its rows.
        data (`Mapping`):
            Their counts and fingerprints, for the manifest.
        metrics (`dict[str, float]`, *optional*):
            Logged once, when the stage starts.
        method (`str`, *optional*, defaults to `"rsa"`):
            One of [`METHODS`].
        options (`dict`, *optional*):
            What else the method takes.
        prompt_keys (`frozenset[str]`, *optional*):
            [`~data.templates.untemplated_key`] of the prompts that it trains on.
        warnings (`Sequence[str]`, *optional*):
            What a careful reader should know of its rows.
    """

    title: str
    arguments: dict[str, Any]
    risk_measure: RiskMeasure | None
    train_dataset: Dataset
    eval_dataset: Dataset | None
    data: Mapping[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    method: str = "rsa"
    options: dict[str, Any] = field(default_factory=dict)
    prompt_keys: frozenset[str] = frozenset()
    warnings: Sequence[str] = ()
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        self.config = make_config(self.title, self.arguments, self.does.config_class)
        self.does.check(self.title, self.config, self.options)

    @property
    def does(self) -> Method:
        """The method."""
        return METHODS[self.method]

    @property
    def folder(self) -> Path:
        return Path(str(self.config.output_dir))


def train_stage(
    ready: ReadyStage,
    start: str,
    models: ModelSettings,
    processing_class: PreTrainedTokenizerBase,
    callbacks: Sequence[TrainerCallback],
    log: Callable[[str], None],
) -> StageResult:
    """Trains the stage from its newest complete checkpoint, or from the policy `start`, and saves it to its folder.

    In a process group every process calls it; the first one reports.

    Returns:
        [`StageResult`]: of this call.
    """
    began = time.monotonic()
    config = ready.config
    limit, config.save_total_limit = config.save_total_limit, None  # see CheckpointMarker
    log = log if config.process_index == 0 else _say_nothing
    with config.main_process_first(local=False):  # one process alone removes broken checkpoints
        checkpoint = newest_complete_checkpoint(ready.folder, lambda line: log(f"{ready.title}: {line}"))
    if checkpoint is not None:
        check_engine(checkpoint, config)
    log(f"{ready.title}: {_describe(ready, start, models)}{f'; resumed from {checkpoint.name}' if checkpoint else ''}")
    for skipped in skipped_rows(ready.data):
        log(f"{ready.title}: {skipped}")
    set_seed(config.seed)  # the trainer sets it after a new adapter has been drawn
    run = _identity(ready, models.fingerprint(start))
    if checkpoint is not None:
        check_run(checkpoint, run)
    trainer = ready.does.make_trainer(
        StageParts(
            start,
            models,
            config,
            ready.train_dataset,
            ready.eval_dataset,
            processing_class,
            [*callbacks, CheckpointMarker(limit, run)],
            {"risk_measure": ready.risk_measure, **ready.options},
        )
    )
    keep_dtypes(trainer)
    refuse_pieces(trainer)
    if ready.metrics:
        trainer.add_callback(LogAtStart(trainer, ready.metrics))
    if checkpoint is not None and is_last(checkpoint):
        load_last(trainer, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = trainer.state.log_history
    risen = rise_of([entry["loss"] for entry in history if "loss" in entry])
    if risen and ready.does.loss_falls:
        log(f"{ready.title}: {risen}")
    stands = standstill_of(history, ready.train_dataset) if getattr(config, "link", None) == "sigmoid" else None
    if stands:
        log(f"{ready.title}: {stands}")
    check_finite(trainer.model, ready.title)
    metrics = _final_metrics(trainer)
    _save(trainer, ready)
    _finish_trackers(config)
    seconds = round(time.monotonic() - began, 1)
    shown = (f"{name}={metrics[name]:.4g}" for name in _HEADLINE if metrics.get(name) is not None)
    log(f"{ready.title}: done in {seconds:.0f} s, {'  '.join(shown)}")
    return {"seconds": seconds, "steps": trainer.state.global_step, "metrics": metrics, **engine_of(config)}


def skipped_rows(data: Mapping[str, Any]) -> Iterator[str]:
    """How many rows of a stage's data, and of those to evaluate on, could not be used, and why."""
    for part, rows in (("train", "rows"), ("eval", "rows of eval_dataset")):
        read = data.get(part) or {}
        skipped = read.get("skipped") or {}
        if skipped:
            reasons = "; ".join(f"{count:,} × {reason}" for reason, count in skipped.items())
            yield f"{sum(skipped.values()):,} of {read['rows_read']:,} {rows} were skipped: {reasons}"


def _say_nothing(line: str) -> None:
    pass


def _describe(ready: ReadyStage, start: str, models: ModelSettings) -> str:
    rows = "pairs" if ready.does.reads == "pairs" else "prompts" if ready.does.reads == "prompts" else "rows"
    held_out = f", {len(ready.eval_dataset)} held out" if ready.eval_dataset is not None else ""
    anchor = f"reference: {models.reference(start)}" if ready.does.has_reference else f"from {start}"
    return f"{len(ready.train_dataset)} {rows}{held_out}; {anchor}"


def _identity(ready: ReadyStage, start: str) -> str:
    """What the checkpoints of the stage belong to. `start` is of a model that has been fetched."""
    arguments = ready.arguments
    if ready.method != "rsa":  # the checkpoints of runs before there were methods stay as they were
        options = {
            name: [term.describe() for term in value] if isinstance(value, list) else value
            for name, value in ready.options.items()
        }
        arguments = {**arguments, "method": ready.method, "options": options}
    return run_identity(arguments, ready.data, start)


def _save(trainer: Any, ready: ReadyStage) -> None:
    folder = ready.folder
    ready.does.save(trainer, folder)
    trainer.create_model_card(model_name=folder.name)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        # The frozen copy of the adapter, which served as the reference, is not part of the result.
        shutil.rmtree(folder / "ref", ignore_errors=True)


_HEADLINE = (
    "loss",
    "rewards/accuracies",
    "reward",
    "accuracy",
    "eval_loss",
    "eval_rewards/accuracies",
    "eval_kl/chosen",
    "eval_risk/chosen",
)


def _final_metrics(trainer: Any) -> dict[str, float | None]:
    """The last logged training metrics and a fresh evaluation.

    Not the timings, nor TRL's count of tokens, which starts again at a resume.
    """
    training = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = dict(training[-1]) if training else {}
    if trainer.eval_dataset is not None:
        metrics |= trainer.evaluate()
    timings = ("runtime", "per_second", "preparation_time", "step", "epoch", "num_tokens")
    numbers = {k: v for k, v in metrics.items() if not k.endswith(timings) and isinstance(v, (int, float))}
    # JSON has no nan: a number that is not finite is recorded as null.
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _finish_trackers(config: Any) -> None:
    """Ends the stage's tracker run: those below go on with an open run when the next stage starts."""
    for name, finish in (("wandb", "finish"), ("trackio", "finish"), ("mlflow", "end_run")):
        if name in config.report_to and name in sys.modules:
            getattr(sys.modules[name], finish)()
