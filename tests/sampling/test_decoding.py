"""Our decoding loop against `model.generate`, token for token; what it saves; and when it is not used."""

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList

from trl_rsa.sampling import generation
from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.noise import SeededSampling, draw_key
from trl_rsa.sampling.response import Sampling
from trl_rsa.sampling.slots import has_plain_cache


PROMPTS = [
    "the cat",
    "a big red dog ran on the hill",
    "blue",
    "the dog sat",
    "was the cat in the hill",
    "a mat is red",
]


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return AutoModelForCausalLM.from_pretrained(tiny_model_path)


def drawn(model, tokenizer, prompts=PROMPTS, batch_size=4, **settings):
    sampling = Sampling(**{"draws": 3, "max_new_tokens": 12} | settings)
    batches = generate(model, tokenizer, prompts, sampling, batch_size=batch_size)
    return {(prompts[r.prompt], r.draw): r.token_ids for batch in batches for r in batch}


@cache
def of_transformers(model, tokenizer, prompt, draw, max_new_tokens=12, seed=0, **settings):
    """`model.generate` on the prompt alone, with the noise of the draw."""
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    processors = []
    if settings.get("temperature") != 0:
        keys = torch.tensor([draw_key(seed, prompt, draw)])
        processors = [SeededSampling(keys, ids.shape[1], **{"temperature": 1.0} | settings)]
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        logits_processor=LogitsProcessorList(processors),
    )
    return output[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def expected(model, tiny_tokenizer):
    """`expected(prompt, draw, **settings)`: what transformers generates, once for all batch sizes."""
    known = {}

    def ids(prompt, draw, **settings):
        key = (str(prompt), draw, str(settings))
        if key not in known:
            known[key] = of_transformers(model, tiny_tokenizer, prompt, draw, **settings)
        return known[key]

    return ids


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0, "draws": 1}, {"temperature": 0.7, "top_p": 0.8, "top_k": 9, "seed": 5}],
    ids=str,
)
def test_token_for_token(model, tiny_tokenizer, expected, batch_size, settings):
    found = drawn(model, tiny_tokenizer, batch_size=batch_size, **settings)
    rest = {name: value for name, value in settings.items() if name != "draws"}
    assert len(found) == 6 * settings.get("draws", 3)
    for (prompt, draw), ids in found.items():
        assert ids == expected(prompt, draw, **rest)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gpt_neox", "mistral"])
def test_other_models_with_a_plain_cache(family, tiny_tokenizer):
    """Biases, norms, partial and full rotation."""
    from transformers import AutoConfig

    changes = {"num_key_value_heads": 2} if family != "gpt_neox" else {}
    changes |= {"sliding_window": None} if family == "mistral" else {}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        **changes,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert has_plain_cache(model)
    found = drawn(model, tiny_tokenizer, prompts=PROMPTS[:4], batch_size=2, draws=3, max_new_tokens=40)
    lengths = set(map(len, found.values()))
    assert len(lengths) > 1 and max(lengths) > 20
    for (prompt, draw), ids in found.items():
        assert ids == of_transformers(model, tiny_tokenizer, prompt, draw, max_new_tokens=40)


class _Calls:
    """Shapes of the forwards of a model."""

    def __init__(self, model, monkeypatch):
        self.shapes: list[tuple[int, int]] = []
        real = model.forward

        def forward(*args, **kwargs):
            self.shapes.append(tuple(kwargs["input_ids"].shape))
            return real(*args, **kwargs)

        monkeypatch.setattr(model, "forward", forward)


def test_a_prompt_is_read_once_and_no_row_waits(model, tiny_tokenizer, monkeypatch):
    """8 draws of 3 prompts in 4 rows: three prompts are read. `generate` would take 12 steps for each of six batches;
    here rows are refilled, so that the steps are about a quarter of the tokens."""
    calls = _Calls(model, monkeypatch)
    found = drawn(model, tiny_tokenizer, prompts=PROMPTS[:3], draws=8)
    read = [rows for rows, width in calls.shapes if width > 1]
    steps = [rows for rows, width in calls.shapes if width == 1]
    assert sum(read) == 3
    tokens = sum(map(len, found.values())) - len(found)  # the first token comes with reading
    assert tokens <= sum(steps) <= 1.15 * tokens + 4
    assert max(steps) == 4 and min(steps) < 4  # rows leave at the end


def test_a_prompt_with_all_its_draws_skipped_is_not_read(model, tiny_tokenizer, monkeypatch):
    calls = _Calls(model, monkeypatch)
    list(generate(model, tiny_tokenizer, PROMPTS[:2], Sampling(max_new_tokens=2), skip={(1, 0)}))
    assert [rows for rows, width in calls.shapes if width > 1] == [1]


def test_first_tokens_that_end_a_response(model, tiny_tokenizer, monkeypatch):
    """Every token but three is an end: most responses are done before their row has been filled."""
    monkeypatch.setattr(model.generation_config, "eos_token_id", list(range(1, len(tiny_tokenizer) - 3)))
    found = drawn(model, tiny_tokenizer, draws=20, batch_size=5)
    lengths = [len(ids) for ids in found.values()]
    assert len(found) == 120 and min(lengths) == 1 and max(lengths) > 1
    assert found == drawn(model, tiny_tokenizer, draws=20, batch_size=64)


def test_they_come_in_order_and_steadily(model, tiny_tokenizer):
    """The longest prompts first, draws in order, and never all at the end."""
    batches = list(generate(model, tiny_tokenizer, PROMPTS, Sampling(draws=8, max_new_tokens=12), batch_size=8))
    pairs = [(r.prompt, r.draw) for batch in batches for r in batch]
    lengths = [len(encode_prompt(tiny_tokenizer, PROMPTS[i])) for i, _ in pairs[::8]]
    assert lengths == sorted(lengths, reverse=True)
    assert pairs == [(i, draw) for i, _ in pairs[::8] for draw in range(8)]
    assert len(batches) >= 6 and all(len(batch) <= 8 for batch in batches)
    assert all(len(batch) >= 2 for batch in batches[:-1])


def test_a_generator_that_is_left_restores_the_model(model, tiny_tokenizer):
    model.train()
    batches = generate(model, tiny_tokenizer, PROMPTS, Sampling(draws=4, max_new_tokens=4), batch_size=2)
    next(batches)
    batches.close()
    assert model.training
    model.eval()


# Models that keep something else than the keys and values of all tokens


@pytest.mark.parametrize("family", ["mistral", "mamba", "bloom"])
def test_other_models_go_through_generate(family, tiny_tokenizer, monkeypatch):
    """A sliding window, a state-space model, and positions that are made from the mask."""
    from transformers import AutoConfig

    sizes = {"vocab_size": len(tiny_tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
    sizes |= {"bos_token_id": None, "eos_token_id": tiny_tokenizer.eos_token_id, "pad_token_id": 0}
    if family == "mistral":
        sizes |= {"sliding_window": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    if family == "bloom":
        sizes |= {"n_head": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    assert not has_plain_cache(model)
    real, batches = generation._generate_batch, []
    monkeypatch.setattr(generation, "_generate_batch", lambda *args: batches.append(args) or real(*args))
    found = drawn(model, tiny_tokenizer, prompts=PROMPTS[:2], batch_size=4)
    assert len(batches) == 2
    prompt = PROMPTS[0]
    assert len(batches) == 2
    prompt = PROMPTS[0]
    assert found[prompt, 1] == of_transformers(model, tiny_tokenizer, prompt, 1)


FILLED_IN = {
    "suppress_tokens": [5, 6, 7, 8],
    "bad_words_ids": [[9]],
    "forced_eos_token_id": 9,
    "exponential_decay_length_penalty": (1, 9.0),
    "sequence_bias": {(4,): 99.0},
    "max_time": 1e-9,
    "stop_strings": ["dog"],
    "num_return_sequences": 2,
    "min_length": 30,
    "penalty_alpha": 0.6,
}


def test_generate_fills_nothing_in(tiny_tokenizer):
    """From a generation config of the model's own, which it has again afterwards."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": len(tiny_tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**sizes, bos_token_id=None, eos_token_id=1, pad_token_id=0)).eval()
    found = drawn(model, tiny_tokenizer, prompts=PROMPTS[:2])
    own = model.generation_config
    for name, value in FILLED_IN.items():
        setattr(own, name, value)
    assert drawn(model, tiny_tokenizer, prompts=PROMPTS[:2]) == found
    assert model.generation_config is own and own.suppress_tokens == [5, 6, 7, 8]


def test_the_generation_config_comes_back_after_an_error(tiny_tokenizer, monkeypatch):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    model = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=4))
    own = model.generation_config
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drawn(model, tiny_tokenizer)
    assert model.generation_config is own
