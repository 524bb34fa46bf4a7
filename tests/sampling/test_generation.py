"""Sampling: a draw depends on the seed, the prompt and its number alone, and has the model's law."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig

from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate, room_for_prompts
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog ran on the hill", "blue", "the dog sat", "was the cat in the hill"]


@pytest.fixture(scope="module")
def model(tiny_model_path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_path)


@pytest.fixture(scope="module")
def draw(model, tiny_tokenizer):
    """`draw(prompts, **settings)`: {(prompt, draw): token ids}."""

    def run(prompts=PROMPTS, batch_size=4, skip=(), **settings):
        sampling = Sampling(**{"draws": 3, "max_new_tokens": 12} | settings)
        batches = generate(model, tiny_tokenizer, prompts, sampling, batch_size=batch_size, skip=skip)
        return {(prompts[r.prompt], r.draw): r for batch in batches for r in batch}

    return run


@pytest.fixture(scope="module")
def drawn(draw):
    return draw()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_nothing(draw, drawn, batch_size):
    again = draw(batch_size=batch_size)
    assert {k: r.token_ids for k, r in again.items()} == {k: r.token_ids for k, r in drawn.items()}


def test_other_prompts_and_order_change_nothing(draw, drawn):
    again = draw(prompts=[PROMPTS[3], PROMPTS[0]], draws=2)
    assert len(again) == 4
    assert all(response.token_ids == drawn[key].token_ids for key, response in again.items())


def test_skipped_draws_leave_the_others(draw, drawn):
    again = draw(skip={(0, 1), (4, 0), (4, 1), (4, 2)})
    assert set(drawn) - set(again) == {(PROMPTS[0], 1), *((PROMPTS[4], i) for i in range(3))}
    assert all(response.token_ids == drawn[key].token_ids for key, response in again.items())


def test_seeds_and_draws_differ(draw, drawn):
    other = draw(seed=1)
    assert sum(other[key].token_ids == drawn[key].token_ids for key in drawn) <= 1
    assert len({tuple(drawn[PROMPTS[1], i].token_ids) for i in range(3)}) == 3


def test_global_random_state_is_left_alone(draw, drawn):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert draw()[PROMPTS[0], 0].token_ids == drawn[PROMPTS[0], 0].token_ids
    assert torch.equal(torch.get_rng_state(), before)


def test_first_token_has_the_models_law(model, tiny_tokenizer):
    """2,000 draws of one token against the softmax; a share's standard error is at most .0112."""
    ids = torch.tensor([encode_prompt(tiny_tokenizer, "the cat")])
    with torch.no_grad():
        law = model(ids).logits[0, -1].softmax(-1)
    batches = generate(model, tiny_tokenizer, ["the cat"], Sampling(draws=2000, max_new_tokens=1), batch_size=500)
    tokens = torch.tensor([r.token_ids[0] for batch in batches for r in batch])
    assert (tokens.bincount(minlength=len(law)) / 2000 - law).abs().max() < 0.045


def test_finished_and_cut(drawn, tiny_tokenizer):
    """A response ends with its only end token, or has all 12 tokens and none."""
    end = tiny_tokenizer.eos_token_id
    finished = [r for r in drawn.values() if r.finished]
    cut = [r for r in drawn.values() if not r.finished]
    assert finished and cut
    assert all(r.token_ids.count(end) == 1 and r.token_ids[-1] == end and "<eos>" not in r.text for r in finished)
    assert all(len(r.token_ids) == 12 and end not in r.token_ids for r in cut)
    assert all(tiny_tokenizer.decode(r.token_ids, skip_special_tokens=True) == r.text for r in drawn.values())


def test_greedy(model, tiny_tokenizer, draw):
    greedy = draw(temperature=0, draws=1)
    ids = torch.tensor([encode_prompt(tiny_tokenizer, PROMPTS[1])])
    expected = []
    with torch.no_grad():
        while len(expected) < 12 and tiny_tokenizer.eos_token_id not in expected:
            expected.append(
                model(torch.cat([ids, torch.tensor([expected], dtype=torch.long)], -1)).logits[0, -1].argmax().item()
            )
    assert greedy[PROMPTS[1], 0].token_ids == expected


def test_generation_config_of_the_model_changes_no_law(model, draw, drawn, monkeypatch):
    for name, value in {"repetition_penalty": 9.0, "temperature": 0.1, "do_sample": True, "top_k": 1}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    monkeypatch.setattr(model.config, "use_cache", False)
    again = draw()
    assert all(response.token_ids == drawn[key].token_ids for key, response in again.items())


def test_further_end_tokens_of_the_model(model, tiny_tokenizer, draw, monkeypatch):
    """Chat models end their turn with a token of their own, which only the generation config names."""
    turn_end = tiny_tokenizer.convert_tokens_to_ids("dog")
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tiny_tokenizer.eos_token_id, turn_end])
    assert any(r.token_ids[-1] == turn_end and r.finished for r in draw().values())
    assert not any(turn_end in r.token_ids[:-1] for r in draw().values())


def test_training_mode_is_restored(model, tiny_tokenizer):
    model.train()
    list(generate(model, tiny_tokenizer, ["the cat"], Sampling(max_new_tokens=2)))
    assert model.training
    model.eval()


# Prompts as tokens


def test_templates(tiny_tokenizer):
    def text(prompt, template):
        return tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, prompt, template))

    assert text("the cat", "auto") == text("the cat", "chat") == "user the cat <eos> assistant"
    assert text("the cat", "none") == "the cat"
    turns = [{"role": r, "content": c} for r, c in (("user", "the cat"), ("assistant", "sat"), ("user", "the dog"))]
    assert text(turns, "chat") == "user the cat <eos> assistant sat <eos> user the dog <eos> assistant"


@pytest.fixture
def ending_tokenizer(tiny_tokenizer):
    """One that puts `<eos>` behind every text."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    assert tokenizer("the cat")["input_ids"][-1] == tokenizer.eos_token_id == 1
    return tokenizer


@pytest.mark.parametrize("template", ["none", "safe-rlhf"])
def test_a_prompt_goes_on(ending_tokenizer, tiny_tokenizer, template):
    """An end that the tokenizer adds is left out; one that the text has is not."""
    for prompt in ("the cat", "the cat <eos>"):
        expected = encode_prompt(tiny_tokenizer, prompt, template)
        assert encode_prompt(ending_tokenizer, prompt, template) == expected
    assert encode_prompt(ending_tokenizer, "the cat <eos>", "none")[-1] == 1


def test_an_empty_prompt_is_none(model, ending_tokenizer):
    with pytest.raises(ValueError, match="You gave prompt 0, but it has no tokens"):
        generate(model, ending_tokenizer, [""], Sampling(max_new_tokens=8, template="none"))


def test_turns_that_the_chat_template_does_not_take(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    turns = [{"role": r, "content": c} for r, c in (("system", "be kind"), ("user", "the cat"))]
    sentence = r"of the turns system, user, but .* does not take them \(System role not supported\). Remove the prompt"
    with pytest.raises(ValueError, match=sentence):
        encode_prompt(tokenizer, turns)


def test_safe_rlhf_template():
    seen = []
    tokenizer = SimpleNamespace(eos_token="</s>", chat_template=None)
    tokenizer = type(
        "T", (), {"__call__": lambda self, text: seen.append(text) or {"input_ids": [1]}, **vars(tokenizer)}
    )()
    turns = [{"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "hello"), ("user", "bye"))]
    for prompt in ("hi", turns, "BEGINNING OF CONVERSATION: USER: x ASSISTANT:"):
        encode_prompt(tokenizer, prompt, "safe-rlhf")
    assert seen == [
        "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:",
        "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:hello</s>USER: bye ASSISTANT:",
        "BEGINNING OF CONVERSATION: USER: x ASSISTANT:",
    ]
    with pytest.raises(ValueError, match="'safe-rlhf', but in a prompt turns do not alternate"):
        encode_prompt(tokenizer, [{"role": "system", "content": "be kind"}, *turns], "safe-rlhf")


# Errors


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"draws": 0}, "You set draws=0"),
        ({"draws": True}, "You set draws=True"),
        ({"max_new_tokens": 0}, "You set max_new_tokens=0"),
        ({"top_k": -1}, "You set top_k=-1"),
        ({"temperature": -1.0}, "You set temperature=-1.0"),
        ({"temperature": math.nan}, "You set temperature=nan"),
        ({"top_p": 0.0}, "You set top_p=0.0"),
        ({"temperature": 0, "draws": 2}, "greedy decoding has one answer only"),
        ({"engine": "tgi"}, "You set engine='tgi'"),
        ({"engine": "server"}, "server_url=None, but the server has an address"),
        ({"engine": "server", "server_url": "localhost:8000"}, "server_url='localhost:8000', but"),
        ({"engine": "server", "server_url": "http://"}, "You set server_url to 'http://', but it is no http"),
        (
            {"engine": "server", "server_url": "http://me:secret@host"},
            r"^You set server_url to one with a user name, password .* name that with server_key_env\.$",
        ),
        ({"server_url": "http://localhost:8000"}, "only the engine 'server' asks a server"),
        ({"engine": "vllm", "server_model": "m"}, "You set server_model='m' with engine='vllm'"),
    ],
)
def test_settings_are_checked(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**settings)


@pytest.mark.parametrize(
    ("prompts", "settings", "sentence"),
    [
        (["the cat", "the " * 70], {}, r"prompt 1 has 73 \(1 of 2 are too long\)"),
        (["the cat"], {"max_new_tokens": 63}, "this model takes 1 tokens beside max_new_tokens"),
        (["the cat"], {"max_new_tokens": 64}, "You set max_new_tokens=64, but this model takes 64 tokens"),
        (["the cat"], {"template": "alpaca"}, "You set template='alpaca'"),
        ([""], {"template": "none"}, "You gave prompt 0, but it has no tokens"),
        ([[{"role": "user", "content": "hi"}]], {"template": "none"}, "a prompt of several messages"),
    ],
)
def test_prompts_are_checked_before_anything_is_drawn(model, tiny_tokenizer, prompts, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(
            model,
            tiny_tokenizer,
            prompts,
            Sampling(**settings | {"max_new_tokens": settings.get("max_new_tokens", 8)}),
        )


def test_an_encoder_decoder_is_refused(tiny_tokenizer):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": len(tiny_tokenizer), "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match="a model of the kind t5, but it is an encoder-decoder"):
        generate(T5ForConditionalGeneration(T5Config(**sizes)), tiny_tokenizer, ["the cat"])


def test_batch_size_is_checked(model, tiny_tokenizer):
    with pytest.raises(ValueError, match="You set batch_size=0"):
        generate(model, tiny_tokenizer, ["the"], batch_size=0)


def test_chat_template_is_needed(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        encode_prompt(tiny_tokenizer, "hi", "chat")


def test_room_of_a_model_whose_positions_are_stretched(tiny_model_path):
    config = AutoConfig.from_pretrained(tiny_model_path)
    assert room_for_prompts(config, 8) == config.max_position_embeddings - 8
    for kind, factor in (("yarn", 4), ("llama3", 1)):
        config.rope_parameters = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
        assert room_for_prompts(config, 8) == factor * config.max_position_embeddings - 8, kind
