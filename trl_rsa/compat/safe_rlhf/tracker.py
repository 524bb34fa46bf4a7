"""`--log_type` and its kin for `Trainer`, which reads the rest from the environment."""

import netrc
import os
from importlib.util import find_spec


_NEEDS = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}


def tracker(
    log_type: str, log_dir: str | None, log_project: str | None, output_dir: str
) -> tuple[str, dict[str, str], str | None]:
    """
    Returns:
        What `report_to` is, the environment variables that the tracker reads (those that are set already win), and a
        sentence if it is another one than was asked for.
    """
    if log_type == "none":
        return "none", {}, None
    if not any(find_spec(package) for package in _NEEDS[log_type]):
        return (
            "none",
            {},
            f"{log_type} is not installed, so that the metrics are only in trainer_state.json; run pip install "
            f"{log_type} to have them there.",
        )
    folder = log_dir or output_dir
    if log_type == "tensorboard":
        return log_type, {"TENSORBOARD_LOGGING_DIR": folder}, None
    variables = {"WANDB_PROJECT": log_project or "safe-rlhf", "WANDB_DIR": folder}
    if not _has_key() and "WANDB_MODE" not in os.environ:
        # Without a key wandb would ask for one and wait.
        return (
            log_type,
            variables | {"WANDB_MODE": "offline"},
            "wandb has no key here, so that the run is kept offline; send it later with wandb sync.",
        )
    return log_type, variables, None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
