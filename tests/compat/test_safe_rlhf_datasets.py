"""Safe RLHF's dataset classes on files in the published formats and on a user's own class."""

import json
from fractions import Fraction

import pytest
import torch
from torch.utils.data import DataLoader

from trl_rsa.compat.safe_rlhf.datasets import (
    PreferenceDataset,
    PromptOnlyDataset,
    RawDataset,
    RawSample,
    SafetyPreferenceDataset,
    SupervisedDataset,
    parse_dataset,
)


PKU = {
    "prompt": "Hi",
    "response_0": "Yes, of course.",
    "response_1": "No.",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}


class Mine(RawDataset):
    NAME = "mine"
    ALIASES = ("mine/train",)

    def __init__(self, path=None, size=4):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index) -> RawSample:
        judged = {"better": index % 2 == 0, "safer": True, "is_safe": True, "is_other_safe": index > 1}
        return {"input": f"Question {index}?", "answer": "Yes.", "other_answer": "No.", **judged}


class Dialogues(RawDataset):
    NAME = "dialogues"

    def __len__(self):
        return 2

    def __getitem__(self, index) -> RawSample:
        if index:
            return {"dialogue": ["Hi", "Hello.", "Bye", "Ciao."]}
        return {"input": "Hi", "answer": "Hello."}


@pytest.fixture
def write_pku(tmp_path):
    def write(*rows):
        path = tmp_path / "pku.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def text(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("PKU-SafeRLHF/train", ("PKU-SafeRLHF/train", {"proportion": 1.0})),
        ("PKU-SafeRLHF/train:0.005", ("PKU-SafeRLHF/train", {"proportion": 0.005})),
        ("mine:1/4", ("mine", {"proportion": 0.25})),
        ("mine:500/-1", ("mine", {"proportion": Fraction(500, -1)})),
        ("mine::/data/x.jsonl", ("mine", {"proportion": 1.0, "path": "/data/x.jsonl"})),
    ],
)
def test_parse_dataset(spec, expected):
    assert parse_dataset(spec) == expected


def test_preference_pairs_of_a_published_file(write_pku, byte_tokenizer):
    """USER and ASSISTANT in Safe RLHF's words, one </s>; better_response_id decides; broken rows are counted."""
    identical = PKU | {"response_1": PKU["response_0"]}
    path = write_pku(PKU, PKU | {"better_response_id": 1}, identical, PKU | {"prompt": None}, PKU | {"response_0": 3})
    data = PreferenceDataset([("PKU-SafeRLHF/train", {"proportion": 1.0, "path": path})], byte_tokenizer)
    assert len(data) == 2 and sum(data.left_out.values()) == 3 and data.left_out["identical responses"] == 1
    begin = "<s>BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:"
    assert text(byte_tokenizer, data[0]["better_input_ids"]) == begin + "Yes, of course.</s>"
    assert text(byte_tokenizer, data[0]["worse_input_ids"]) == begin + "No.</s>"
    assert text(byte_tokenizer, data[1]["better_input_ids"]) == begin + "No.</s>"
    batch = next(iter(DataLoader(data, batch_size=2, collate_fn=data.get_collator())))
    assert set(batch) == {f"{side}_{what}" for side in ("better", "worse") for what in ("input_ids", "attention_mask")}
    assert batch["better_input_ids"].shape == batch["worse_input_ids"].shape
    lengths = batch["worse_attention_mask"].sum(-1).tolist()
    assert lengths == [len(data[i]["worse_input_ids"]) for i in (0, 1)]
    assert batch["worse_attention_mask"].dtype == torch.bool
    assert batch["worse_input_ids"][0, lengths[0] :].eq(byte_tokenizer.pad_token_id).all()


def test_safety_pairs_have_signs_and_contradictions_are_left_out(write_pku, byte_tokenizer):
    """Safe RLHF raises on a "safer" answer that is labelled unsafe while the other is safe (its issue 181)."""
    contradiction = PKU | {"safer_response_id": 0}
    path = write_pku(PKU, contradiction, PKU | {"is_response_1_safe": False})
    data = SafetyPreferenceDataset({"PKU-SafeRLHF/train": {"path": path}}, byte_tokenizer, lazy_tokenization=False)
    assert len(data) == 2 and list(data.left_out.values()) == [1]
    assert text(byte_tokenizer, data[0]["safer_input_ids"]).endswith("ASSISTANT:No.</s>")
    batch = data.get_collator()([data[0], data[1]])
    assert batch["safer_safety_sign"].tolist() == [1, -1] and batch["unsafer_safety_sign"].tolist() == [-1, -1]


def test_prompts_once_and_padded_on_the_left(byte_tokenizer):
    data = PromptOnlyDataset([("mine/train", {"proportion": 2.0, "size": 12})], byte_tokenizer)
    assert len(data) == 12  # drawn twice, kept once
    batch = data.get_collator()([data[0], data[10]])
    assert text(byte_tokenizer, data[10]["input_ids"]).endswith("USER: Question 10? ASSISTANT:")
    assert batch["attention_mask"][0].tolist() == [False] + [True] * (batch["input_ids"].shape[1] - 1)


def test_supervised_labels_cover_what_the_assistant_says(byte_tokenizer):
    data = SupervisedDataset({"dialogues": 1.0}, byte_tokenizer)
    said = [data[i]["input_ids"][data[i]["labels"] != -100] for i in (0, 1)]
    assert [text(byte_tokenizer, ids) for ids in said] == ["Hello.</s>", "Hello.</s>Ciao.</s>"]
    assert all(len(data[i]["labels"]) == len(data[i]["input_ids"]) for i in (0, 1))
    batch = data.get_collator()([data[0], data[1]])
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["labels"][0, -1] == -100 and not batch["attention_mask"][0, -1]


def test_a_draw_is_a_share_or_a_number_and_depends_on_the_seed(byte_tokenizer):
    def drawn(proportion, seed=42):
        data = PreferenceDataset({"mine": {"proportion": proportion, "size": 50}}, byte_tokenizer, seed=seed)
        return [sample["input"] for sample in data.rawdata]

    assert [len(drawn(p)) for p in (0.1, Fraction(7, -1), 1.5)] == [5, 7, 75]
    assert drawn(0.1) == drawn(0.1) != drawn(0.1, seed=1)
    assert drawn(1.0)[:3] == ["Question 0?", "Question 1?", "Question 2?"]
    train, test = PreferenceDataset({"mine": {"size": 50}}, byte_tokenizer).split_train_test(0.2)
    assert (len(train), len(test)) == (40, 10)
    inputs = [sample["input"] for part in (train, test) for sample in part.rawdata]
    assert len(set(inputs)) == 50


def test_the_transcripts_of_hh_become_turns(tmp_path, byte_tokenizer):
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Rob a bank?\n\nAssistant: No.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Rob a bank?\n\nAssistant: Yes.",
    }
    (tmp_path / "hh.jsonl").write_text(json.dumps(row) + "\n")
    path = str(tmp_path / "hh.jsonl")
    data = PreferenceDataset({"hh-rlhf-harmless-preference/train": {"path": path}}, byte_tokenizer)
    expected = "USER: Hi ASSISTANT:Hello!</s>USER: Rob a bank? ASSISTANT:No.</s>"
    assert text(byte_tokenizer, data[0]["better_input_ids"]).endswith(expected)


def test_what_cannot_be_is_one_sentence(write_pku, byte_tokenizer):
    broken = write_pku(PKU | {"response_0": ""})
    cases = [
        (lambda: RawDataset.load("alpaca"), "none of that name"),
        (lambda: PreferenceDataset([("mine", 1.0), ("mine", 1.0)], byte_tokenizer), "twice"),
        (lambda: PreferenceDataset({"mine": -0.5}, byte_tokenizer), "proportion of mine"),
        (lambda: PreferenceDataset({"mine": {"size": 0}}, byte_tokenizer), "is empty"),
        (lambda: PreferenceDataset({"PKU-SafeRLHF/train": {"path": broken}}, byte_tokenizer), "1 × empty response"),
        (lambda: PreferenceDataset({"dialogues": 1.0}, byte_tokenizer), "No sample of dialogues can be used"),
        (lambda: Mine().split_train_test(1.0), "split_ratio=1.0"),
        (lambda: type("Other", (RawDataset,), {"NAME": "mine"}), "that name is taken"),
        (lambda: parse_dataset("mine:x"), "neither a share"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
