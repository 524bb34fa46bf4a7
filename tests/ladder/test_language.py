"""What the responses of a ladder's models surprise its start by, and when that is said."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from trl_rsa.ladder.language import MOST, surprise_of, warning_of
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.under import Under
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.training.anchor import ModelSettings


MODELS = ModelSettings({"dtype": torch.float32}, None, True)


def record(prompt, token_ids, **more):
    return {"prompt": prompt, "token_ids": token_ids, **more}


def expected(model, encoder, rows):
    """From the logits, one response at a time; rows of prompt, forced and sampled tokens."""
    policy, values = AutoModelForCausalLM.from_pretrained(model).eval(), []
    for prompt, forced, sampled in rows:
        before = [*encoder.prompt(prompt), *forced]
        with torch.no_grad():
            laws = policy(torch.tensor([[*before, *sampled]])).logits[0].log_softmax(-1)
        values += [-laws[len(before) - 1 + i, token].item() for i, token in enumerate(sampled)]
    return sum(values) / len(values)


def test_the_mean_over_sampled_tokens_of_responses_that_are_drawn_as_usual(tiny_model_path):
    encoder = ConversationEncoder(load_tokenizer(tiny_model_path))
    usual = [record("the cat", [5, 6, 1]), record("a dog", []), record("a dog", [7, 8])]
    hot = [record("the cat", [9] * 5)]
    groups = [
        (PromptGroup(["the cat"], ("hot",), under=Under(temperature=1.6)), hot),
        (PromptGroup(["the cat", "a dog"], ("cost",)), usual),
    ]
    found = surprise_of(groups, tiny_model_path, MODELS, encoder, 2)
    assert found == pytest.approx(
        expected(tiny_model_path, encoder, [("the cat", [], [5, 6, 1]), ("a dog", [], [7, 8])])
    )
    assert surprise_of(groups[:1], tiny_model_path, MODELS, encoder, 2) == pytest.approx(
        expected(tiny_model_path, encoder, [("the cat", [], [9] * 5)])
    )
    forced = [(PromptGroup(["the cat"], ("cost",)), [record("the cat", [5, 6, 7], n_forced=2)])]
    assert surprise_of(forced, tiny_model_path, MODELS, encoder, 2) == pytest.approx(
        expected(tiny_model_path, encoder, [("the cat", [5, 6], [7])])
    )
    nothing = [(PromptGroup(["the cat"], ("cost",)), [record("the cat", [])])]
    assert surprise_of(nothing, tiny_model_path, MODELS, encoder, 2) is None


def test_no_more_responses_than_needed_are_read(tiny_model_path):
    encoder = ConversationEncoder(load_tokenizer(tiny_model_path))
    many = [record("the cat", [5])] * MOST + [record("the cat", [6] * 50)]
    found = surprise_of([(PromptGroup(["the cat"], ("cost",)), many)], tiny_model_path, MODELS, encoder, 64)
    assert found == pytest.approx(expected(tiny_model_path, encoder, [("the cat", [], [5])]), rel=1e-4)


@pytest.mark.parametrize(
    ("now", "start", "said"),
    [(2.2, 1.0, True), (1.9, 1.0, False), (0.2, 1.0, False), (None, 1.0, False), (9.0, None, False)],
)
def test_a_nat_more_than_the_start_s_own_is_said(now, start, said):
    warning = warning_of(now, start)
    assert (warning is not None) == said
    if warning:
        assert "2.20 nats per token, its own 1.00" in warning
