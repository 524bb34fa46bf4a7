"""Two policies as one: what its scores are, and that it is drawn from like any other."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from trl_rsa.sampling.contrast import Contrast
from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog ran on the hill", "blue", "the dog sat"]


@pytest.fixture(scope="module")
def models(tiny_model_path, save_tiny_llama):
    """A policy, and a safer one that has another number of layers."""
    paths = tiny_model_path, save_tiny_llama(seed=3, num_hidden_layers=3)
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in paths]


def drawn(model, tokenizer, **settings):
    sampling = Sampling(**{"draws": 2, "max_new_tokens": 10} | settings)
    batches = generate(model, tokenizer, PROMPTS, sampling, batch_size=3)
    return {(r.prompt, r.draw): r.token_ids for batch in batches for r in batch}


def test_at_strength_0_it_is_the_policy(models, tiny_tokenizer):
    assert drawn(Contrast(*models, 0.0), tiny_tokenizer) == drawn(models[0], tiny_tokenizer)


@torch.no_grad()
def test_its_scores_are_moved_along_the_difference(models, tiny_tokenizer):
    """Greedy, token by token, against both policies without any cache; the rows change places on the way."""
    found = drawn(Contrast(*models, 1.5), tiny_tokenizer, temperature=0, draws=1)
    assert found != drawn(models[0], tiny_tokenizer, temperature=0, draws=1)
    for (i, _), ids in found.items():
        row = encode_prompt(tiny_tokenizer, PROMPTS[i])
        for token in ids:
            policy, safer = (model(torch.tensor([row])).logits[0, -1] for model in models)
            assert int((policy + 1.5 * (policy - safer)).argmax()) == token
            row.append(token)
