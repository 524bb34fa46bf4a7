"""Adapters merged while one samples, and the weights put back to the last bit."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa.sampling import generation
from trl_rsa.sampling.adapters import merged_adapters
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog ran", "blue"]


@pytest.fixture
def adapted(tiny_tied_model_path):
    """`adapted(dtype, **config)`: an adapter that is not zero, on every linear layer but the head."""

    def make(dtype=torch.float32, **config):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_tied_model_path, dtype=dtype)
        settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
        return get_peft_model(base, LoraConfig(**settings | config)).eval()

    return make


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def drawn(model, tokenizer):
    batches = generate(model, tokenizer, PROMPTS, Sampling(draws=4, max_new_tokens=8), batch_size=5)
    return {(r.prompt, r.draw): r.token_ids for batch in batches for r in batch}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_put_back_to_the_last_bit(adapted, tiny_tokenizer, dtype):
    model = adapted(dtype)
    before = weights(model)
    with merged_adapters(model) as merged:
        inside = weights(model)
        assert merged
    changed = [name for name in before if not torch.equal(before[name], inside[name])]
    assert len(changed) == 14 and all(name.endswith("base_layer.weight") for name in changed)
    assert same(weights(model), before)
    assert len(drawn(model, tiny_tokenizer)) == 12
    assert same(weights(model), before) and not any(getattr(module, "merged", False) for module in model.modules())


def test_putting_back_by_subtraction_would_not_do(adapted):
    """Why a copy is kept."""
    model = adapted()
    before = weights(model)
    model.merge_adapter()
    model.unmerge_adapter()
    assert not same(weights(model), before)


@pytest.mark.parametrize("config", [{}, {"use_dora": True}])
def test_draws_are_those_of_the_adapted_model(adapted, tiny_tokenizer, monkeypatch, config):
    model = adapted(**config)
    merged = drawn(model, tiny_tokenizer)
    from trl_rsa.sampling import adapters

    monkeypatch.setattr(adapters, "_layers_to_merge", lambda model: [])
    assert drawn(model, tiny_tokenizer) == merged
    with model.disable_adapter():
        assert drawn(model, tiny_tokenizer) != merged


def test_put_back_after_an_error(adapted):
    model = adapted()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), merged_adapters(model):
        raise KeyboardInterrupt
    assert same(weights(model), before)


def test_switched_off_adapters_stay_off(adapted):
    model = adapted()
    with model.disable_adapter(), merged_adapters(model) as merged:
        assert not merged


def test_merged_before(adapted):
    model = adapted()
    model.merge_adapter()
    with merged_adapters(model) as merged:
        assert not merged
    assert all(module.merged for module in model.modules() if hasattr(module, "merged"))


def test_tied_weights_are_left(adapted, tiny_tokenizer):
    """Merged embeddings would be a merged head as well."""
    model = adapted(target_modules=["embed_tokens", "q_proj"])
    with merged_adapters(model) as merged:
        assert not merged
    assert len(drawn(model, tiny_tokenizer)) == 12


def test_quantised_weights_are_left(adapted):
    model = adapted()
    layer = next(module for name, module in model.named_modules() if name.endswith("q_proj.base_layer"))
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with merged_adapters(model) as merged:
        assert not merged


def test_adapters_that_are_no_layers_go_through_generate(tiny_tied_model_path, tiny_tokenizer, monkeypatch):
    base = AutoModelForCausalLM.from_pretrained(tiny_tied_model_path)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    real, batches = generation._generate_batch, []
    monkeypatch.setattr(generation, "_generate_batch", lambda *args: batches.append(args) or real(*args))
    found = drawn(model, tiny_tokenizer)
    assert len(found) == 12 and len(batches) == 3
    # What the base model's generation config forbids is not forbidden here.
    monkeypatch.setattr(base.generation_config, "suppress_tokens", [5, 6, 7, 8])
    own = base.generation_config
    assert drawn(model, tiny_tokenizer) == found
    assert base.generation_config is own
