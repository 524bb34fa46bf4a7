"""vLLM, in its absence: what is asked of it, as its documentation has it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


def test_vllm_is_missing(tiny_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="vLLM is not installed"):
        generate("folder", tiny_tokenizer, ["the cat"], Sampling(engine="vllm"))


@pytest.fixture
def engines(monkeypatch):
    """The engines that are made, with the requests that they get."""
    made = []

    class LLM:
        def __init__(self, **arguments):
            self.arguments, self.requests = arguments, []
            made.append(self)

        def generate(self, prompts, sampling_params, use_tqdm, **request):
            self.requests.append(request)
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=str(p.seed), token_ids=(1, 2), finish_reason="length")])
                for _, p in zip(prompts, sampling_params, strict=True)
            ]

    request = ModuleType("vllm.lora.request")
    request.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    parameters = lambda **kw: SimpleNamespace(**kw)  # noqa: E731
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=parameters))
    monkeypatch.setitem(sys.modules, "vllm.lora", ModuleType("vllm.lora"))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    return made


def test_a_seed_per_draw(tiny_tokenizer, engines):
    def run(prompts, batch_size):
        sampling = Sampling(draws=2, engine="vllm")
        batches = generate("folder", tiny_tokenizer, prompts, sampling, batch_size=batch_size)
        return {(prompts[r.prompt], r.draw): r.text for batch in batches for r in batch}

    several = run(["the cat", "blue"], 3)
    assert len(set(several.values())) == 4 and all(int(seed) >= 0 for seed in several.values())
    assert run(["blue"], 1).items() <= several.items()
    assert [engine.arguments for engine in engines] == [{"model": "folder"}] * 2
    assert engines[0].requests == [{}, {}]


def test_no_model_in_memory(tiny_model_path, tiny_tokenizer, engines):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    with pytest.raises(ValueError, match="vLLM loads models itself"):
        generate(model, tiny_tokenizer, ["the cat"], Sampling(engine="vllm", max_new_tokens=8))


@pytest.fixture
def adapter(tiny_model_path, tmp_path):
    """`adapter(**config)`: the folder of an adapter."""

    def save(**config):
        base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
        torch.manual_seed(0)
        settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        get_peft_model(base, LoraConfig(**settings | config)).save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter")

    return save


def drawn(path, tokenizer):
    sampling = Sampling(draws=2, engine="vllm", max_new_tokens=8)
    return [r for batch in generate(path, tokenizer, ["the cat"], sampling, batch_size=1) for r in batch]


def test_an_adapter_goes_on_top_of_its_base(adapter, tiny_model_path, tiny_tokenizer, engines):
    folder = adapter(rank_pattern={"v_proj": 12})
    assert len(drawn(folder, tiny_tokenizer)) == 2
    assert engines[0].arguments == {"model": tiny_model_path, "enable_lora": True, "max_lora_rank": 16}
    requests = [request["lora_request"] for request in engines[0].requests]
    assert [(request.number, request.path) for request in requests] == [(1, folder)] * 2


def test_other_weights_have_another_name(adapter, tiny_tokenizer, engines):
    """vLLM keeps adapters by name."""
    folder = adapter()
    drawn(folder, tiny_tokenizer)
    drawn(folder, tiny_tokenizer)
    adapter(init_lora_weights=False)
    drawn(folder, tiny_tokenizer)
    names = [engine.requests[0]["lora_request"].name for engine in engines]
    assert names[0] == names[1] != names[2] and names[0].startswith("trl-rsa-")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"use_dora": True}, "it has use_dora, and vLLM does not load that"),
        ({"modules_to_save": ["lm_head"]}, "it has modules_to_save"),
        ({"bias": "all"}, "it trains biases"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"peft_type": "IA3"}, "it is of the kind IA3, not LORA"),
        ({"r": 513}, "its rank is 513 and vLLM takes ranks up to 512"),
    ],
)
def test_what_vllm_would_leave_out_is_refused(adapter, tiny_tokenizer, engines, change, sentence):
    folder = adapter()
    path = f"{folder}/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | change, file)
    with pytest.raises(ValueError, match=sentence):
        drawn(folder, tiny_tokenizer)
    assert not engines
