"""`--log_type` and its kin for `Trainer`, which reads the rest from the environment."""

import netrc
import os

from trl_rsa.training.trackers import is_installed


def tracker(
    log_type: str, log_dir: str | None, log_project: str | None, output_dir: str
) -> tuple[str, dict[str, str], str | None]:
    """
    Returns:
        What `report_to` is, the environment variables that the tracker reads, as they will hold (a flag wins over a
        variable that is set, a variable over a default), and a sentence if it is another one than was asked for.
    """
    if log_type == "none":
        return "none", {}, None
    if not is_installed(log_type):
        return (
            "none",
            {},
            f"{log_type} is not installed, so that the metrics are only in trainer_state.json; run pip install "
            f"{log_type} to have them there.",
        )
    if log_type == "tensorboard":
        return log_type, {"TENSORBOARD_LOGGING_DIR": _held("TENSORBOARD_LOGGING_DIR", log_dir, output_dir)}, None
    variables = {
        "WANDB_PROJECT": _held("WANDB_PROJECT", log_project, "safe-rlhf"),
        "WANDB_DIR": _held("WANDB_DIR", log_dir, output_dir),
    }
    if not _has_key() and "WANDB_MODE" not in os.environ:
        # Without a key wandb would ask for one and wait.
        return (
            log_type,
            variables | {"WANDB_MODE": "offline"},
            "wandb has no key here, so that the run is kept offline; send it later with wandb sync.",
        )
    return log_type, variables, None


def _held(variable: str, flag: str | None, default: str) -> str:
    return flag or os.environ.get(variable) or default


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
