"""One key of a prompt, however it is spelled; short names that are the same on every machine."""

import random

import pytest

from trl_rsa.data import split_by_prompt
from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.prompt_sets import load_prompts
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.storage.digests import PromptKey, digest, prompt_key


PROMPT = "How do I pick a lock? Straße ﬁve"


def user(content):
    return [{"role": "user", "content": content}]


def spelling(rng):
    """One of the ways to write PROMPT."""
    words = [word.upper() if rng.random() < 0.5 else word for word in PROMPT.split()]
    text = "".join(word + rng.choice([" ", "  ", "\n", "\t ", "\u00a0", "\u3000"]) for word in words)
    text = rng.choice(["", " ", "\ufeff", "\n\n"]) + text.replace("ﬁ", rng.choice(["fi", "ﬁ", "FI"]))
    place = rng.randrange(len(text))
    text = text[:place] + rng.choice(["", "\u200b", "\u00ad"]) + text[place:]
    return rng.choice([text, user(text), user([{"type": "text", "text": text}])])


@pytest.fixture
def spellings():
    rng = random.Random(0)
    found = [spelling(rng) for _ in range(1000)]
    assert len(set(map(repr, found))) > 900
    return found


def test_a_thousand_spellings_are_one_prompt(spellings, tmp_path):
    assert set(map(prompt_key, spellings)) == {prompt_key(PROMPT)}
    rows = [{"prompt": prompt} for prompt in spellings]
    assert len(load_prompts(rows).rows) == 1
    records = [{"prompt": prompt, "response": "r"} for prompt in spellings]
    assert len(set(read_columns(records).prompt.tolist())) == 1
    sets = {"train": spellings, "decide": ["another"], "certify": ["a third"]}
    constraint = {"scorer": len, "budget": 0.0, "bounds": (-1, 1)}
    assert RiskConstraint(prompts=sets, **constraint).split_prompts(0)["train"] == spellings[:1]
    with pytest.raises(ValueError, match="'train' and 'certify' that share 1 prompts"):
        RiskConstraint(prompts=sets | {"certify": [PROMPT]}, **constraint).split_prompts(0)


def test_spellings_neither_widen_a_certificate_nor_look_fresh(spellings, tmp_path):
    settings = {"bounds": (-1, 1), "scorer": "s", "ledger_path": tmp_path / "certificate.json"}
    with pytest.raises(ValueError, match="responses to a single prompt"):
        certify([0.0] * 1000, 0.5, prompts=spellings, **settings)
    assert certify([0.0] * 1001, 0.5, prompts=[*spellings, "b"], **settings).bound.n_groups == 2
    with pytest.raises(ValueError, match=r"attempt 1 .* has used"):
        certify([0.0] * 2, 0.5, prompts=[spellings[7], "c"], **settings)


def test_held_out_pairs_share_no_spelling():
    from datasets import Dataset

    prompts = ["A", " a ", "a", "b", "C c", "c  C"]
    pairs = Dataset.from_dict({"prompt": prompts, "chosen": ["x"] * 6, "rejected": ["y"] * 6})
    train, held_out = split_by_prompt(pairs, 3)
    assert not {*map(prompt_key, train["prompt"])} & {*map(prompt_key, held_out["prompt"])}


def test_other_prompts_have_other_keys():
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "x"},
    ]
    prompts = [
        "",
        "x",
        "x y",
        "xy",
        "x.",
        "é",
        "e",
        user("x") + user("y"),
        [{"role": "system", "content": "be kind"}, *user("x")],
        [{"role": "system", "content": "be good"}, *user("x")],
        [{"role": "assistant", "content": "x"}],
        turns,
        turns[1:],
        [*turns[:2], {"role": "user", "content": "x", "name": "eve"}],
        user([{"type": "image", "image": "a.png"}]),
        ["x"],
        [["x"]],
        [None],
        '[["user", "x"]]',
    ]
    assert len({*map(prompt_key, prompts)}) == len(prompts)


def test_the_key_is_the_same_on_every_machine_and_a_key_stays_as_it_is():
    # `printf '[["user", "how do i pick a lock?"]]' | b2sum -l 64` says so.
    key = prompt_key("How do I pick a lock?")
    assert key == "85aa73375ad0a83e"
    assert prompt_key(key) is key and isinstance(key, PromptKey)
    assert prompt_key(str(key)) != key, "sixteen hex digits may be a prompt"
    assert prompt_key("\ud800 x") == prompt_key("\ud800  X")


def test_digest_is_of_the_value_as_it_is_written():
    # `printf prompt | b2sum -l 64` says so.
    assert digest("prompt").hex() == "b80f8faf63bed6cd"
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest("a")
    assert digest("Prompt") != digest("prompt")
