"""Walking back interpolates weight updates: exactly, for full models and for adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trl_rsa.merging.interpolation import interpolate
from trl_rsa.sampling.policies import load_policy
from trl_rsa.training.anchor import ModelSettings


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


@pytest.fixture
def close_adapters(save_tiny_llama, tmp_path):
    """Two stages of QLoRA, whose adapters TRL keeps in bfloat16, and their base. The second's factors are 5 % away."""
    base = save_tiny_llama(hidden_size=64, intermediate_size=64)
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    factors = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for name, share in (("before", 1.0), ("after", 0.05)):
        for factor in factors:
            factor.data = (factor.data.float() * (share < 1) + share * 0.1 * torch.randn(factor.shape)).bfloat16()
        model.save_pretrained(tmp_path / name)
    return base, str(tmp_path / "before"), str(tmp_path / "after")


def update_of(folder, layer):
    found = load_file(Path(folder) / "adapter_model.safetensors")
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    b, a = (found[f"base_model.model.model.layers.{layer}.lora_{which}.weight"].double() for which in "BA")
    return config["lora_alpha"] / config["r"] * b @ a


@pytest.mark.parametrize("fraction", [0.25, 0.9])
def test_two_close_adapters_in_16_bits(fraction, close_adapters, tmp_path):
    """Off by far less than the small move between them, of which the rounding of w·A to bfloat16 is some per cent."""
    _, before, after = close_adapters
    assert {t.dtype for t in load_file(Path(after) / "adapter_model.safetensors").values()} == {torch.bfloat16}
    interpolate(before, after, fraction, tmp_path / "between", {})
    lost = moved = 0.0
    for layer in ("0.self_attn.q_proj", "1.self_attn.v_proj"):
        w0, w1, w = (update_of(folder, layer) for folder in (before, after, tmp_path / "between"))
        lost += float((w - (1 - fraction) * w0 - fraction * w1).square().sum())
        moved += float((fraction * (w1 - w0)).square().sum())
    assert moved > 0 and (lost / moved) ** 0.5 < 1e-5
    said = json.loads((tmp_path / "between" / "merge.json").read_text())
    assert said["dtype"] == "float32" and said["error"] == pytest.approx((lost / moved) ** 0.5, abs=1e-5)


def test_a_base_in_16_bits_goes_on_with_what_was_merged(close_adapters, tmp_path):
    _, before, after = close_adapters
    interpolate(before, after, 0.5, tmp_path / "between", {})
    ids = torch.tensor([[5, 6, 7, 8]])
    model = load_policy(str(tmp_path / "between"), "cpu", dtype="bfloat16")
    assert model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.bfloat16
    exact = load_policy(str(tmp_path / "between"), "cpu")(ids).logits
    torch.testing.assert_close(model(ids).logits.float(), exact, atol=0.1, rtol=0.1)


def test_a_base_in_4_bits_goes_on_with_what_was_merged(close_adapters, tmp_path):
    base, before, after = close_adapters
    interpolate(before, after, 0.5, tmp_path / "between", {})
    in_4_bits = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)}
    ids = torch.tensor([[5, 6, 7, 8]])
    try:
        load_policy(base, "cpu", **in_4_bits)(ids)
    except Exception as error:  # of transformers, bitsandbytes and torch
        pytest.skip(f"bitsandbytes cannot work in 4 bits here: {error}")
    model = ModelSettings.of(in_4_bits, None, {}).anchor_at(str(tmp_path / "between")).model
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for factor in factors:
        factor.data = factor.data.to(torch.bfloat16)  # as TRL does
    model(ids, labels=ids).loss.backward()
    assert len(factors) == 8 and all(bool(factor.grad.isfinite().all()) for factor in factors)


def test_what_does_not_belong_together_is_refused(
    tiny_model_path, other_tiny_model_path, save_adapter, save_tiny_llama
):
    with pytest.raises(ValueError, match="beyond"):
        interpolate(tiny_model_path, tiny_model_path, 1.5, "unused", {})
    with pytest.raises(ValueError, match="differ"):
        interpolate(save_tiny_llama(intermediate_size=64), tiny_model_path, 0.5, "unused", {})
    with pytest.raises(ValueError, match="was trained on"):
        interpolate(other_tiny_model_path, save_adapter("after", 2), 0.5, "unused", {})


def test_a_model_on_the_hub_is_read_at_its_revision(tiny_model_path, other_tiny_model_path, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, revision, ignore_patterns: asked.append((name, revision)) or tiny_model_path,
    )
    interpolate("owner/model", other_tiny_model_path, 0.5, tmp_path / "between", {"revision": "v1"})
    assert asked == [("owner/model", "v1")]
