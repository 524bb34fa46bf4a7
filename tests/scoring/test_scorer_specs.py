"""check_spec: mistakes in a scorer's name and options that show without loading anything."""

from functools import partial

import pytest

from trl_rsa import RiskConstraint
from trl_rsa.scoring import load_scorer
from trl_rsa.scoring.load import check_spec, spec_fingerprint


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("hff:my/cost", {}, "no scorer 'hff'. Did you mean 'hf'"),
        ("gaurd:my/model", {}, "Did you mean 'guard'"),  # codespell:ignore
        ("hf:my/cost", {"batchsize": 4}, "batchsize for hf:my/cost, but it takes .*batch_size"),
        ("judge:http://h#m", {"critereon": "x"}, "critereon for a judge"),  # codespell:ignore
        ("hf:my/cost", {"kind": "reward"}, "a budget is on a cost"),
        (lambda **kwargs: [], {"batch_size": 4}, "takes no options"),
        ("judge:nonsense", {}, "no http"),
        ("judge:http://user:secret@h/v1#model", {}, "user name, password or query"),
        ("guard-endpoint:localhost:8000#x", {}, "no http"),
        ("guard-endpoint:http://localhost:8000/v1", {}, "without a model"),
        ("guard-endpoint:http://localhost:8000/v1#my-guard", {}, "how it says its verdict is not known"),
        ("hf:", {}, "a prefix alone"),
        ("guard:my/guard", {"preset": "nope"}, "preset='nope'"),
        ("hf:my/cost", {"batch_size": 0}, "batch_size=0"),
        ("beaver:my/cost", {"truncation": "right"}, "truncation='right'"),
        ("hf:my/cost", {"template": "x"}, "template='x'"),
        ("hf:my/cost", {"higher_is": "up"}, "higher_is='up'"),
        ("my_module:cost", {"zero": "x"}, "zero='x'"),
    ],
)
def test_a_mistake_is_named(spec, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        check_spec(spec, options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("spec", ["hf:./none", "beaver:/none", "./none", "none.py:cost"])
def test_a_missing_folder_or_file_is_named(spec):
    with pytest.raises(FileNotFoundError, match="none"):
        check_spec(spec, {})


def test_a_sound_spec_passes():
    check_spec("hf:my/cost", {"batch_size": 4, "higher_is": "worse", "zero": 0.5, "name": "cost"})
    check_spec("my_module:cost", {})
    # The key is read where the judge is asked.
    check_spec("judge:http://h/v1#model", {"criterion": "harmless", "api_key_env": "NOT_SET_HERE"})


def test_a_constraint_cannot_ask_a_judge():
    with pytest.raises(ValueError, match="compares with a reference answer"):
        RiskConstraint(scorer="judge:http://h/v1#m", prompts="p.jsonl", budget=0.0, bounds=(-1.0, 1.0))


def test_a_path_below_home_has_a_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert spec_fingerprint("hf:~/model") == spec_fingerprint(f"hf:{folder}") is not None


def test_a_file_that_was_edited_is_read_again(tmp_path):
    """At once, with as many letters as before. A scorer that is in use stays what it was."""
    path = tmp_path / "mine.py"
    text = "def cost(prompts, completions, **kwargs):\n    return [{}] * len(completions)\n"
    path.write_text(text.format("1.0"))
    old = load_scorer(f"{path}:cost", kind="cost")
    assert load_scorer(f"{path}:cost", kind="cost").function is old.function
    path.write_text(text.format("7.0"))
    new = load_scorer(f"{path}:cost", kind="cost")
    assert (old(["p"], ["a"]), new(["p"], ["a"])) == ([1.0], [7.0])
    assert old.fingerprint != new.fingerprint and old.name == new.name


def test_what_a_partial_sets_is_part_of_the_scorer():
    def longer(prompts, completions, limit=1, by=len, **kwargs):
        return [by(completion) - limit for completion in completions]

    def fingerprint(**arguments):
        return load_scorer(partial(longer, **arguments), kind="cost").fingerprint

    assert fingerprint(limit=1) == fingerprint(limit=1) != fingerprint(limit=100)
    assert fingerprint(by=longer) == fingerprint(by=longer) != fingerprint(by=len)
