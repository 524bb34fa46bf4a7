"""scorers.json: a ladder that goes on is scored by what it began with."""

import json

import pytest

from trl_rsa.ladder.same_scorers import SCORERS, check_scorers, fingerprint_of
from trl_rsa.scoring import load_scorer


def zero(prompts, completions, **kwargs):
    return [0.0 for _ in completions]


def test_what_is_not_known_is_not_compared(tmp_path):
    check_scorers(tmp_path, {"red": None, "blue": "b"}, None)
    check_scorers(tmp_path, {"red": "a", "blue": None}, "r")
    assert json.loads((tmp_path / SCORERS).read_text()) == {"costs": {"red": "a", "blue": "b"}, "reward": "r"}
    with pytest.raises(ValueError, match="constraint 'blue'"):
        check_scorers(tmp_path, {"red": "a", "blue": "c"}, "r")
    with pytest.raises(ValueError, match="the rungs' reward"):
        check_scorers(tmp_path, {"red": "a", "blue": "b"}, "s")


def test_a_file_of_python_may_be_moved_with_the_run(tmp_path):
    path = tmp_path / "cost.py"
    path.write_text("def f(prompts, completions, **kwargs):\n    return [0.0 for _ in completions]\n")
    assert fingerprint_of(f"{path}:f", load_scorer(f"{path}:f", kind="cost")) is None
    assert fingerprint_of(zero, load_scorer(zero, kind="cost")) is not None
