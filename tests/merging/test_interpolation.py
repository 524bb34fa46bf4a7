"""Walking back interpolates weight updates: exactly, for full models and for adapters."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa.merging.interpolation import interpolate


def full_weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_full_weights_are_on_the_line(tiny_tied_model_path, save_tiny_llama, tmp_path):
    """W = W₀ + 0.25·(W₁ − W₀), the tied embedding included."""
    after = save_tiny_llama(seed=5, tie_word_embeddings=True)
    interpolate(tiny_tied_model_path, after, 0.25, tmp_path, {})
    w0, w1, w = full_weights(tiny_tied_model_path), full_weights(after), full_weights(tmp_path)
    for name in w0:
        torch.testing.assert_close(w[name], 0.75 * w0[name] + 0.25 * w1[name])


@pytest.mark.parametrize(("fraction", "end"), [(0.0, 0), (1.0, 1)])
def test_the_ends_are_the_two_models(fraction, end, tiny_model_path, other_tiny_model_path, tmp_path):
    ends = [tiny_model_path, other_tiny_model_path]
    interpolate(*ends, fraction, tmp_path, {})
    w, expected = full_weights(tmp_path), full_weights(ends[end])
    assert all(torch.equal(w[name], expected[name]) for name in expected)


@pytest.fixture
def save_adapter(tiny_model_path, tmp_path):
    def save(name, seed, rank=2):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path), config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(std=0.1)
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def merged(base, adapter):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    return dict(model.named_parameters())


def test_adapters_interpolate_their_product_not_their_factors(tiny_model_path, save_adapter, tmp_path):
    """W = W_base + (1 − f)·s·B₀A₀ + f·s·B₁A₁, with ranks 2 and 3: A and B could not even be averaged."""
    before, after = save_adapter("before", 1), save_adapter("after", 2, rank=3)
    interpolate(before, after, 0.3, tmp_path / "between", {})
    w0, w1, w = (merged(tiny_model_path, folder) for folder in (before, after, str(tmp_path / "between")))
    moved = 0
    for name in w0:
        torch.testing.assert_close(w[name], 0.7 * w0[name] + 0.3 * w1[name], rtol=1e-5, atol=1e-6)
        moved += not torch.equal(w0[name], w1[name])
    assert moved == 4  # q and v of two layers


def test_the_first_rung_walks_back_towards_its_base(tiny_model_path, save_adapter, tmp_path):
    after = save_adapter("after", 2)
    interpolate(tiny_model_path, after, 0.5, tmp_path / "between", {})
    w0, w1 = full_weights(tiny_model_path), merged(tiny_model_path, after)
    w = merged(tiny_model_path, str(tmp_path / "between"))
    for name in w0:
        torch.testing.assert_close(w[name], 0.5 * (w0[name] + w1[name]), rtol=1e-5, atol=1e-6)


def test_what_does_not_belong_together_is_refused(
    tiny_model_path, other_tiny_model_path, save_adapter, save_tiny_llama
):
    with pytest.raises(ValueError, match="beyond"):
        interpolate(tiny_model_path, tiny_model_path, 1.5, "unused", {})
    with pytest.raises(ValueError, match="differ"):
        interpolate(save_tiny_llama(intermediate_size=64), tiny_model_path, 0.5, "unused", {})
    with pytest.raises(ValueError, match="was trained on"):
        interpolate(other_tiny_model_path, save_adapter("after", 2), 0.5, "unused", {})
