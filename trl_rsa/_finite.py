"""A training that has left weights that are not numbers has failed, whatever its loss says."""

import torch
from torch.distributed.tensor import DTensor


@torch.no_grad()
def check_finite(model: torch.nn.Module, title: str) -> None:
    """Looks at what was trained, on this process. Trainers log a loss of 0 in place of one that is not a number.

    Args:
        model (`torch.nn.Module`):
            After training.
        title (`str`):
            Of the training, for the message.

    Raises:
        ValueError: if a trained weight is not finite.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(_here(parameter)).all()):
            raise ValueError(
                f"You ran {title}, but it left weights that are not numbers (in {name}): nothing was saved. Lower "
                "learning_rate, or look at the model that it started from."
            )


def _here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter: FSDP2's shard, ZeRO-3's, or all of it."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)
