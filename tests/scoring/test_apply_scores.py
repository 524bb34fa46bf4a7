"""Scorers from functions, their sign, and what happens where one fails."""

import functools
import subprocess
import sys
from itertools import count, islice

import numpy as np
import pytest

from trl_rsa.scoring import ScorerContractError, ScoringError, iter_scores, load_scorer, score


def length(prompts, completions, **kwargs):
    return [float(len(completion)) for completion in completions]


@pytest.mark.parametrize(
    ("kind", "higher_is", "zero", "expected"),
    [
        ("reward", None, 0, 3.0),
        ("reward", "worse", 0, -3.0),
        ("cost", None, 0, 3.0),
        ("cost", "worse", 5, -2.0),  # 3 − 5
        ("cost", "better", 0, -3.0),
        ("cost", "better", 5, 2.0),  # −(3 − 5)
    ],
)
def test_the_sign_is_what_the_user_says(kind, higher_is, zero, expected):
    scorer = load_scorer(length, kind=kind, higher_is=higher_is, zero=zero)
    assert scorer(["p"], ["abc"]) == [expected]


@pytest.mark.parametrize("kind", [None, "safety", "Cost"])
def test_a_kind_that_is_neither_is_refused(kind):
    with pytest.raises(ValueError, match="You set kind="):
        load_scorer(length, kind=kind)


def test_kind_has_no_default():
    with pytest.raises(TypeError, match="kind"):
        load_scorer(length)


def test_a_scorer_of_the_other_kind_is_refused():
    cost = load_scorer(length, kind="cost")
    assert load_scorer(cost, kind="cost") is cost
    with pytest.raises(ValueError, match="scorer already"):
        load_scorer(cost, kind="reward")
    with pytest.raises(ValueError, match="higher_is"):
        load_scorer(cost, kind="cost", higher_is="better")


def test_it_is_a_reward_function_of_trl():
    """Called as GRPOTrainer does, by name and with more columns; None stays None; the name is what TRL logs."""
    from trl.trainer.utils import get_callable_name

    scorer = load_scorer(lambda prompts, completions, flag, **kwargs: [1.0, None], kind="reward", name="mine")
    found = scorer(prompts=["a", "b"], completions=["c", "d"], completion_ids=[[1], [2]], flag=[0, 1])
    assert found == [1.0, None]
    assert get_callable_name(scorer) == "mine"


def test_columns_that_a_function_does_not_take_are_left_out():
    scorer = load_scorer(lambda completions, weight: weight, kind="reward")
    assert scorer(["p", "q"], ["a", "b"], weight=[1, 2], trainer_state=None) == [1.0, 2.0]
    with pytest.raises(ValueError, match="its arguments are"):
        load_scorer(lambda p, c: [0.0], kind="reward")


def test_failures_keep_their_index_and_the_others_their_score():
    """Of 0…9 the multiples of 3 fail, each in another way: in TRL's signature None, here with a reason."""

    def scorer(prompts, completions, **kwargs):
        values = [int(completion) for completion in completions]
        if 3 in values:
            raise RuntimeError("cannot read 3")
        return [{0: None, 6: float("nan"), 9: "nine"}.get(value, np.float32(value)) for value in values]

    scores = score(load_scorer(scorer, kind="cost"), ["p"] * 10, [str(i) for i in range(10)], batch_size=4)
    assert scores.values == [None, 1, 2, None, 4, 5, None, 7, 8, None]
    reasons = {failure.index: failure.reason for failure in scores.failures}
    assert reasons[0] == "the scorer returned None"
    assert reasons[3] == "the scorer raised RuntimeError: cannot read 3"
    assert reasons[6] == "the scorer returned NaN"
    assert "not a number" in reasons[9]
    assert "6 of 10 responses scored" in str(scores)
    assert "prompt 3: the scorer raised RuntimeError" in str(scores)
    with pytest.raises(ScoringError) as caught:
        scores.require_all()
    assert caught.value.scores is scores


def test_infinite_scores_and_tensors():
    import torch

    given = [torch.tensor([1.5]), torch.tensor([1.0, 2.0]), float("inf"), True, 10**400]
    scores = score(load_scorer(lambda completions, **k: given, kind="cost"), ["p"] * 5, ["c"] * 5)
    assert scores.values == [1.5, None, None, 1.0, None]
    whole = load_scorer(lambda completions, **k: torch.tensor([0.5, -0.5]), kind="cost")
    assert score(whole, ["p"] * 2, ["c"] * 2).require_all() == [0.5, -0.5]


def test_a_wrong_number_of_scores_stops_with_what_was_scored():
    def scorer(prompts, completions, **kwargs):
        return [1.0] * (2 if completions == ["a", "b"] else 3)

    with pytest.raises(ScoringError, match=r"returned 3 scores for 2 completions.*2 responses before") as caught:
        score(load_scorer(scorer, kind="reward", name="broken"), ["p"] * 4, list("abcd"), batch_size=2)
    assert caught.value.scores.values == [1.0, 1.0]
    with pytest.raises(ScorerContractError, match="a float"):
        load_scorer(lambda completions: 1.0, kind="reward")(["p"], ["a"])


def test_raising_costs_few_calls():
    """One bad response among 64 is found by halving: 1 + 2·log2(64) = 13 calls, not 65."""
    calls = []

    def scorer(prompts, completions, **kwargs):
        calls.append(len(completions))
        return [1 / (int(completion) - 40) for completion in completions]

    scores = score(load_scorer(scorer, kind="reward"), ["p"] * 64, [str(i) for i in range(64)])
    assert [failure.index for failure in scores.failures] == [40]
    assert len(calls) == 13


def test_streaming_reads_no_further_than_it_must():
    """Over endless columns: 5 scores in batches of 2 take three batches; the rest is never read."""
    read = []

    def completions():
        for i in count():
            read.append(i)
            yield "x" * i

    stream = iter_scores(load_scorer(length, kind="cost"), count(), completions(), batch_size=2)
    assert [item.value for item in islice(stream, 5)] == [0, 1, 2, 3, 4]
    assert read == [0, 1, 2, 3, 4, 5]


def test_columns_of_different_lengths():
    scorer = load_scorer(length, kind="cost")
    with pytest.raises(ValueError, match="different lengths"):
        score(scorer, ["p"], ["a", "b"])
    with pytest.raises(ValueError, match="different lengths"):
        list(iter_scores(scorer, iter(["p"]), iter(["a", "b"])))
    assert score(scorer, [], []).values == []
    with pytest.raises(ValueError, match="batch_size=0"):
        score(scorer, ["p"], ["a"], batch_size=0)


def test_functions_by_name(tmp_path, monkeypatch):
    source = (
        "class Box:\n    @staticmethod\n    def cost(prompts, completions):\n        return [2.0] * len(prompts)\n"
    )
    (tmp_path / "their_scorers.py").write_text(source + "NUMBER = 1\n")
    monkeypatch.chdir(tmp_path)
    for spec in ("their_scorers:Box.cost", "./their_scorers.py:Box.cost", f"{tmp_path}/their_scorers.py:Box.cost"):
        assert load_scorer(spec, kind="cost")(["p"], ["c"]) == [2.0]
    assert str(tmp_path) not in sys.path
    assert load_scorer("their_scorers:Box.cost", kind="cost").name == "their_scorers:Box.cost"
    (tmp_path / "broken_scorer.py").write_text("1 / 0")
    for spec, message in [
        ("their_scorers:missing", "has no 'missing'"),
        ("their_scorers:NUMBER", "is a int"),
        ("no_such_module:f", "importing no_such_module failed"),
        ("none.py:f", "there is no file none.py"),
        ("broken_scorer:f", "ZeroDivisionError"),
        ("not a module:f", "is not the name of a module"),
        (":f", "module:function"),
        ("", "a function or a text"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_scorer(spec, kind="cost")


async def later(prompts, completions):
    return [0.0]


def test_async_functions_and_unknown_options_are_refused():
    with pytest.raises(ValueError, match="async function"):
        load_scorer(later, kind="cost")
    with pytest.raises(ValueError, match="takes no options"):
        load_scorer(length, kind="cost", batch_size=3)


def test_a_fingerprint_stands_for_the_function_and_the_sign():
    def other(prompts, completions):
        return [0.0]

    fingerprint = load_scorer(length, kind="cost").fingerprint
    assert fingerprint == load_scorer(length, kind="cost", name="renamed").fingerprint
    others = [
        load_scorer(other, kind="cost"),
        load_scorer(length, kind="reward"),
        load_scorer(length, kind="cost", higher_is="better"),
        load_scorer(length, kind="cost", zero=1),
    ]
    assert len({fingerprint, *(scorer.fingerprint for scorer in others)}) == 5
    partial = functools.partial(length, extra=1)
    assert load_scorer(partial, kind="cost").name == load_scorer(length, kind="cost").name
    described = load_scorer(length, kind="cost", higher_is="better", zero=2).describe()
    assert described.items() >= {"kind": "cost", "higher_is": "better", "zero": 2.0}.items()


def test_importing_scoring_is_light():
    code = "import sys, trl_rsa.scoring; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
