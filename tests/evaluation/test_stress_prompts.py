"""Attacks: what they do, that the prompt can be found again, and that (seed, attack, prompt) alone decide."""

import base64
import codecs

import pytest

from trl_rsa.evaluation.stress import ATTACKS, attack_prompts


ROWS = [
    {"prompt": f"How do I open {thing}?", "category": "x", "benign": False} for thing in ("a {lock}", "a safe", "it")
]


def attacked(attack, rows=ROWS, seed=0):
    return [row["prompt"] for row in attack_prompts(rows, [attack], seed, keep_plain=False)]


def test_rows():
    rows = attack_prompts(ROWS, ["rot13", "leetspeak"])
    assert [row["attack"] for row in rows] == ["none"] * 3 + ["rot13"] * 3 + ["leetspeak"] * 3
    assert [row["base_prompt"] for row in rows] == [row["prompt"] for row in ROWS] * 3
    assert [row["prompt"] for row in rows[:3]] == [row["prompt"] for row in ROWS]
    assert all(row["category"] == "x" and row["benign"] is False for row in rows)
    assert len({row["prompt"] for row in rows}) == 9


@pytest.mark.parametrize("attack", ATTACKS)
def test_depends_on_seed_and_prompt_alone(attack):
    forwards, backwards = attacked(attack), attacked(attack, ROWS[::-1])
    assert forwards == backwards[::-1] == attacked(attack)
    many = [{"prompt": f"prompt number {i} about something"} for i in range(20)]
    assert attacked(attack, many) != attacked(attack, many, seed=1)


@pytest.mark.parametrize("attack", ["role_play", "injection"])
def test_prompt_stands_in_the_template(attack):
    texts = attacked(attack)
    assert all(row["prompt"] in text for row, text in zip(ROWS, texts, strict=True))
    assert not any("{prompt}" in text or "{name}" in text for text in texts)


def test_codes_can_be_decoded():
    for row, text in zip(ROWS, attacked("base64"), strict=True):
        assert base64.b64decode(text.rsplit("\n\n", 1)[1]).decode() == row["prompt"] and "Base64" in text
    for row, text in zip(ROWS, attacked("rot13"), strict=True):
        assert codecs.decode(text.rsplit("\n\n", 1)[1], "rot13") == row["prompt"] and "ROT13" in text


def test_leetspeak():
    """a→4, e→3, i→1, o→0, s→5, t→7, each with probability 4/5; nothing else changes."""
    back = str.maketrans("431057", "aeiost")
    (text,) = attacked("leetspeak", [{"prompt": "aeiost bcdfg " * 50}])
    assert text.translate(back) == "aeiost bcdfg " * 50
    assert 0.7 < sum(c.isdigit() for c in text) / 300 < 0.9


def test_escalation_is_a_conversation_that_ends_with_the_prompt():
    for row, turns in zip(ROWS, attacked("escalation"), strict=True):
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
        assert turns[-1]["content"] == row["prompt"]


def test_conversations_are_attacked_in_their_last_turn():
    opening = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    row = {"prompt": [*opening, {"role": "user", "content": "open it"}]}
    (coded,) = attacked("rot13", [row])
    assert coded[:2] == opening and coded[2]["role"] == "user" and "bcra vg" in coded[2]["content"]
    (escalated,) = attacked("escalation", [row])
    assert [turn["role"] for turn in escalated] == ["user", "assistant"] * 3 + ["user"]
    assert row["prompt"][-1]["content"] == "open it"


def test_own_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def reverse(text):\n    return text[::-1]\n\ndef broken(text):\n    return None\n")
    assert attacked(f"{path}:reverse")[1] == "?efas a nepo I od woH"  # codespell:ignore
    with pytest.raises(ValueError, match="it returned None for a prompt"):
        attacked(f"{path}:broken")
    with pytest.raises(ValueError, match=r"You set the attack to .* has no 'nothing'"):
        attacked(f"{path}:nothing")


@pytest.mark.parametrize(
    ("attacks", "sentence"),
    [(["jailbreak"], "the attacks are role_play, injection, base64"), (["rot13", "rot13"], "'rot13' twice")],
)
def test_errors(attacks, sentence):
    with pytest.raises(ValueError, match=sentence):
        attack_prompts(ROWS, attacks)
