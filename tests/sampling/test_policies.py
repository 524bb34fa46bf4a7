"""Policies from folders: whole models, adapters on a base model, and what cannot be loaded."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa.sampling.policies import base_of, free_memory, is_adapter, load_policy, load_tokenizer
from trl_rsa.scoring.batches import pick_device


@pytest.fixture
def adapter(tiny_model_path, tmp_path):
    """A folder with an adapter only, and the logits of the adapted model."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    model = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter"), logits(model.eval())


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 9)[None]).logits


def test_a_whole_model(tiny_model_path):
    model = load_policy(tiny_model_path, "cpu")
    assert not model.training and not is_adapter(tiny_model_path)
    expected = AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
    assert torch.equal(logits(model), logits(expected))
    for dtype in ("bfloat16", torch.bfloat16):
        assert load_policy(tiny_model_path, "cpu", dtype=dtype).dtype == torch.bfloat16
    free_memory()


def test_an_adapter_is_put_on_its_base_model(adapter, tiny_model_path):
    path, expected = adapter
    assert is_adapter(path) and base_of(path) == tiny_model_path
    model = load_policy(path, "cpu", dtype="float32")
    assert isinstance(model, PeftModel) and not model.training
    torch.testing.assert_close(logits(model), expected)
    assert not torch.allclose(logits(load_policy(tiny_model_path, "cpu")), expected)
    assert load_tokenizer(path).get_vocab() == load_tokenizer(tiny_model_path).get_vocab()


def test_an_adapter_names_the_revision_of_its_base(adapter, monkeypatch):
    path, _ = adapter
    file = Path(path) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": "v2"}))
    asked, load = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda name, **kw: asked.append(kw.get("revision")) or load(name, **kw),
    )
    load_policy(path, "cpu")
    load_policy(path, "cpu", revision="v3")
    assert asked == ["v2", "v3"]


def test_an_adapter_of_no_model(adapter):
    path, _ = adapter
    file = Path(path) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match=r"be loaded: the adapter .* has no base_model_name_or_path"):
        load_policy(path, "cpu")


def test_what_cannot_be_loaded_is_named(tmp_path, tiny_model_path):
    for load in (load_policy, load_tokenizer):
        with pytest.raises(ValueError, match=r"You set a model to '.*nowhere', but there is no such folder"):
            load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="torch does not know it"):
        load_policy(tiny_model_path, "gpu9")


def test_every_process_takes_its_own_accelerator(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device(None) == torch.device("cuda", 3) and chosen == [3]
    assert pick_device("cpu") == torch.device("cpu") and chosen == [3]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert pick_device(None) == torch.device("cpu")
