"""Checkpoints that can be trusted after a kill: each complete one carries a marker, written last.

`transformers.trainer_utils.get_last_checkpoint` takes the highest number, and saving is not atomic: a kill during
saving leaves a broken newest folder, which it would choose. The marker lists the files that it vouches for, with sizes
and digests, and what the run was: settings, data, and the model that it started from.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from trl_rsa.storage.files import write_json
from trl_rsa.storage.folders import FileEntry, describe_files, find_damage, sync_folder
from trl_rsa.storage.provenance import now


MARKER = "complete.json"


class EngineJSON(TypedDict):
    """What trains: "PyTorch", "DDP", "FSDP" or DeepSpeed with its stage, and in how many processes."""

    engine: str
    processes: int


class CheckpointFile(EngineJSON):
    """complete.json of a checkpoint. `run` is [`run_identity`]; `files` are those that it vouches for."""

    global_step: int
    saved: str
    run: str
    files: dict[str, FileEntry]


class CheckpointMarker(TrainerCallback):
    """Marks each checkpoint as complete once everything in it is written, then deletes those over the limit.

    The limit is enforced here, not by the trainer, which would delete the last complete checkpoint before the new one
    is marked.

    Args:
        limit (`int`, *optional*):
            How many complete checkpoints to keep; `None` keeps all.
        run (`str`, *optional*):
            What the checkpoints belong to: [`run_identity`].
    """

    def __init__(self, limit: int | None, run: str = ""):
        self.limit, self.run = limit, run

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert args.distributed_state is not None
        args.distributed_state.wait_for_everyone()  # every process writes its part of a checkpoint
        if not state.is_world_process_zero:
            return
        run_dir = Path(str(args.output_dir))
        checkpoint = run_dir / f"checkpoint-{state.global_step}"
        sync_folder(checkpoint)
        marker: CheckpointFile = {
            "global_step": state.global_step,
            "saved": now(),
            "run": self.run,
            **engine_of(args),
            "files": describe_files(checkpoint, leave_out=[MARKER]),
        }
        write_json(checkpoint / MARKER, marker)
        if self.limit is not None:
            keep = {checkpoint, Path(state.best_model_checkpoint or checkpoint)}
            for old in complete_checkpoints(run_dir)[: -self.limit]:
                if old not in keep:
                    # The marker goes first: after a kill in between, what is left must not count as complete.
                    (old / MARKER).unlink()
                    shutil.rmtree(old)


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints in `run_dir`, oldest first."""
    return [path for path in _checkpoints(run_dir) if (path / MARKER).exists()]


def newest_complete_checkpoint(run_dir: Path, log: Callable[[str], None] = print) -> Path | None:
    """The newest complete checkpoint in `run_dir` whose files are as they were saved.

    Incomplete ones, left by a kill during saving, are deleted. A checkpoint that was damaged later is named and put
    aside, as `checkpoint-4.damaged`.
    """
    for path in _checkpoints(run_dir):
        if not (path / MARKER).exists():
            shutil.rmtree(path)
    for path in reversed(complete_checkpoints(run_dir)):
        damage = _damage(path)
        if damage is None:
            return path
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log(f"warning: {path} is damaged ({damage}) and put aside as {aside.name}; an older checkpoint is looked for")
    return None


def _damage(checkpoint: Path) -> str | None:
    try:
        files = _read_marker(checkpoint)["files"]
        return find_damage(checkpoint, files)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"{MARKER} does not list its files"


def _read_marker(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))


# Where a run is watched and how often it is saved changes nothing of what it computes.
_FREE = (
    *("logging_", "log_", "report_to", "run_name", "output_dir", "disable_tqdm", "project", "trackio_", "hub_"),
    *("push_to_hub", "include_num_input_tokens_seen", "save_total_limit", "use_cpu", "dataloader_num_workers"),
)


def run_identity(
    arguments: Mapping[str, Any], data: Mapping[str, Any], start: str, also_free: tuple[str, ...] = ()
) -> str:
    """A digest of what decides a run's result.

    Args:
        arguments (`Mapping[str, Any]`):
            Of its [`RSAConfig`].
        data (`Mapping[str, Any]`):
            Counts and fingerprints of its pairs, as JSON.
        start (`str`):
            The fingerprint of the model that it starts from.
        also_free (`tuple[str, ...]`, *optional*):
            How the names of arguments begin that this run may change when it goes on, besides where it is watched.
    """
    decisive = {name: value for name, value in arguments.items() if not name.startswith((*_FREE, *also_free))}
    content = {"arguments": decisive, "data": data, "start": start}
    return sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def check_run(checkpoint: Path, run: str) -> None:
    """
    Raises:
        ValueError: if `checkpoint` belongs to another run.
    """
    if _read_marker(checkpoint).get("run") != run:
        raise ValueError(
            f"You train into {checkpoint.parent}, but {checkpoint.name} there belongs to a run with other settings, "
            "data or starting model. Restore these, use another output_dir, or delete the folder to train anew."
        )


def is_last(checkpoint: Path) -> bool:
    """Whether the run had made all its steps when `checkpoint` was saved."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps


def has_ended(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether a run as long as `args` say ended with `checkpoint`; that may be longer than the one which wrote it."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if args.max_steps > 0:
        return state.global_step >= args.max_steps
    return state.global_step >= state.max_steps and (state.epoch or 0.0) >= args.num_train_epochs


def engine_of(args: TrainingArguments) -> EngineJSON:
    """What trains, for the manifest and the marker of a checkpoint."""
    if args.deepspeed_plugin is not None:
        engine = f"DeepSpeed ZeRO-{args.deepspeed_plugin.zero_stage}"
    elif args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        engine = "FSDP"
    else:
        engine = "DDP" if args.world_size > 1 else "PyTorch"
    return {"engine": engine, "processes": args.world_size}


def check_engine(checkpoint: Path, args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: if `checkpoint` was written by another engine or number of processes: it cannot be read, or the
            batches would be others.
    """
    marker = _read_marker(checkpoint)
    now_used = engine_of(args)
    if now_used != {name: marker.get(name) for name in now_used}:
        raise ValueError(
            f"You resume with {_in_words(now_used)}, but {checkpoint} was written by {_in_words(marker)}. Launch as "
            "before, or delete the folder's checkpoints to train anew."
        )


def refuse_pieces(trainer: Trainer) -> None:
    """
    Raises:
        ValueError: if the engine is set to keep the trained weights in pieces: at the end there would be no model.
    """
    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled and "FULL" not in str(state.fsdp_plugin.state_dict_type):
        raise ValueError(
            "You set fsdp_state_dict_type to SHARDED_STATE_DICT in accelerate's configuration, but then the trained "
            "model is not written as one folder that can be loaded. Set it to FULL_STATE_DICT."
        )
    if trainer.is_deepspeed_enabled:
        zero = state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
        if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ValueError(
                "You train with ZeRO-3 without stage3_gather_16bit_weights_on_model_save (zero3_save_16bit_model in "
                "accelerate's configuration), but then the trained model is not written as one folder that can be "
                "loaded. Set it to true."
            )


def _in_words(launch: Mapping[str, Any]) -> str:
    number = launch.get("processes")
    return f"{launch.get('engine')} in {number} process{'' if number == 1 else 'es'}"


def keep_dtypes(trainer: Trainer) -> None:
    """Lets the trainer load a checkpoint in the dtypes in which it trains.

    PEFT turns the adapters of a quantised model, which TRL trains in bf16, into float32 at a resume. ([`RSATrainer`]
    does it by itself, for those who call it alone.)
    """
    load: Any = trainer._load_from_checkpoint

    def load_in_place(checkpoint: str, model: Any = None) -> None:
        policy: Any = trainer.model if model is None else model
        dtypes = {name: parameter.dtype for name, parameter in policy.named_parameters()}
        load(checkpoint, model=model)
        for name, parameter in policy.named_parameters():
            if parameter.is_floating_point() and parameter.dtype != dtypes.get(name, parameter.dtype):
                parameter.data = parameter.data.to(dtypes[name])

    trainer._load_from_checkpoint = load_in_place


def load_last(trainer: Trainer, checkpoint: Path) -> None:
    """Puts the trainer where a run of all its steps ended: the engine loads the checkpoint, and no step is made.

    `Trainer.train(resume_from_checkpoint=...)` alone would make one step more from a checkpoint of the last step
    (transformers 5.23).
    """
    stop = _StopBeforeTheFirstStep()
    trainer.add_callback(stop)
    with contextlib.suppress(_Loaded):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    trainer.remove_callback(stop)
    trainer.is_in_train = False
    # What an uninterrupted run ends with.
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        trainer._load_best_model()


class _Loaded(Exception):
    """Raised to leave `train` once everything is loaded."""


class _StopBeforeTheFirstStep(TrainerCallback):
    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        raise _Loaded


def _checkpoints(run_dir: Path) -> list[Path]:
    numbered = {
        int(match.group(1)): path
        for path in run_dir.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    }
    return [numbered[number] for number in sorted(numbered)]
