"""What is saved after a training in 16 bits under DeepSpeed, which is imitated here; for itself, see tests/compat."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from trl_rsa.score_models.master import save_master_weights


SIZES = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


class Trainer:
    """What is asked of a `Trainer`. The model computes in bfloat16, the optimizer has the weights in float32."""

    def __init__(self, model, first: bool, bf16: bool = True):
        self.model, self.is_deepspeed_enabled, self.saved = model, True, []
        self.args = SimpleNamespace(bf16=bf16, fp16=False, should_save=first)
        self.accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)

    def save_model(self, folder):
        self.saved.append(folder)

    def _save(self, folder, state_dict):
        self.model.save_pretrained(folder, state_dict=state_dict)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def made(request, monkeypatch):
    """A model, and its weights of before it was rounded; each process gives its piece of each weight once."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=request.param))
    exact = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.bfloat16()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    asked = []

    def full(parameter):
        asked.append(names[id(parameter)])
        return exact[asked[-1]]

    module = ModuleType("deepspeed.utils")
    module.safe_get_full_fp32_param = full
    monkeypatch.setitem(sys.modules, "deepspeed.utils", module)
    return model, exact, asked


def test_float32_is_saved_where_the_optimizer_has_it(made, tmp_path):
    model, exact, asked = made
    save_master_weights(Trainer(model, first=True), tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == exact.keys() and sorted(asked) == sorted(exact)
    assert all(torch.equal(saved[name], value) for name, value in exact.items())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32 and torch.equal(loaded.lm_head.weight, model_head(exact))


def model_head(exact):
    return exact.get("lm_head.weight", exact["model.embed_tokens.weight"])


def test_other_processes_give_their_pieces_and_write_nothing(made, tmp_path):
    model, exact, asked = made
    save_master_weights(Trainer(model, first=False), tmp_path)
    assert sorted(asked) == sorted(exact) and not any(tmp_path.iterdir())


def test_without_16_bits_the_trainer_saves(made, tmp_path):
    trainer = Trainer(made[0], first=True, bf16=False)
    save_master_weights(trainer, tmp_path)
    assert trainer.saved == [str(tmp_path)] and not made[2]
