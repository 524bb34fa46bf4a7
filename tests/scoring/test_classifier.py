"""Sequence classifiers, TRL's reward models and others, against their own forward on one text at a time."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
)

from trl_rsa.scoring import load_scorer, score


PROMPTS = ["the cat", "a big red dog ran on the hill", "user"]
COMPLETIONS = [" sat", " is quick and slow", " ran in the blue mat"]


def save(folder, tokenizer, model):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_classifier(vocabulary, seed=0, num_labels=1, **changes):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
        "pad_token_id": 0,
        "num_labels": num_labels,
        "bos_token_id": None,
    }
    return AutoModelForSequenceClassification.from_config(LlamaConfig(**(settings | changes))).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_plain_text_as_in_reward_trainer(tiny_tokenizer, tmp_path, padding_side):
    """prompt + completion + EOS, whichever side the tokenizer pads, in batches of two of unequal length."""
    model = make_classifier(len(tiny_tokenizer))
    folder = save(tmp_path / "m", tiny_tokenizer, model)
    scorer = load_scorer(f"hf:{folder}", kind="reward", batch_size=2)
    scorer.tokenizer.padding_side = padding_side
    reference = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = tiny_tokenizer(prompt + completion + "<eos>")["input_ids"]
        assert ids[-1] == tiny_tokenizer.eos_token_id
        reference.append(float(logits(model, ids)[0]))
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(reference, abs=1e-5)
    assert scorer(PROMPTS, [text + "<eos>" for text in COMPLETIONS]) == pytest.approx(reference, abs=1e-5)
    assert max(reference) - min(reference) > 1e-3


def test_conversations_use_the_chat_template(tiny_tokenizer, tmp_path):
    model = make_classifier(len(tiny_tokenizer))
    folder = save(tmp_path / "m", tiny_tokenizer, model)
    user, reply = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}
    ids = tiny_tokenizer("user the cat <eos> assistant sat <eos>", add_special_tokens=False)["input_ids"]
    reference = [pytest.approx(float(logits(model, ids)[0]), abs=1e-5)]
    scorer = load_scorer(folder, kind="reward")
    assert scorer([[user]], [[reply]]) == reference
    assert scorer([[user]], ["sat"]) == reference
    assert scorer(["the cat"], [[reply]]) == reference
    assert scorer(["the cat"], ["sat"]) != reference
    assert load_scorer(folder, kind="reward", template="chat")(["the cat"], ["sat"]) == reference


def test_the_same_ids_as_reward_trainer(tiny_tokenizer, tmp_path):
    """Token by token what TRL's RewardTrainer trains on, for text and for messages."""
    from trl.trainer.reward_trainer import RewardTrainer

    folder = save(tmp_path / "m", tiny_tokenizer, make_classifier(len(tiny_tokenizer)))
    scorer = load_scorer(folder, kind="reward")
    seen = []
    forward = scorer.model.forward
    scorer.model.forward = lambda input_ids, attention_mask: (
        seen.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)),
        forward(input_ids=input_ids, attention_mask=attention_mask),
    )[1]
    user, reply = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}
    rows = [("the cat", " sat"), ([user], [reply])]
    for prompt, completion in rows:
        assert scorer([prompt], [completion])[0] is not None
    from datasets import Dataset
    from trl import RewardConfig

    args = RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    for (prompt, completion), ids in zip(rows, seen, strict=True):
        dataset = Dataset.from_list([{"prompt": prompt, "chosen": completion, "rejected": completion}])
        prepared = RewardTrainer._prepare_dataset(object(), dataset, tiny_tokenizer, args, "train")
        assert prepared[0]["chosen_ids"] == ids


def test_padding_that_is_eos_is_read_as_in_training(tiny_tokenizer, tmp_path):
    """A decoder classifier skips trailing tokens that equal its padding. It is scored as it was trained."""
    model = make_classifier(len(tiny_tokenizer), pad_token_id=1)
    scorer = load_scorer(save(tmp_path / "m", tiny_tokenizer, model), kind="reward", batch_size=3)
    reference = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = tiny_tokenizer(prompt + completion)["input_ids"]
        reference.append(float(logits(model, ids)[0]))
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(reference, abs=1e-5)


def test_a_model_without_padding_token_is_batched(tiny_tokenizer, tmp_path):
    model = make_classifier(len(tiny_tokenizer), pad_token_id=None)
    scorer = load_scorer(save(tmp_path / "m", tiny_tokenizer, model), kind="reward", batch_size=3)
    one_by_one = [scorer([prompt], [completion])[0] for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(one_by_one, abs=1e-5)


def test_classes_probabilities_and_zero(tiny_tokenizer, tmp_path):
    """Two classes: P(toxic) = softmax; as a cost with zero = ½ it is above 0 where toxic is the likelier class."""
    model = make_classifier(len(tiny_tokenizer), num_labels=2, id2label={0: "fine", 1: "TOXIC"})
    folder = save(tmp_path / "m", tiny_tokenizer, model)
    ids = tiny_tokenizer("the cat sat<eos>")["input_ids"]
    raw = logits(model, ids)
    for label in ("toxic", 1, "1"):
        scorer = load_scorer(folder, kind="cost", label=label, output="probability", zero=0.5)
        assert scorer(["the cat"], [" sat"]) == pytest.approx([float(raw.softmax(-1)[1]) - 0.5], abs=1e-6)
    fine = load_scorer(folder, kind="cost", higher_is="better", label="fine")
    assert fine(["the cat"], [" sat"]) == pytest.approx([-float(raw[0])], abs=1e-6)
    assert fine.fingerprint != load_scorer(folder, kind="cost", higher_is="better", label="toxic").fingerprint
    for label in (None, "harm", 2, -1):
        with pytest.raises(ValueError, match=r"2 classes, \['fine', 'TOXIC'\]"):
            load_scorer(folder, kind="cost", label=label)


def test_one_label_gives_a_sigmoid_and_several_independent_ones_too(tiny_tokenizer, tmp_path):
    ids = tiny_tokenizer("the cat sat<eos>")["input_ids"]
    for labels, problem in ((1, None), (3, "multi_label_classification")):
        model = make_classifier(len(tiny_tokenizer), num_labels=labels, problem_type=problem)
        folder = save(tmp_path / f"m{labels}", tiny_tokenizer, model)
        scorer = load_scorer(folder, kind="cost", label=labels - 1, output="probability")
        expected = float(logits(model, ids)[labels - 1].sigmoid())
        assert scorer(["the cat"], [" sat"]) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_other_architectures(architecture, tiny_tokenizer, tmp_path):
    """BERT reads the first token and takes 16 positions at most; GPT-2 has learned positions."""
    torch.manual_seed(0)
    vocabulary = len(tiny_tokenizer)
    if architecture == "bert":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = BertConfig(vocab_size=vocabulary, max_position_embeddings=16, num_labels=1, **sizes)
    else:
        config = GPT2Config(
            vocab_size=vocabulary, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=1, pad_token_id=0
        )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    scorer = load_scorer(save(tmp_path / "m", tiny_tokenizer, model), kind="reward")
    reference = [
        float(logits(model, tiny_tokenizer(prompt + completion + "<eos>")["input_ids"])[0])
        for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(reference, abs=1e-5)
    scores = score(scorer, ["the " * 20, *PROMPTS], ["cat", *COMPLETIONS])
    assert scores.values == [None, *(pytest.approx(value, abs=1e-5) for value in reference)]
    assert "the text has 22 tokens and the scorer takes 16" in scores.failures[0].reason  # 20 × the, cat, <eos>


def test_a_peft_adapter(tiny_tokenizer, tmp_path):
    """What RewardTrainer saves with a peft_config: the adapter and the head, on a language model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = make_classifier(len(tiny_tokenizer), initializer_range=0.2)
    base = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "architectures": None}))
    base.model.load_state_dict(model.model.state_dict())
    save(tmp_path / "base", tiny_tokenizer, base)
    model.config.name_or_path = model.name_or_path = str(tmp_path / "base")
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    folder = save(tmp_path / "adapter", tiny_tokenizer, adapted)
    assert not (tmp_path / "adapter" / "config.json").exists()
    ids = tiny_tokenizer("the cat sat<eos>")["input_ids"]
    reference = pytest.approx(float(logits(adapted, ids)[0]), abs=1e-5)
    scorer = load_scorer(folder, kind="reward")
    assert scorer(["the cat"], [" sat"]) == [reference]
    # Another model under the same name is another scorer.
    before = scorer.fingerprint
    save(tmp_path / "base", tiny_tokenizer, LlamaForCausalLM(base.config))
    assert load_scorer(folder, kind="reward").fingerprint != before
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"that is an adapter, and its base model .* is not there"):
        load_scorer(folder, kind="reward")


def test_a_language_model_is_no_scorer(tiny_model_path):
    """transformers would give it a random head, and every run other scores."""
    for spec in (tiny_model_path, f"hf:{tiny_model_path}"):
        with pytest.raises(ValueError, match="no head that scores"):
            load_scorer(spec, kind="reward")
    with pytest.raises(ValueError, match=r"no score_head\.weight"):
        load_scorer(f"beaver:{tiny_model_path}", kind="reward")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_repository_is_fetched_without_its_second_copy(pickled, tiny_tokenizer, tmp_path, monkeypatch):
    """Pickled weights are left out at first, and fetched where there are no others."""
    model = make_classifier(len(tiny_tokenizer))
    save(tmp_path, tiny_tokenizer, model)
    if pickled:
        (tmp_path / "model.safetensors").unlink()
    asked = []

    def snapshot_download(name, revision, ignore_patterns):
        asked.append((name, revision, "*.bin" in ignore_patterns))
        if "*.bin" not in ignore_patterns:
            torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    scorer = load_scorer("hf:someone/their-model", kind="reward", revision="v1")
    assert asked == [("someone/their-model", "v1", True), ("someone/their-model", "v1", False)][: 1 + pickled]
    assert scorer.name == "hf:their-model"
    ids = tiny_tokenizer("the cat sat<eos>")["input_ids"]
    assert scorer(["the cat"], [" sat"]) == pytest.approx([float(logits(model, ids)[0])], abs=1e-5)


def test_an_eos_in_front_is_not_one_at_the_end(byte_tokenizer, tmp_path):
    """OPT's tokenizers put </s> in front. RewardTrainer appends one all the same."""
    from tokenizers import processors

    folder = save(tmp_path / "m", byte_tokenizer, make_classifier(259))
    tokenizer = type(byte_tokenizer).from_pretrained(folder)
    single = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = single
    tokenizer.bos_token = "</s>"
    model = make_classifier(259)
    scorer = load_scorer(save(tmp_path / "m", tokenizer, model), kind="reward")
    ids = scorer.tokenizer("ab</s>")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (2, 2, 4)
    assert scorer(["a"], ["b"]) == pytest.approx([float(logits(model, ids)[0])], abs=1e-5)


def test_the_length_that_a_folder_was_trained_with(tiny_tokenizer, tmp_path):
    """It counts with and without truncation, and each of the two can be set by itself."""
    model = make_classifier(len(tiny_tokenizer))
    own = {"objective": "cost", "heads": 1, "pessimism": 0.0, "max_length": 8}

    def load(settings=None, **options):
        model.config.score_model = own | (settings or {})
        scorer = load_scorer(f"hf:{save(tmp_path / 'm', tiny_tokenizer, model)}", kind="cost", **options)
        return scorer.truncation, scorer.max_length

    assert load() == (None, 8)
    assert load(truncation="left") == ("left", 8)
    assert load({"truncation": "left"}, truncation="left") == ("left", 8)
    assert load({"truncation": "left"}, max_length=12) == ("left", 12)


def test_text_that_no_tokenizer_can_write(byte_tokenizer, tmp_path):
    """Half of a surrogate pair, as cut-off JSON has it: reported, and its neighbour scored."""
    scorer = load_scorer(save(tmp_path / "m", byte_tokenizer, make_classifier(259)), kind="reward")
    scores = score(scorer, ["\ud83d", "a"], ["b", "b"])
    assert scores.values[0] is None and scores.values[1] is not None
    assert "tokenizer does not take this text" in scores.failures[0].reason


def test_bad_folders_and_options(tiny_tokenizer, tmp_path):
    folder = save(tmp_path / "m", tiny_tokenizer, make_classifier(len(tiny_tokenizer)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_scorer(f"hf:{empty}", kind="reward")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_scorer("someone/no-such-model", kind="reward")
    for options, message in [
        ({"output": "softmax"}, "output='softmax'"),
        ({"template": "alpaca"}, "template='alpaca'"),
        ({"max_length": -1}, "max_length=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_scorer(folder, kind="reward", **options)
    tokenizer = type(tiny_tokenizer).from_pretrained(folder)
    tokenizer.chat_template = None
    bare = save(tmp_path / "bare", tokenizer, make_classifier(len(tiny_tokenizer)))
    with pytest.raises(ValueError, match="no chat template"):
        load_scorer(bare, kind="reward", template="chat")
    scores = score(load_scorer(bare, kind="reward"), [[{"role": "user", "content": "a"}], "a"], ["b", "b"])
    assert scores.values[0] is None and scores.values[1] is not None
    assert "no chat template" in scores.failures[0].reason
