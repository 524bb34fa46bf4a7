"""Responses that are made to begin in some way: which tokens the policy sees, and with which noise it goes on."""

import pytest
from transformers import AutoModelForCausalLM

from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog ran on the hill", "blue"]


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return AutoModelForCausalLM.from_pretrained(tiny_model_path)


def drawn(model, tokenizer, beginnings=None, batch_size=4, prompts=PROMPTS, **settings):
    sampling = Sampling(**{"draws": 2, "max_new_tokens": 12} | settings)
    batches = generate(model, tokenizer, prompts, sampling, batch_size=batch_size, beginnings=beginnings)
    return {(r.prompt, r.draw): r for batch in batches for r in batch}


@pytest.fixture(params=["own loop", "model.generate"])
def either_way(request, monkeypatch):
    if request.param == "model.generate":
        monkeypatch.setattr("trl_rsa.sampling.slots.has_plain_cache", lambda model: False)


def test_a_response_made_to_begin_as_it_began_ends_as_it_did(model, tiny_tokenizer, either_way):
    """Its noise is that of the places after the beginning, and the policy sees what it saw."""
    free = drawn(model, tiny_tokenizer, draws=1)
    n = [min(k, len(free[i, 0].token_ids) - 1) for i, k in enumerate((3, 0, 5))]
    forced = drawn(
        model,
        tiny_tokenizer,
        [free[i, 0].token_ids[:k] for i, k in enumerate(n)],
        draws=1,
        # As far as the free one went.
        max_new_tokens=12,
    )
    for i, k in enumerate(n):
        one, length = forced[i, 0], len(free[i, 0].token_ids)
        assert one.n_forced == k and one.token_ids[:length] == free[i, 0].token_ids
    assert max(n) >= 3, "the case should force something"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_what_is_forced_is_seen_and_said(model, tiny_tokenizer, batch_size, either_way):
    beginnings = [tiny_tokenizer.convert_tokens_to_ids(text.split()) for text in ("red dog sat", "on", "")]
    found = drawn(model, tiny_tokenizer, beginnings, batch_size)
    for (i, _), one in found.items():
        assert one.token_ids[: one.n_forced] == beginnings[i] and one.n_forced == len(beginnings[i])
        assert len(one.token_ids) <= one.n_forced + 12
        assert one.text == tiny_tokenizer.decode(one.token_ids, skip_special_tokens=True)
        # What follows is the law after prompt and beginning: the greedy one is easily compared.
    greedy = drawn(model, tiny_tokenizer, beginnings, batch_size, draws=1, temperature=0)
    for i, prompt in enumerate(PROMPTS):
        tokenizer_prompt = [*encode_prompt(tiny_tokenizer, prompt), *beginnings[i]]
        import torch

        with torch.no_grad():
            first = int(model(torch.tensor([tokenizer_prompt])).logits[0, -1].argmax())
        assert greedy[i, 0].token_ids[greedy[i, 0].n_forced] == first


def test_the_room_of_a_model_counts_the_beginning(model, tiny_tokenizer):
    with pytest.raises(ValueError, match="too little room for an answer"):
        drawn(model, tiny_tokenizer, [[5] * 60, [5], [5]])


def test_other_engines_get_the_beginning_after_the_prompt_and_noise_of_its_own(tiny_tokenizer, monkeypatch):
    seen = {}

    def engine(model, tokenizer, prompts, rows, batches, sampling, ends, loading):
        seen.update(prompts=prompts, rows=rows)
        return iter(())

    monkeypatch.setattr("trl_rsa.sampling.vllm_engine.generate_with_vllm", engine)
    beginnings = [[5, 6], [7], []]
    list(generate("folder", tiny_tokenizer, PROMPTS, Sampling(engine="vllm"), beginnings=beginnings))
    rows = [[*encode_prompt(tiny_tokenizer, p), *b] for p, b in zip(PROMPTS, beginnings, strict=True)]
    assert seen["rows"] == rows and seen["prompts"] == [[p, b] for p, b in zip(PROMPTS, beginnings, strict=True)]
