"""Saves in float32 what DeepSpeed has trained: the weights that its optimizer holds, not those it computes with."""

from pathlib import Path
from typing import Any

import torch

from trl_rsa.score_models.model import write_dtype


def save_master_weights(trainer: Any, folder: Path) -> None:
    """
    As `trainer.save_model`; but where DeepSpeed computes in 16 bits, the float32 weights that it updates are saved. Of
    a small learning rate most is lost in bfloat16, whose steps are 1/256 of a weight: at 1e-6 few weights would move.

    In a process group every process calls it; the first one holds the whole model in main memory.

    Args:
        trainer (`Trainer`):
            After training, with any engine.
        folder (`Path`):
            Where to.
    """
    if not has_master_weights(trainer):
        trainer.save_model(str(folder))
        return
    state = master_weights(trainer)
    if not trainer.args.should_save:
        return
    trainer._save(str(folder), state_dict=state)
    write_dtype(folder, torch.float32)  # the model in memory says 16 bits


def has_master_weights(trainer: Any) -> bool:
    """Whether the weights that are computed with are copies of others, in float32."""
    return trainer.is_deepspeed_enabled and (trainer.args.bf16 or trainer.args.fp16)


def master_weights(trainer: Any) -> dict[str, torch.Tensor]:
    """From name to float32 weight; of every process but the first an empty one, as all give their pieces."""
    from deepspeed.utils import safe_get_full_fp32_param

    model = trainer.accelerator.unwrap_model(trainer.model)
    found: dict[int, torch.Tensor | None] = {}
    state: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in found:  # tied weights stay one tensor
            whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad else _whole(parameter)
            if trainer.args.should_save:
                assert whole is not None
                whole = whole.detach().float().cpu().reshape(getattr(parameter, "ds_shape", parameter.shape)).clone()
            else:
                whole = None
            found[id(parameter)] = whole
        value = found[id(parameter)]
        if value is not None:
            state[name] = value
    if trainer.args.should_save:
        saved = model.state_dict().keys()
        state |= {name: value.cpu() for name, value in model.named_buffers() if name in saved}
    return state


def _whole(parameter: Any) -> torch.Tensor:
    """A weight that is not trained, of which there is no other."""
    from deepspeed.zero import GatheredParameters

    with GatheredParameters([parameter]):
        return parameter.detach().clone()
