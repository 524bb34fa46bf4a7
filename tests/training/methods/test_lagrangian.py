"""The reward function of a cost, and the step of its multiplier."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from trl_rsa.scoring import load_scorer
from trl_rsa.training import worker
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.methods.dual_ascent import DualAscent
from trl_rsa.training.methods.lagrangian import CostPenalty, DualAscentCallback, KnownScores
from trl_rsa.training.methods.terms import CostTerm, RewardTerm
from trl_rsa.training.methods.together import Together


def cost(prompts, completions, **kwargs):
    return [None if text == "?" else float(len(text)) for text in completions]


def make(is_training=True, **dual):
    penalty = CostPenalty("long", load_scorer(cost, "cost"), DualAscent(1.0, rate=0.5, **dual))
    callback = DualAscentCallback([penalty])
    penalty.trainer = callback.trainer = SimpleNamespace(
        model=SimpleNamespace(training=is_training), _metrics={"train": defaultdict(list)}
    )
    return penalty, callback


def step(callback):
    callback.on_step_end(SimpleNamespace(), TrainerState(), None)


def test_a_penalty_is_what_dual_ascent_says_and_a_step_moves_it():
    """λ = 1: −2, −4. Their mean is 3, 2 above the budget: λ = 1 + .5·2 = 2. What has no score counts nowhere."""
    penalty, callback = make()
    assert penalty(["p"] * 3, ["aa", "aaaa", "?"]) == [-2.0, -4.0, None]
    step(callback)
    assert penalty.dual.multiplier == 2.0 and penalty.costs == []
    logged = callback.trainer._metrics["train"]
    assert logged["constraint/long/estimate"] == [3.0] and logged["constraint/long/violation"] == [2.0]
    assert "constraint/long/eta" not in logged
    step(callback)  # nothing was sampled
    assert penalty.dual.multiplier == 2.0
    assert penalty(["p"], ["aa"]) == [-4.0]


def test_a_scorer_that_scores_nothing_stops_the_training():
    """TRL would train on, with a loss of 0."""
    known = KnownScores(load_scorer(cost, "cost"))
    assert known.__name__ == known.scorer.name and known(["p"] * 2, ["aa", "?"]) == [2.0, None]
    with pytest.raises(ValueError, match=r"You train with the cost .*, but it gave no score for any of 2 responses: "):
        known(["p"] * 2, ["?", "?"])


def test_a_response_without_a_cost_does_not_escape_its_penalty():
    """TRL would take the cost that is missing for 0, and the response for the best of its prompt."""
    penalty, _ = make()
    asked, logged = [], {}

    def reward(prompts, completions, **columns):
        asked.append(completions)
        return [10.0 for _ in completions]

    rewarded, penalised = Together([reward, penalty]).functions
    assert (rewarded.__name__, penalised.__name__) == ("reward", "-λ·long")
    for batch in (["aa", "?"], ["a", "aaa"]):
        columns = {"prompts": ["p"] * 2, "completions": batch, "log_metric": logged.__setitem__}
        last = rewarded(**columns), penalised(**columns)
        if batch == ["aa", "?"]:
            assert last == ([10.0, None], [-2.0, None]) and logged == {"rewards/not_scored": 0.5}
    assert last == ([10.0, 10.0], [-1.0, -3.0]) and len(asked) == 2 and penalty.costs == [2.0, 1.0, 3.0]


def test_a_scorer_that_raises_is_named():
    def broken(prompts, completions, **kwargs):
        raise KeyError("weight")

    with pytest.raises(ValueError, match=r"You train with the reward .*broken', but it raised a KeyError: 'weight'"):
        KnownScores(load_scorer(broken, "reward"))(["p"], ["a"])


def test_an_evaluation_does_not_move_it():
    penalty, callback = make(is_training=False)
    assert penalty(["p"], ["aaaa"]) == [-4.0]
    step(callback)
    assert penalty.dual.multiplier == 1.0


def test_resuming_without_its_file_is_refused(tmp_path):
    _, callback = make()
    args = SimpleNamespace(output_dir=tmp_path)
    callback.on_train_begin(args, TrainerState(global_step=0), None)
    with pytest.raises(ValueError, match=r"holds no multipliers.json"):
        callback.on_train_begin(args, TrainerState(global_step=2), None)


def test_terms_reach_launched_processes():
    options = {"rewards": [RewardTerm(cost, 2.0)], "costs": [CostTerm("m:f", 0.5, tail=0.1)]}
    models = ModelSettings({}, None, True)
    request = worker.TrainRequest("t", {}, None, {}, {}, "rloo", options, "start", models)
    assert worker.read_request(worker.write_request(request, "here")) == request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": 0.0}, "tail=0.0 of the cost 'cost'"),
        ({"rate": -1.0}, "rate=-1.0"),
        ({"window": 0}, "window=0"),
        ({"most": 0.5}, "λ starts at multiplier=1.0"),
        ({"name": "a b"}, "the name of a cost to 'a b'"),
        ({"scorer_options": {"kind": "reward"}}, "but a budget is on a cost"),
    ],
)
def test_a_term_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        CostTerm("m:f", **{"budget": 0.0, **changes})


def test_terms_are_described_as_they_are_named():
    described = CostTerm("m:f", 0.5, scorer_options={"zero": 1.0}).describe()
    assert described["scorer"] == "m:f" and described["scorer_options"] == {"zero": 1.0} and described["tail"] == 1.0
    assert RewardTerm(cost).describe()["scorer"].endswith("test_lagrangian.cost")
    scorer = load_scorer(cost, "cost")
    assert CostTerm(scorer, 0.0).describe()["scorer"] == scorer.fingerprint
    term = RewardTerm("m:f", scorer_options={"name": "stage:liked"})
    term.scorer = "hf:/somewhere/01-liked"
    assert term.describe()["scorer"] == "stage:liked"


def test_a_scorer_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="gives a cost, but it is maximised"):
        RewardTerm(load_scorer(cost, "cost"))
    with pytest.raises(ValueError, match="gives a reward, but a budget is on a cost"):
        CostTerm(load_scorer(cost, "reward"), 0.0)
