"""vLLM, in its absence: what is asked of it, as its documentation has it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from trl_rsa.evaluation.responses import sample_responses
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


def test_vllm_is_missing(tiny_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="vLLM is not installed"):
        generate("folder", tiny_tokenizer, ["the cat"], Sampling(engine="vllm"))


class Made(list):
    """The engines that are made, with the requests that they get."""

    def answer(self, parameters):
        return (6,) * parameters.max_tokens, "length"


@pytest.fixture
def engines(monkeypatch):
    made = Made()
    answer = lambda parameters: made.answer(parameters)  # noqa: E731

    class LLM:
        def __init__(self, **arguments):
            self.arguments, self.requests, self.parameters = arguments, [], []
            made.append(self)

        def generate(self, prompts, sampling_params, use_tqdm, **request):
            self.requests.append(request)
            self.parameters += sampling_params
            answers = [answer(p) for _, p in zip(prompts, sampling_params, strict=True)]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text="<eos>", token_ids=ids, finish_reason=reason)])
                for ids, reason in answers
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
        pairs = [(prompts[r.prompt], r.draw) for batch in batches for r in batch]
        return dict(zip(pairs, [p.seed for p in engines[-1].parameters], strict=True))

    several = run(["the cat", "blue"], 3)
    assert len(set(several.values())) == 4 and all(seed >= 0 for seed in several.values())
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


def drawn(path, tokenizer, **options):
    sampling = Sampling(draws=2, engine="vllm", max_new_tokens=8)
    batches = generate(path, tokenizer, ["the cat"], sampling, batch_size=1, model_options=options)
    return [r for batch in batches for r in batch]


def changed(folder, change):
    path = f"{folder}/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | change, file)


def test_the_ends_of_the_folder_are_sent(save_tiny_llama, tiny_tokenizer, engines):
    """Of a chat model the generation config alone names the token that ends a turn."""
    folder = save_tiny_llama()
    drawn(folder, tiny_tokenizer)
    GenerationConfig(eos_token_id=[1, 9]).save_pretrained(folder)
    drawn(folder, tiny_tokenizer)
    end = tiny_tokenizer.eos_token_id
    assert [engine.parameters[0].stop_token_ids for engine in engines] == [[end], sorted({end, 1, 9})]


def test_tokens_are_decoded_here(tiny_model_path, tiny_tokenizer, engines):
    """vLLM's own text may hold the end; an end that is passed over is one all the same."""
    end = tiny_tokenizer.eos_token_id
    for ids, reason in (((6, 5, end), "stop"), ((6, 5, end, 7), "length")):
        engines.answer = lambda parameters, one=(ids, reason): one
        response = drawn(tiny_model_path, tiny_tokenizer)[0]
        assert (response.text, response.token_ids, response.finished) == ("dog cat", [6, 5, end], True)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (((6, 5), "length"), "max_new_tokens=8, but vLLM cut a response after 2 tokens"),
        (((6, 5), "abort"), "vLLM ended a response for the reason 'abort'"),
    ],
)
def test_half_a_response_is_none(tiny_model_path, tiny_tokenizer, engines, answer, sentence):
    engines.answer = lambda parameters: answer
    with pytest.raises(ValueError, match=sentence):
        drawn(tiny_model_path, tiny_tokenizer)


def test_room_is_that_of_the_folder(tiny_model_path, tiny_tokenizer, engines):
    with pytest.raises(ValueError, match="You set max_new_tokens=64, but this model takes 64 tokens in all"):
        generate(tiny_model_path, tiny_tokenizer, ["the cat"], Sampling(engine="vllm", max_new_tokens=64))


def test_how_it_is_loaded(adapter, tiny_model_path, tiny_tokenizer, engines):
    drawn(tiny_model_path, tiny_tokenizer, dtype="bfloat16", trust_remote_code=False, attn_implementation="sdpa")
    folder = adapter()
    changed(folder, {"revision": "v2"})
    drawn(folder, tiny_tokenizer)
    drawn(folder, tiny_tokenizer, revision="v3")
    arguments = [engine.arguments for engine in engines]
    assert arguments[0] == {"model": tiny_model_path, "dtype": "bfloat16"}
    assert [one["revision"] for one in arguments[1:]] == ["v2", "v3"]
    with pytest.raises(ValueError, match="You set subfolder for a model with engine='vllm', but vLLM does"):
        drawn(tiny_model_path, tiny_tokenizer, subfolder="policy")
    with pytest.raises(ValueError, match=r"You set dtype with a vllm.LLM, but that is loaded already"):
        drawn(engines[0], tiny_tokenizer, dtype="bfloat16")


def test_the_dtype_of_an_evaluation(tiny_model_path, engines, tmp_path):
    rows, sampling = [{"prompt": "the cat"}], Sampling(engine="vllm", max_new_tokens=8)
    sample_responses(tmp_path / "responses.jsonl", "m", tiny_model_path, rows, sampling, dtype="bfloat16")
    assert engines[0].arguments == {"model": tiny_model_path, "dtype": "bfloat16"}


def test_an_adapter_on_the_hub_is_fetched(adapter, tiny_tokenizer, engines, monkeypatch):
    folder = adapter()
    monkeypatch.setattr("transformers.utils.find_adapter_config_file", lambda name: f"{folder}/adapter_config.json")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: folder)
    drawn("me/adapter", tiny_tokenizer)
    assert engines[0].requests[0]["lora_request"].path == folder


def test_an_adapter_goes_on_top_of_its_base(adapter, tiny_model_path, tiny_tokenizer, engines):
    """The ranks of modules may differ, if their scaling α/r does not."""
    folder = adapter(rank_pattern={"v_proj": 12}, alpha_pattern={"v_proj": 24})
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
        ({"use_dora": True}, "it has use_dora=true, and vLLM does not load that"),
        ({"modules_to_save": ["lm_head"]}, "it has modules_to_save"),
        ({"bias": "all"}, 'it has bias="all"'),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"a_field_of_next_year": {"x": 1}}, "it has a_field_of_next_year"),
        ({"init_lora_weights": "pissa_niter_4"}, "its init_lora_weights, 'pissa_niter_4', changes the weights of the"),
        ({"init_lora_weights": "olora"}, "its init_lora_weights, 'olora'"),
        ({"rank_pattern": {"v_proj": 12}}, "its rank_pattern and alpha_pattern give modules a scaling other than"),
        ({"alpha_pattern": {"v_proj": 4}}, "its rank_pattern and alpha_pattern give modules a scaling other than"),
        # α/r is the same, but not α/√r.
        ({"use_rslora": True, "rank_pattern": {"q": 8}, "alpha_pattern": {"q": 16}}, "a scaling other than that of r"),
        ({"base_model_name_or_path": None}, "it does not say which model it belongs to"),
        ({"peft_type": "IA3"}, "it is of the kind IA3, not LORA"),
        ({"r": 513}, "its rank is 513 and vLLM takes ranks up to 512"),
    ],
)
def test_what_vllm_would_leave_out_is_refused(adapter, tiny_tokenizer, engines, change, sentence):
    folder = adapter()
    changed(folder, change)
    with pytest.raises(ValueError, match=sentence):
        drawn(folder, tiny_tokenizer)
    assert not engines
