"""A training that has left weights that are not numbers has failed, whatever its loss says."""

import torch
from torch.distributed.tensor import DTensor


@torch.no_grad()
def check_finite(model: torch.nn.Module, title: str) -> None:
    """Looks at what was trained; in a process group every process calls it. Trainers log a loss of 0 in place of one
    that is not a number.

    Args:
        model (`torch.nn.Module`):
            After training.
        title (`str`):
            Of the training, for the message.

    Raises:
        ValueError: if a trained weight is not finite.
    """
    found = (
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not bool(torch.isfinite(_here(parameter)).all())
    )
    name = next(found, None)
    if _anywhere(name is not None):
        where = "in another process's part" if name is None else f"in {name}"
        raise ValueError(
            f"You ran {title}, but it left weights that are not numbers ({where}): nothing was saved. Lower "
            "learning_rate, or look at the model that it started from."
        )


def _anywhere(here: bool) -> bool:
    """Whether it is so in any process: each may have other weights, and one that raised alone would leave the others
    waiting for it.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return here
    on_cpu = "gloo" in torch.distributed.get_backend()
    found = torch.tensor(float(here), device="cpu" if on_cpu else torch.accelerator.current_accelerator())
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)


def _here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter: FSDP2's shard, ZeRO-3's, or all of it."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    if not hasattr(parameter, "ds_tensor"):
        return parameter
    # The parts are equally long, and whatever was in memory fills up the last ones.
    shard = parameter.ds_tensor
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    return shard[: max(0, min(shard.ds_numel, parameter.ds_numel - rank * shard.ds_numel))]
