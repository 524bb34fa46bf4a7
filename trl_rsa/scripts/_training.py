"""What the commands that train share: processes that train together, and the checkpoint to go on from."""

import sys
from pathlib import Path
from typing import Any

from trl_rsa.training.launcher import Launcher


INTERRUPTED = "Resume from the last checkpoint, if one was saved, with --resume_from_checkpoint true."


def launch_training(command: str, training_args: Any, argv: list[str], launcher: Launcher) -> int:
    """Runs `trl-rsa <command>` with the arguments `argv` in the processes that `launcher` starts.

    Raises:
        ValueError: if `training_args` and the launcher cannot go together.
        ChildProcessError: if a process fails.
    """
    launcher.check(training_args.use_cpu)
    for name in ("deepspeed", "fsdp"):
        if getattr(training_args, name):
            raise ValueError(
                f"You set {name} and arguments of a launcher, but both choose the engine. Remove {name}, and set "
                "accelerate_config; a DeepSpeed file goes there as deepspeed_config_file."
            )
    status = launcher.run("trl_rsa.scripts._rank", [command, *argv])
    if status:
        raise ChildProcessError(f"The launched processes ended with status {status}; see above. {INTERRUPTED}")
    return 0


# A run may be made longer, and be evaluated otherwise, when it goes on.
_FREE = ("max_steps", "num_train_epochs", "resume_from_checkpoint", "local_rank", "eval_", "per_device_eval_", "save_")
_COLUMNS = ("prompt", "chosen", "rejected")  # others may hold dates or images, and are not trained on
_ENDS = 1000  # rows of each end of the data that tell it from other data


def identity_of(training_args: Any, dataset: Any, start: str | None, adapter: Any) -> str:
    """What the checkpoints of a run belong to: settings, data, and the model that it starts from.

    Args:
        training_args (`TrainingArguments`):
            Of the trainer.
        dataset (`Dataset`):
            What it trains on. Of a stream nothing is known.
        start (`str`, *optional*):
            The identity of the starting model.
        adapter:
            The configuration of a new adapter.
    """
    from trl_rsa.data import fingerprint
    from trl_rsa.training.anchor import described
    from trl_rsa.training.checkpoints import run_identity

    data: dict[str, Any] = {}
    if hasattr(dataset, "__len__"):
        rows = sorted({*range(min(_ENDS, len(dataset))), *range(max(0, len(dataset) - _ENDS), len(dataset))})
        read = [name for name in _COLUMNS if name in dataset.column_names]
        data = {"rows": len(dataset), "fingerprint": fingerprint(dataset.select(rows).select_columns(read))}
    return run_identity(training_args.to_dict() | {"adapter": described(adapter)}, data, str(start), also_free=_FREE)


def check_resumed(resume: str | bool | None, training_args: Any, run: str) -> Path | None:
    """The checkpoint that a run goes on from, if it is known.

    Raises:
        ValueError: if it belongs to another run, engine or number of processes. Checkpoints of other trainers say
            nothing of theirs.
    """
    from trl_rsa.training.checkpoints import MARKER, check_engine, check_run

    found = _newest(Path(training_args.output_dir), training_args.process_index) if resume is True else resume
    checkpoint = Path(found) if isinstance(found, str) else None
    if checkpoint is not None and (checkpoint / MARKER).is_file():
        check_run(checkpoint, run)
        check_engine(checkpoint, training_args)
    return checkpoint


def train_to_the_end(trainer: Any, checkpoint: Path | None, resume: str | bool | None) -> None:
    """Trains from the checkpoint that [`check_resumed`] found, or what `resume` says; a run that had ended is loaded.

    Raises:
        ValueError: if trained weights are not numbers.
    """
    from trl_rsa._finite import check_finite
    from trl_rsa.training.checkpoints import has_ended, load_last

    if checkpoint is not None and has_ended(checkpoint, trainer.args):
        trainer.accelerator.print(f"{checkpoint} is the last step of this run: nothing is left to train.")
        load_last(trainer, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=resume if checkpoint is None else str(checkpoint))
    check_finite(trainer.model, "this training")


def _newest(output_dir: Path, process: int) -> str | None:
    """The newest checkpoint, or of those that this package has written the newest that was written to its end."""
    from transformers.trainer_utils import get_last_checkpoint

    from trl_rsa.training.checkpoints import MARKER, complete_checkpoints

    newest = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    complete = complete_checkpoints(output_dir)
    if newest is None or not complete or Path(newest) == complete[-1]:
        return newest
    if process == 0:
        print(
            f"{newest} has no {MARKER}, as after a kill while it was saved: going on from {complete[-1].name}. To go "
            "on from it all the same, name it in resume_from_checkpoint.",
            file=sys.stderr,
            flush=True,
        )
    return str(complete[-1])


def checkpoint_to_resume(resume: str | bool | None) -> str | bool | None:
    """On the command line, `true` is text; a YAML file has the truth value itself."""
    if isinstance(resume, str) and resume.lower() in ("true", "false"):
        return resume.lower() == "true"
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise FileNotFoundError(
            f"You set resume_from_checkpoint={resume!r}, but there is no such folder. Set it to the folder of a "
            "checkpoint, or to true for the last one in output_dir."
        )
    return resume
