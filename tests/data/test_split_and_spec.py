"""Held-out prompts, and Safe RLHF's dataset names."""

import json

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_rsa.data import load_preferences, parse_dataset_spec, split_by_prompt
from trl_rsa.data.single import load_demonstrations, load_unpaired


def pairs(prompts):
    return Dataset.from_dict({"prompt": prompts, "chosen": ["a"] * len(prompts), "rejected": ["b"] * len(prompts)})


@given(st.lists(st.sampled_from("abcdefghij"), min_size=12, max_size=40), st.integers(0, 3))
def test_no_prompt_is_on_both_sides(prompts, seed):
    prompts = [*"abcdefghij", *prompts]
    train, held_out = split_by_prompt(pairs(prompts), 0.3, seed=seed)
    assert not set(train["prompt"][:]) & set(held_out["prompt"][:])
    assert sorted([*train["prompt"], *held_out["prompt"]]) == sorted(prompts)
    # At most the asked share, and no prompt that stayed in train would still have fitted.
    room = round(0.3 * len(prompts)) - len(held_out)
    assert 0 <= room < min(prompts.count(prompt) for prompt in set(train["prompt"][:]))


def test_split_is_seeded_keeps_order_and_ignores_the_order_of_rows():
    prompts = [f"{i:02}" for i in range(40)]
    train, held_out = split_by_prompt(pairs(prompts), 10, seed=3)
    assert len(held_out) == 10
    assert train["prompt"][:] == sorted(train["prompt"][:])
    assert set(split_by_prompt(pairs(prompts[::-1]), 10, seed=3)[1]["prompt"][:]) == set(held_out["prompt"][:])
    assert split_by_prompt(pairs(prompts), 10, seed=4)[1]["prompt"][:] != held_out["prompt"][:]


def test_split_of_conversations():
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b", "a", "c")]
    train, held_out = split_by_prompt(pairs(prompts), 1)
    assert (len(train), len(held_out)) == (3, 1)
    assert held_out[0]["prompt"] not in train["prompt"][:]


@pytest.mark.parametrize("size", [0, 1.0, -1, 0.0, True, 4, "a"])
def test_sizes_that_cannot_work(size):
    """4 is all of the pairs, so nothing would be left to train on."""
    with pytest.raises(ValueError):
        split_by_prompt(pairs(list("abcd")), size)


def test_one_prompt_cannot_be_split():
    with pytest.raises(ValueError, match="1 different prompts"):
        split_by_prompt(pairs(["a", "a"]), 0.5)
    with pytest.raises(ValueError, match="needs `prompt`"):
        split_by_prompt(pairs(["a", "b"]).remove_columns("prompt"), 0.5)


def test_questions_that_do_not_end_are_not_split(tmp_path):
    """Three answers to a question part at three words: `Q1: why? Sure`, `Q1: why? I`, `Q1: why? Well`."""
    ends = (("Sure yes", "Sure no"), ("I can", "I cannot"), ("Well then", "Well now"))
    rows = [{"chosen": f"Q{i}: why? {a}", "rejected": f"Q{i}: why? {b}"} for i in range(9) for a, b in ends]
    for load in (load_preferences, load_demonstrations, load_unpaired):
        with pytest.raises(ValueError, match=r"plain text without a column `prompt`.*could be on both sides"):
            split_by_prompt(load(rows).dataset, 0.2)
        said = [{"prompt": f"Q{i}: why?", "chosen": a, "rejected": b} for i in range(9) for a, b in ends]
        train, held_out = split_by_prompt(load(said).dataset, 0.2)
        assert held_out and not set(train["prompt"][:]) & set(held_out["prompt"][:])
    turns = [
        {
            side: [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": side}]
            for side in ("chosen", "rejected")
        }
        for i in range(4)
    ]
    assert len(split_by_prompt(load_preferences(turns).dataset, 1)[1]) == 1


@pytest.mark.parametrize(
    ("text", "source", "split", "proportion", "num_samples"),
    [
        ("PKU-SafeRLHF/train", "PKU-Alignment/PKU-SafeRLHF", "train", 1.0, None),
        ("PKU-Alignment/PKU-SafeRLHF-30K/test:0.5", "PKU-Alignment/PKU-SafeRLHF-30K", "test", 0.5, None),
        ("PKU-SafeRLHF-10K/train:1/4", "PKU-Alignment/PKU-SafeRLHF-10K", "train", 0.25, None),
        ("hh-rlhf-helpful-preference/train:300/-1", "PKU-Alignment/processed-hh-rlhf", "train", 1.0, 300),
        ("PKU-SafeRLHF/train::a:b.jsonl", "a:b.jsonl", "train", 1.0, None),
    ],
)
def test_spec(text, source, split, proportion, num_samples):
    spec = parse_dataset_spec(text)
    assert (spec.source, spec.split, spec.proportion, spec.num_samples) == (source, split, proportion, num_samples)
    assert spec.revision is None
    assert spec.format == ("hh-rlhf" if "hh" in text else "pku-safe-rlhf")


@pytest.mark.parametrize(
    "text",
    [
        "PKU/train",
        "PKU-SafeRLHF-10K/test",
        *(f"PKU-SafeRLHF/train:{p}" for p in ("x", "0", "-1", "1/0", "0/-1", "1:")),
    ],
)
def test_spec_that_cannot_work(text):
    with pytest.raises(ValueError, match="You set"):
        parse_dataset_spec(text)


@pytest.mark.parametrize(
    ("proportion", "kept", "left_out", "repeated"),
    [("1/2", 4, 4, 0), ("3/-1", 3, 5, 0), ("", 8, 0, 0), ("2.5", 20, 0, 12)],
)
def test_proportion_draws_or_repeats_pairs(tmp_path, proportion, kept, left_out, repeated):
    """Of 8 pairs: 1/2 keeps 4; 3/-1 keeps 3; 2.5 keeps all twice and 4 drawn ones."""
    rows = [
        {"prompt": f"{i}?", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
        for i in range(8)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_preferences(f"PKU-SafeRLHF/train:{proportion}:{path}")
    counts = data.counts
    assert (counts.pairs_kept, counts.pairs_left_out, counts.pairs_repeated) == (kept, left_out, repeated)
    assert len(data.dataset) == kept
    same = load_preferences(parse_dataset_spec(f"PKU-SafeRLHF/train:{proportion}:{path}"))
    assert same.counts.fingerprint == counts.fingerprint
    if kept < 8:
        prompts = [row[0]["content"] for row in data.dataset["prompt"]]
        assert prompts == sorted(set(prompts))  # drawn without repetition, in file order


def test_spec_with_a_folder_reads_its_part_and_split(tmp_path):
    folder = tmp_path / "harmless-base"
    folder.mkdir()
    transcripts = {side: f"\n\nHuman: Hi\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    for split, n in (("train", 3), ("test", 1)):
        (folder / f"{split}.jsonl").write_text((json.dumps(transcripts) + "\n") * n)
    assert len(load_preferences(f"hh-rlhf-harmless-preference/test::{tmp_path}").dataset) == 1
    assert len(load_preferences(f"hh-rlhf-harmless-preference/train::{folder}").dataset) == 3
