"""Saves what a score model's trainer has trained as one ordinary folder: adapters merged, pieces put together."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from trl_rsa.score_models.master import has_master_weights, master_weights, save_master_weights


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
    if has_master_weights(trainer):
        merged = _merge(trainer, model, master_weights(trainer), torch.float32)
    elif _is_sharded(trainer):
        engine = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
        merged = _merge(trainer, model, trainer.accelerator.get_state_dict(engine), model.get_base_model().dtype)
    else:
        merged = model.merge_and_unload()
    if trainer.accelerator.is_main_process:
        merged.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def _is_sharded(trainer: Any) -> bool:
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return trainer.is_fsdp_enabled


def _merge(trainer: Any, model: Any, state: dict[str, Any], dtype: torch.dtype) -> Any:
    """Merges on the first process, in its memory, what all have given: no process has the weights to merge adapters
    into. None on others."""
    from peft import get_peft_model

    if not trainer.accelerator.is_main_process:
        return None
    base = model.get_base_model()
    with undivided(), torch.device("cpu"):
        empty = type(base)(base.config)
        if any(name.endswith("score.original_module.bias") for name in state):  # Safe RLHF's head has one
            empty.score.bias = torch.nn.Parameter(torch.zeros(empty.score.out_features))
        whole = get_peft_model(empty, deepcopy(model.peft_config["default"])).float()
    whole.load_state_dict(state)
    return whole.merge_and_unload().to(dtype)


@contextmanager
def undivided() -> Iterator[None]:
    """Under ZeRO-3 transformers divides every model that is made, once the training arguments are there. Not here: a
    model that no engine wraps could not be used, and one that a single process makes would wait for the others.
    """
    from transformers.integrations import deepspeed

    # As it is: accelerate has filled in what its configuration leaves open.
    before = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = before
