"""QLoRA on one process: 4-bit layers, a head in higher precision, trained adapters. engine_cases.py has the rest."""

import importlib.util
import math

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from trl_rsa import RSAConfig, RSATrainer


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_trains_adapters_on_four_bits(tiny_model_path, preference_dataset, tiny_args, checkpointing):
    from bitsandbytes.nn import Linear4bit

    in_bf16 = {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}, "weight_decay": 0.0}
    trainer = RSATrainer(
        model=tiny_model_path,
        args=RSAConfig(**tiny_args(**in_bf16, gradient_checkpointing=checkpointing)),
        train_dataset=preference_dataset,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    )
    base = trainer.model.get_base_model()
    assert isinstance(base.model.layers[0].mlp.down_proj.base_layer, Linear4bit)
    assert type(base.lm_head) is torch.nn.Linear and base.lm_head.weight.dtype == torch.bfloat16
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert before
    for name, p in trainer.model.named_parameters():
        if name in before:
            assert not torch.equal(before[name], p), name
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert steps[0]["risk/max_token"] == 0 and steps[-1]["risk/max_token"] > 0
    assert all(math.isfinite(value) for entry in steps for value in entry.values())
