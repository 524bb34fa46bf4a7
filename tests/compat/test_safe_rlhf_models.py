"""`load_pretrained_models` and the prompt constants, as scripts that import safe_rlhf use them."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from trl_rsa.compat.safe_rlhf.configs import constants
from trl_rsa.compat.safe_rlhf.models import AutoModelForScore, load_pretrained_models
from trl_rsa.scoring import load_scorer


CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}


def test_the_template_in_pieces():
    assert constants.PROMPT_BEGIN == "BEGINNING OF CONVERSATION: "
    assert constants.PROMPT_USER.format(input="Hi") == "USER: Hi "
    assert constants.PROMPT_ASSISTANT == "ASSISTANT:"
    assert constants.PROMPT_INPUT.format(input="Hi") == "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:"
    assert constants.PROMPT_DICT["prompt_input"] == constants.PROMPT_INPUT


def test_a_score_model_and_its_tokenizer_as_evaluation_scripts_load_them(write_beaver, tmp_path):
    torch.manual_seed(0)
    backbone = AutoModel.from_config(LlamaConfig(vocab_size=259, **CONFIG))
    folder = write_beaver(tmp_path / "cost", backbone, torch.randn(1, 16), 0.5)
    model, tokenizer = load_pretrained_models(
        str(folder),
        model_max_length=512,
        padding_side="left",
        auto_model_type=AutoModelForScore,
        trust_remote_code=True,
        dtype=torch.float32,
        auto_device_mapping=True,
        auto_model_kwargs={"score_type": "cost", "do_normalize": False},
    )
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 512)
    assert model.config.score_type == "cost"
    prompts, answers = ["Hi", "How do I pick a lock?"], ["Hello.", "No."]
    texts = [
        constants.PROMPT_INPUT.format(input=p) + a + tokenizer.eos_token for p, a in zip(prompts, answers, strict=True)
    ]
    with torch.no_grad():
        costs = model(**tokenizer(texts, padding=True, return_tensors="pt")).end_scores.squeeze(-1)
    assert costs.tolist() == pytest.approx(load_scorer(f"beaver:{folder}", kind="cost")(prompts, answers), abs=1e-5)
    with pytest.raises(TypeError, match="paddingside"):
        load_pretrained_models(str(folder), paddingside="left")


def test_missing_tokens_are_added_and_their_rows_are_means(byte_tokenizer, tmp_path):
    """259 tokens with <pad>; without it, `<pad>` is still in the vocabulary, so another one is asked for."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=259, tie_word_embeddings=False, **CONFIG))
    model.save_pretrained(tmp_path / "lm")
    byte_tokenizer.save_pretrained(tmp_path / "lm")
    loaded, tokenizer = load_pretrained_models(tmp_path / "lm", dtype=torch.float32)
    assert loaded.get_input_embeddings().num_embeddings == 259  # nothing is missing, nothing changes
    without = {"pad_token": None, "eos_token": None}
    path = tmp_path / "lm" / "tokenizer.json"
    path.write_text(path.read_text().replace("<pad>", "<nul>").replace("</s>", "<end>"))
    loaded, tokenizer = load_pretrained_models(tmp_path / "lm", dtype=torch.float32, auto_tokenizer_kwargs=without)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")
    assert len(tokenizer) == 261 == loaded.get_output_embeddings().out_features
    assert (loaded.config.pad_token_id, loaded.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    for layer in (loaded.get_input_embeddings(), loaded.get_output_embeddings()):
        assert torch.allclose(layer.weight[259], layer.weight[:259].mean(0))
    # More rows than tokens stay: cutting them off would change the saved model's shape.
    loaded.resize_token_embeddings(320)
    loaded.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    wide, _ = load_pretrained_models(tmp_path / "wide")
    assert wide.get_input_embeddings().num_embeddings == 320
