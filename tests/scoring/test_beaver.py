"""Safe RLHF's score models, on small ones written in its format."""

import json

import pytest
import torch
from transformers import AutoModel, GemmaConfig, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

from trl_rsa.scoring import BeaverScorer, load_scorer, score


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
}
PROMPTS = ["Hi", "How do I pick a lock?", "é"]
COMPLETIONS = ["Hello there.", "I would rather not say.", ""]
TEXTS = [
    "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:Hello there.</s>",
    "BEGINNING OF CONVERSATION: USER: How do I pick a lock? ASSISTANT:I would rather not say.</s>",
    "BEGINNING OF CONVERSATION: USER: é ASSISTANT:</s>",
]


def make_backbone(config, seed=0):
    torch.manual_seed(seed)
    model = AutoModel.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small values of an untrained model
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def expected(backbone, weight, bias, text):
    """The score by its definition: one text, no padding, the last token. <s> is 1, bytes begin at 3."""
    alphabet = {byte: i + 3 for i, byte in enumerate(sorted(_bytes_to_characters().items(), key=lambda x: x[1]))}
    codes = {byte: code for (byte, _), code in alphabet.items()}
    ids = [1, *(codes[byte] for byte in text.removesuffix("</s>").encode()), 2]
    with torch.no_grad():
        hidden = backbone(input_ids=torch.tensor([ids]))[0][0, -1]
    return float(hidden @ weight[0]) + bias


def _bytes_to_characters():
    """GPT-2's map of bytes to printable characters: those that print stand for themselves, the rest follow at 256."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_of_each_backbone(name, write_beaver, tmp_path):
    backbone, weight = make_backbone(CONFIGS[name]), torch.randn(1, 16)
    prefix = "gpt_neox" if name == "gpt_neox" else "model"
    folder = write_beaver(tmp_path / "m", backbone, weight, 0.75, prefix=prefix, score_bias=True)
    scorer = load_scorer(str(folder), kind="cost")
    assert isinstance(scorer, BeaverScorer)
    reference = [expected(backbone, weight, 0.75, text) for text in TEXTS]
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(reference, abs=1e-4)
    assert max(reference) - min(reference) > 0.1  # they do differ


@pytest.mark.parametrize(("shards", "pickled"), [(3, False), (1, True), (3, True)])
def test_every_file_format_gives_the_same(shards, pickled, write_beaver, tmp_path):
    """GPT-NeoX with its weights under `model.`, which is not the prefix that transformers expects."""
    backbone, weight = make_backbone(CONFIGS["gpt_neox"]), torch.randn(1, 16)
    folder = write_beaver(tmp_path / "m", backbone, weight, -0.5, shards=shards, pickled=pickled)
    scorer = load_scorer(f"beaver:{folder}", kind="reward", batch_size=2)
    reference = [expected(backbone, weight, -0.5, text) for text in TEXTS]
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(reference, abs=1e-4)


def by_hand(write_beaver, folder, **settings):
    """A Llama whose layers add nothing, so that the score is that of </s>'s embedding (3, 4, 0, …, 0), H = 16.

    Its root mean square is √(25/16) = 1.25, so the last norm gives (2.4, 3.2, 0, …). With the head (1, −0.5, 0, …) and
    the bias 0.25 the score is 2.4 − 1.6 + 0.25 = 1.05.
    """
    model = AutoModel.from_config(CONFIGS["llama"])
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.embed_tokens.weight[2] = torch.tensor([3.0, 4.0] + [0.0] * 14)
        model.embed_tokens.weight[0] = 7.0  # <pad>, which must not be read
    weight = torch.tensor([[1.0, -0.5] + [0.0] * 14])
    return write_beaver(folder, model, weight, **({"bias": 0.25} | settings))


@pytest.mark.parametrize(
    ("kind", "settings", "score_by_hand"),
    [
        ("cost", {}, 1.05),
        ("cost", {"bias": None}, 0.8),
        ("cost", {"normalizer": (0.3, 4.0), "do_normalize": False}, 1.05),
        ("cost", {"normalizer": (0.3, 4.0), "do_normalize": True}, 1.05 / 2),  # its zero stays
        ("reward", {"normalizer": (0.3, 4.0), "do_normalize": True}, (1.05 - 0.3) / 2),
        # score_type says nothing: neither the sign, nor how a cost is normalised
        ("cost", {"normalizer": (0.3, 4.0), "do_normalize": True, "score_type": "reward"}, 1.05 / 2),
        ("cost", {"score_type": "reward"}, 1.05),
        ("reward", {"score_type": "cost"}, 1.05),
    ],
)
def test_a_score_by_hand(kind, settings, score_by_hand, write_beaver, tmp_path):
    folder = by_hand(write_beaver, tmp_path / "m", **settings)
    scores = load_scorer(str(folder), kind=kind)(PROMPTS, COMPLETIONS)
    assert scores == pytest.approx([score_by_hand] * 3, abs=1e-5)


def test_the_sign_can_be_turned(write_beaver, tmp_path):
    folder = by_hand(write_beaver, tmp_path / "m")
    assert load_scorer(str(folder), kind="cost", higher_is="better")(["a"], ["b"]) == pytest.approx([-1.05], abs=1e-5)


def test_conversations_and_prompts_in_the_template_already(write_beaver, tmp_path):
    """One text in four forms: the same score. A second turn repeats USER: … ASSISTANT:{reply}{eos}."""
    backbone, weight = make_backbone(CONFIGS["llama"]), torch.randn(1, 16)
    scorer = load_scorer(str(write_beaver(tmp_path / "m", backbone, weight, 0.0)), kind="cost")
    user, reply = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}
    prompts = ["Hi", [user], [user], "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:"]
    completions = ["Hello there.", [reply], "Hello there.", "Hello there.</s>"]
    assert scorer(prompts, completions) == pytest.approx([expected(backbone, weight, 0, TEXTS[0])] * 4, abs=1e-4)
    two_turns = "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:Hello there.</s>USER: Hi ASSISTANT:Bye.</s>"
    ids = scorer.tokenizer(two_turns)["input_ids"]
    with torch.no_grad():
        reference = float(backbone(input_ids=torch.tensor([ids]))[0][0, -1] @ weight[0])
    assert scorer([[user, reply, user]], ["Bye."]) == pytest.approx([reference], abs=1e-4)
    scores = score(scorer, [[{"role": "system", "content": "x"}, user], "Hi"], ["a", "b"])
    assert scores.values[0] is None and scores.values[1] is not None
    assert "alternation" in scores.failures[0].reason


def test_a_long_text_is_reported_or_cut_at_its_beginning(write_beaver, tmp_path):
    backbone, weight = make_backbone(CONFIGS["llama"]), torch.randn(1, 16)
    folder = write_beaver(tmp_path / "m", backbone, weight, 0.0)
    scores = score(load_scorer(str(folder), kind="cost"), ["Hi", "x" * 300], ["a", "b"])
    assert scores.values[1] is None and scores.values[0] is not None
    assert "tokens and the scorer takes 256" in scores.failures[0].reason
    cut = load_scorer(str(folder), kind="cost", truncation="left", max_length=5)
    ids = cut.tokenizer("x ASSISTANT:b</s>", add_special_tokens=False)["input_ids"][-5:]
    with torch.no_grad():
        reference = float(backbone(input_ids=torch.tensor([ids]))[0][0, -1] @ weight[0])
    assert cut(["x" * 300], ["b"]) == pytest.approx([reference], abs=1e-4)


def test_it_is_cut_as_in_training(write_beaver, tmp_path):
    """`trl-rsa score-model layout=beaver` says in config.json how long its texts were."""
    backbone, weight = make_backbone(CONFIGS["llama"]), torch.randn(1, 16)
    own = {"score_model": {"objective": "cost", "truncation": "left", "max_length": 5}}
    folder = str(write_beaver(tmp_path / "m", backbone, weight, 0.0, **own))
    scorer = load_scorer(folder, kind="cost")
    assert (scorer.truncation, scorer.max_length) == ("left", 5)
    said = load_scorer(folder, kind="cost", truncation="left", max_length=5)
    assert scorer(["x" * 300], ["b"]) == said(["x" * 300], ["b"]) != [None]
    assert load_scorer(folder, kind="cost", max_length=9).max_length == 9


def test_the_fingerprint_follows_the_weights_and_not_the_folder(write_beaver, tmp_path):
    first = load_scorer(str(by_hand(write_beaver, tmp_path / "first")), kind="cost")
    backbone = first.model
    same = load_scorer(str(write_beaver(tmp_path / "b", backbone, first._weight[None], 0.25)), kind="cost")
    moved = load_scorer(str(write_beaver(tmp_path / "c", backbone, first._weight[None], 0.26)), kind="cost")
    (tmp_path / "b" / "config.json").write_text((tmp_path / "first" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text((tmp_path / "first" / "config.json").read_text())
    assert first.fingerprint == same.fingerprint != moved.fingerprint
    assert first.name == "beaver:first"
    assert load_scorer(str(tmp_path / "b"), kind="cost", dtype="bfloat16").fingerprint != first.fingerprint


def test_damaged_models_are_refused_in_a_sentence(write_beaver, tmp_path):
    backbone, weight = make_backbone(CONFIGS["llama"]), torch.randn(1, 16)
    cases = [
        (write_beaver(tmp_path / "a", backbone, weight, None, score_bias=True), "score_bias=True and its weights"),
        (write_beaver(tmp_path / "b", backbone, weight, 0.5, score_bias=False), "score_bias=False and its weights"),
        (write_beaver(tmp_path / "c", backbone, weight, do_normalize=True), "says do_normalize"),
        (write_beaver(tmp_path / "d", backbone, torch.randn(2, 16)), r"shape \[2, 16\]"),
        (write_beaver(tmp_path / "e", make_backbone(CONFIGS["llama"]), weight, num_hidden_layers=3), "missing"),
        (tmp_path / "nowhere", "no such folder"),
    ]
    truncated = write_beaver(tmp_path / "f", backbone, weight)
    (truncated / "model.safetensors").write_bytes((truncated / "model.safetensors").read_bytes()[:6])
    cases.append((truncated, "cannot be read"))
    garbled = write_beaver(tmp_path / "g", backbone, weight)
    (garbled / "config.json").write_text("{")
    cases.append((garbled, "not valid JSON"))
    for folder, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_scorer(f"beaver:{folder}", kind="cost")
    with pytest.raises(ValueError, match="Use beaver:"):
        load_scorer(f"hf:{tmp_path / 'b'}", kind="cost")
    for options, message in [
        ({"batch_size": 0}, "batch_size=0"),
        ({"truncation": "right"}, "truncation='right'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"device": "moon"}, "device='moon'"),
        ({"batchsize": 1}, "You set batchsize"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_scorer(f"beaver:{by_hand(write_beaver, tmp_path / 'h')}", kind="cost", **options)


def test_the_config_is_read_by_current_transformers(write_beaver, tmp_path):
    """Beaver's config.json names a class that transformers does not have, and an old `torch_dtype`."""
    folder = by_hand(write_beaver, tmp_path / "m", torch_dtype="bfloat16")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"]
    scorer = load_scorer(str(folder), kind="cost")
    assert scorer.model.dtype == torch.bfloat16
    assert scorer(["a"], ["b"]) == pytest.approx([1.05], abs=0.02)  # bf16 has 8 bits


@pytest.mark.parametrize(
    ("trained", "kind", "higher_is", "fits"),
    [
        ("cost", "cost", None, True),
        ("cost", "reward", None, False),
        ("reward", "cost", None, False),
        ("reward", "cost", "better", True),
        ("cost", "cost", "better", False),
        ("cost", "reward", "worse", True),
    ],
)
def test_what_a_folder_was_trained_to_give_is_never_passed_over(
    trained, kind, higher_is, fits, write_beaver, tmp_path
):
    """`trl-rsa score-model --layout beaver` says it in config.json; folders of others do not."""
    folder = by_hand(write_beaver, tmp_path / "m", score_model={"objective": trained, "heads": 1, "pessimism": 0.0})
    if fits:
        assert load_scorer(f"beaver:{folder}", kind=kind, higher_is=higher_is).kind == kind
        return
    with pytest.raises(ValueError, match=f"it was trained to give a {trained}, of which higher is"):
        load_scorer(f"beaver:{folder}", kind=kind, higher_is=higher_is)
