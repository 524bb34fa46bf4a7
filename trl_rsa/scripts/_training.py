"""What the commands that train share: processes that train together, and the checkpoint to go on from."""

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
