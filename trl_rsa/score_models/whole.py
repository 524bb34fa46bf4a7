"""Saves what a score model's trainer has trained as one ordinary folder: adapters merged, pieces put together."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from trl_rsa.score_models.master import save_master_weights


def save_whole(trainer: Any, folder: Path) -> None:
    """
    Writes the model, with adapters merged into it, and its tokenizer. In a process group every process calls it.

    Args:
        trainer (`Trainer`):
            After training, with any engine.
        folder (`Path`):
            Where to.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "merge_and_unload"):
        save_master_weights(trainer, folder)
        return
    if _is_sharded(trainer):
        merged = _merge_pieces(trainer, model)
    else:
        merged = model.merge_and_unload()
    if trainer.accelerator.is_main_process:
        merged.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def _is_sharded(trainer: Any) -> bool:
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return trainer.is_fsdp_enabled


def _merge_pieces(trainer: Any, model: Any) -> Any:
    """Merges on the first process, in its memory: no process has weights to merge adapters into. None on others."""
    from peft import get_peft_model

    engine = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    state = trainer.accelerator.get_state_dict(engine)  # all processes give their pieces
    if not trainer.accelerator.is_main_process:
        return None
    base = model.get_base_model()
    with _one_process_alone(trainer), torch.device("cpu"):
        empty = type(base)(base.config)
        if any(name.endswith("score.original_module.bias") for name in state):  # Safe RLHF's head has one
            empty.score.bias = torch.nn.Parameter(torch.zeros(empty.score.out_features))
        whole = get_peft_model(empty, deepcopy(model.peft_config["default"])).float()
    whole.load_state_dict(state)
    return whole.merge_and_unload().to(base.dtype)


@contextmanager
def _one_process_alone(trainer: Any) -> Iterator[None]:
    """Under ZeRO-3 transformers divides every model that is made: the first process would wait for the others."""
    if not trainer.is_deepspeed_enabled:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(trainer.accelerator.state.deepspeed_plugin.hf_ds_config)
