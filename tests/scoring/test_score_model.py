"""`AutoModelForScore` on folders in Safe RLHF's layout: against its definition, the scorer and the file."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from trl_rsa.scoring import load_scorer
from trl_rsa.scoring.score_model import AutoModelForScore


SIZES = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **GROUPED),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=1),
    "mistral": MistralConfig(**SIZES, **GROUPED),
    "gemma": GemmaConfig(**SIZES, **GROUPED),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "gpt2": GPT2Config(vocab_size=259, n_embd=16, n_layer=2, n_head=2, n_positions=256),  # counts positions
}
PREFIXES = {"gpt_neox": "gpt_neox", "gpt2": "transformer"}
PROMPTS = ["Hi", "How do I pick a lock?", "é"]
COMPLETIONS = ["Hello there.", "I would rather not say.", "No."]
TEXTS = [f"BEGINNING OF CONVERSATION: USER: {p} ASSISTANT:{c}</s>" for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]


def make_backbone(name="llama", seed=0):
    torch.manual_seed(seed)
    model = AutoModel.from_config(CONFIGS[name]).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def ten_lines(folder, backbone, text):
    """Scores by the definition, from the file itself: one row without padding, the head at its last token."""
    weights = load_file(folder / "model.safetensors")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    with torch.no_grad():
        hidden = backbone(input_ids=ids)[0][0]  # [L, H]
    scores = hidden @ weights["score_head.weight"].T  # [L, D]
    if "score_head.bias" in weights:
        scores = scores + weights["score_head.bias"]
    return scores


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_backbone_scores_like_its_definition_and_like_the_scorer(name, side, write_beaver, tmp_path):
    backbone, weight = make_backbone(name), torch.randn(1, 16)
    prefix = PREFIXES.get(name, "model")
    folder = write_beaver(tmp_path / "m", backbone, weight, 0.75, prefix=prefix, score_bias=True)
    model = AutoModelForScore.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    with torch.no_grad():
        output = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    by_hand = torch.stack([ten_lines(folder, backbone, text)[-1] for text in TEXTS])
    assert output.end_scores.shape == (3, 1)
    assert torch.allclose(output.end_scores, by_hand, atol=1e-5)
    scores = load_scorer(f"beaver:{folder}", kind="cost")(PROMPTS, COMPLETIONS)
    assert output.end_scores[:, 0].tolist() == pytest.approx(scores, abs=1e-5)
    lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    longest = max(lengths)
    assert output.end_index.tolist() == [longest - 1 if side == "left" else n - 1 for n in lengths]
    assert output.scores.shape == (3, longest, 1) and output.last_hidden_state.shape == (3, longest, 16)
    rows = torch.arange(3)
    assert torch.equal(output.scores[rows, output.end_index], output.end_scores)
    assert torch.equal(output.last_hidden_state[rows, output.end_index], output.end_last_hidden_state)
    scores_everywhere, end_scores = model(**tokenizer(TEXTS[0], return_tensors="pt"), return_dict=False)
    assert torch.allclose(scores_everywhere[0], ten_lines(folder, backbone, TEXTS[0]), atol=1e-5)
    assert torch.equal(end_scores[0], scores_everywhere[0, -1])


@pytest.mark.parametrize("bias", [None, 0.25])
def test_saved_in_the_same_layout_and_read_again(bias, write_beaver, tmp_path):
    settings = {"normalizer": (0.3, 4.0), "normalizer_type": "ExponentialMovingAverage", "score_type": "cost"}
    folder = write_beaver(tmp_path / "m", make_backbone(), torch.randn(1, 16), bias, **settings)
    model = AutoModelForScore.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"]
    assert (config["score_dim"], config["score_bias"], config["score_type"]) == (1, bias is not None, "cost")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    scores = [load_scorer(f"beaver:{f}", kind="cost")(PROMPTS, COMPLETIONS) for f in (folder, tmp_path / "again")]
    assert scores[0] == scores[1]


def test_several_scores_and_what_made_the_file_stays_out_of_it(write_beaver, tmp_path):
    backbone, weight = make_backbone(), torch.randn(3, 16)
    folder = write_beaver(tmp_path / "m", backbone, weight, score_dim=3)
    model = AutoModelForScore.from_pretrained(folder)
    assert model.score_head.bias is None and model.config.score_bias is False  # as align-anything writes it
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    assert torch.allclose(model(**ids).end_scores[0], ten_lines(folder, backbone, TEXTS[0])[-1], atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert not any(name.startswith("normalizer") for name in load_file(tmp_path / "again" / "model.safetensors"))


@pytest.mark.parametrize(
    ("score_type", "do_normalize", "expected"),
    [
        ("cost", False, lambda x: x),
        ("cost", True, lambda x: x / 2),
        ("reward", True, lambda x: (x - 0.3) / 2),
        ("critic", True, lambda x: x),
    ],
)
def test_normalised_only_if_asked_for(score_type, do_normalize, expected, write_beaver, tmp_path):
    """Mean 0.3 and variance 4: a cost is divided by 2, a reward is centred first. As an argument, it wins."""
    backbone = make_backbone()
    folder = write_beaver(tmp_path / "m", backbone, torch.randn(1, 16), 0.5, normalizer=(0.3, 4.0), do_normalize=True)
    model = AutoModelForScore.from_pretrained(folder, score_type=score_type, do_normalize=do_normalize)
    output = model(**AutoTokenizer.from_pretrained(folder)(TEXTS[1], return_tensors="pt"))
    raw = ten_lines(folder, backbone, TEXTS[1])[-1]
    assert output.end_scores.tolist()[0] == pytest.approx(expected(raw).tolist(), abs=1e-5)
    model.set_normalize(False)
    assert model.do_normalize is False
    assert torch.allclose(model(input_ids=torch.tensor([[5, 6]])).scores, _raw(model, [[5, 6]]), atol=1e-6)


def _raw(model, ids):
    return model.score_head(model.model(input_ids=torch.tensor(ids))[0])


def test_every_keyword_argument_of_the_cases(write_beaver, tmp_path):
    folder = write_beaver(tmp_path / "m", make_backbone(), torch.randn(1, 16), 0.5)
    for name in ("dtype", "torch_dtype"):
        model = AutoModelForScore.from_pretrained(
            str(folder),
            **{name: torch.bfloat16},
            device_map="auto",
            trust_remote_code=True,
            use_cache=False,
            cache_dir=str(tmp_path / "cache"),
            low_cpu_mem_usage=True,
            max_memory={"cpu": "1GiB"},
            score_type="cost",
            do_normalize=False,
        )
        assert model.dtype == torch.bfloat16 and model.config.use_cache is False
        assert model(input_ids=torch.tensor([[5, 6]])).end_scores.dtype == torch.float32
    assert AutoModelForScore.from_pretrained(folder, device_map={"": "cpu"}).dtype == torch.float32
    assert AutoModelForScore.from_pretrained(folder).config.name_or_path == str(folder)
    with pytest.raises(TypeError, match="score_typ"):
        AutoModelForScore.from_pretrained(folder, score_typ="cost")
    with pytest.raises(TypeError, match="score_typ"):
        AutoModelForScore.from_config(CONFIGS["llama"], score_typ="cost")


def test_a_language_model_gets_a_new_head_and_every_weight_a_gradient(tmp_path):
    AutoModelForCausalLM.from_config(CONFIGS["qwen2"]).save_pretrained(tmp_path / "lm")
    model = AutoModelForScore.from_pretrained(tmp_path / "lm", score_type="cost").train()
    assert type(model).__name__ == "Qwen2ForScore" and model.score_head.bias.tolist() == [0.0]
    model(input_ids=torch.tensor([[5, 6, 7]])).end_scores.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForScore.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.score_head.weight, model.score_head.weight)


def test_what_cannot_be_is_one_sentence(write_beaver, tmp_path):
    backbone, weight = make_backbone(), torch.randn(1, 16)
    plain = write_beaver(tmp_path / "plain", backbone, weight, 0.5)
    cases = [
        (plain, {"score_bias": False}, "score_bias=False and its weights have one"),
        (plain, {"do_normalize": True}, "no normalizer.mean"),
        (plain, {"score_type": "harm"}, "score_type='harm'"),
        (plain, {"score_dim": 2}, "score_dim=2"),
        (plain, {"dtype": torch.float32, "torch_dtype": torch.float16}, "they are one"),
        (write_beaver(tmp_path / "n", backbone, weight, score_bias=True), {}, "its weights have none"),
        (write_beaver(tmp_path / "e", make_backbone(), weight, num_hidden_layers=3), {}, "are missing"),
        (tmp_path / "nowhere", {}, "no such folder"),
    ]
    for folder, options, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
            AutoModelForScore.from_pretrained(folder, **options)
        assert "\n" not in str(raised.value)
    model = AutoModelForScore.from_pretrained(plain)
    with pytest.raises(ValueError, match="without attention_mask"):
        model(input_ids=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(OSError, match="from_pretrained"):
        AutoModelForScore()


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_in_a_folder_called_like_their_file(shards, write_beaver, tmp_path):
    """`zero_to_fp32.py OUT OUT/pytorch_model.bin` of current DeepSpeed makes a folder of that name."""
    backbone, weight = make_backbone("gpt_neox"), torch.randn(1, 16)
    flat = write_beaver(tmp_path / "flat", backbone, weight, 0.5, shards=shards, pickled=True)
    folder = tmp_path / "folder"
    shutil.copytree(flat, folder, ignore=shutil.ignore_patterns("pytorch_model*"))
    (folder / "pytorch_model.bin").mkdir()
    for path in flat.glob("pytorch_model*"):
        shutil.copy(path, folder / "pytorch_model.bin")
    expected = load_scorer(str(flat), kind="cost")
    scorer = load_scorer(str(folder), kind="cost")
    assert scorer(PROMPTS, COMPLETIONS) == expected(PROMPTS, COMPLETIONS)
    if shards == 1:  # the index of shards lies elsewhere, and counts
        assert scorer.fingerprint == expected.fingerprint
    ids = torch.tensor([[5, 6, 7]])
    scores = [AutoModelForScore.from_pretrained(f)(input_ids=ids).end_scores for f in (flat, folder)]
    assert torch.equal(*scores)


def test_a_classifier_whose_weights_are_in_a_folder(byte_tokenizer, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **GROUPED, num_labels=1, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config)
    for folder in (tmp_path / "flat", tmp_path / "folder"):
        model.save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
    (tmp_path / "folder" / "model.safetensors").unlink()
    (tmp_path / "folder" / "pytorch_model.bin").mkdir()
    torch.save(model.state_dict(), tmp_path / "folder" / "pytorch_model.bin" / "pytorch_model.bin")
    scores = [load_scorer(str(tmp_path / f), kind="reward")(PROMPTS, COMPLETIONS) for f in ("flat", "folder")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
