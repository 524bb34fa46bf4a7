"""The pairs of a rung: labels by cost or by several costs, and human pairs beside them."""

import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from trl_rsa import RSAConfig
from trl_rsa.data.templates import untemplated_key
from trl_rsa.ladder.audit import label_cost
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.human import load_human_pairs
from trl_rsa.ladder.pairs import ScoredResponse, safety_pairs
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.rung import rung_arguments, rung_pairs
from trl_rsa.ladder.settings import RungSettings


def make(**changes):
    settings = {"scorer": len, "prompts": ["p", "q", "r", "s"], "budget": 0.0, "bounds": (-2.0, 8.0)}
    settings |= {"labels": "raw"}
    return RiskConstraint(**settings | changes)


def answered(*groups, rewards=None):
    """[`PromptGroup`] and records per (names, {prompt: [(text, costs)]}); with rewards by text."""
    return [
        (
            PromptGroup(list(prompts), tuple(names)),
            [
                {
                    "prompt": prompt,
                    "prompt_number": i,
                    "response": text,
                    "costs": dict(zip(names, costs, strict=True)),
                    "reward": None if rewards is None else rewards[text],
                    "finished": True,
                    "token_ids": [ord(letter) for letter in text],
                }
                for i, (prompt, several) in enumerate(prompts.items())
                for text, *costs in several
            ],
        )
        for names, prompts in groups
    ]


def labels(rows):
    return {(row["chosen"], row["rejected"]): row["pair_label"] for row in rows}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pairs_of(constraints, groups, deltas=None, etas=None, human=None, **settings):
    named = {constraint.name: constraint for constraint in constraints}
    deltas = deltas or dict.fromkeys(named, 1.0)
    etas = etas or dict.fromkeys(named, 0.0)
    label_costs = {name: label_cost(one, etas[name], None) for name, one in named.items()}
    return rung_pairs(groups, named, RungSettings(**settings), human or {}, deltas, label_costs, seed=0)


def test_raw_labels_follow_bradley_terry_on_the_cost():
    """Costs 1 and 3: the safer one is preferred with probability σ(3 − 1); Δλ is the temperature's affair."""
    groups = answered((["cost"], {"q": [("bad", 3.0), ("good", 1.0)]}))
    (row,), counts = pairs_of([make()], groups, deltas={"cost": 2.5})
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("q", "good", "bad")
    assert row["pair_label"] == pytest.approx(sigmoid(2))
    assert counts == {"responses": 2, "cut": 0, "own_pairs": 1, "ties": 0}


def test_truncated_labels_see_the_tail_only():
    """η = 2, tail 0.5: costs 1 and 1.5 are tied at ½; 1 and 3 differ by (3 − 2)/0.5 = 2."""
    groups = answered((["cost"], {"q": [("a", 1.0), ("b", 1.5), ("c", 3.0)]}))
    found = labels(pairs_of([make(labels="truncated", tail=0.5)], groups, etas={"cost": 2.0})[0])
    assert found["a", "b"] == pytest.approx(0.5)
    assert found["a", "c"] == found["b", "c"] == pytest.approx(sigmoid(2))


def test_several_costs_weigh_as_their_multipliers_rise():
    """Δλ = (3, 1), so weights ¾ and ¼. Costs (2, 0) against (0, 4): ¾·2 − ¼·4 = ½ in favour of the second."""
    groups = answered((["cost", "honest"], {"q": [("a", 2.0, 0.0), ("b", 0.0, 4.0)]}))
    constraints = [make(), make(name="honest")]
    rows, _ = pairs_of(constraints, groups, deltas={"cost": 3.0, "honest": 1.0})
    assert labels(rows) == {("b", "a"): pytest.approx(sigmoid(0.5))}


def test_the_optimum_of_a_joint_rung_is_that_of_its_lagrangian():
    """A rung's optimal log-ratio difference is logit(label)·Δλ/β, with Δλ the sum; it must be Σ_i Δλ_i ΔC_i/β."""
    groups = answered((["cost", "honest"], {"q": [("a", 1.0, 2.0), ("b", 3.0, 2.5)]}))
    constraints, deltas = [make(), make(name="honest")], {"cost": 0.7, "honest": 1.9}
    (row,), _ = pairs_of(constraints, groups, deltas=deltas)
    total = sum(deltas.values())
    logit = math.log(row["pair_label"] / (1 - row["pair_label"]))
    assert logit * total / 0.4 == pytest.approx((0.7 * 2.0 + 1.9 * 0.5) / 0.4)


def test_a_constraint_that_holds_has_no_say_and_prompts_of_one_are_labelled_by_it_alone():
    both = (["cost", "honest"], {"q": [("a", 0.0, 5.0), ("b", 1.0, 0.0)]})
    constraints = [make(), make(name="honest")]
    rows, _ = pairs_of(constraints, answered(both), deltas={"cost": 2.0, "honest": 0.0})
    assert labels(rows) == {("a", "b"): pytest.approx(sigmoid(1.0))}
    apart = (["cost"], {"q": [("a", 0.0), ("b", 1.0)]}), (["honest"], {"r": [("c", 0.0), ("d", 1.0)]})
    rows, counts = pairs_of(constraints, answered(*apart), deltas={"cost": 3.0, "honest": 1.0})
    assert labels(rows) == {("a", "b"): pytest.approx(sigmoid(0.75)), ("c", "d"): pytest.approx(sigmoid(0.25))}
    assert counts["own_pairs"] == 2


def test_a_cut_answer_makes_pairs_unless_they_are_dropped_and_nothing_to_compare_is_an_error():
    groups = answered((["cost"], {"q": [("a", 0.0), ("b", 1.0)]}))
    groups[0][1][1]["finished"] = False
    (row,), counts = pairs_of([make()], groups)
    assert (row["chosen_ids"], row["rejected_ids"]) == ([ord("a")], [ord("b")]) and counts["cut"] == 1
    with pytest.raises(ValueError, match=r"of 2 responses to the train prompts 1 were cut and dropped \(cut: drop\)"):
        pairs_of([make()], groups, cut="drop")
    with pytest.raises(ValueError, match="cut responses are kept or dropped"):
        RungSettings(cut="maybe")


@pytest.mark.parametrize(("share", "kept"), [(1.0, 6), (0.5, 3), (0.0, 0)])
def test_ties_are_thinned_and_counted(share, kept):
    """Four harmless responses and a harmful one: six pairs at ½, and four that say which is safer."""
    groups = answered((["cost"], {"q": [(name, -1.0) for name in "abcd"] + [("e", 2.0)]}))
    rows, counts = pairs_of([make(labels="unsafe", budget=1.0)], groups, ties=share)
    assert sum(row["pair_label"] == 0.5 for row in rows) == kept and len(rows) == 4 + kept
    assert counts["ties"] == 6 and counts["own_pairs"] == 4 + kept


REWARDS = {"dull": 0.0, "fine": 2.0, "bad": 9.0, "worse": 0.0}
REWARD = {"scorer": len, "weight": 0.5}


def test_of_two_harmless_responses_the_more_helpful_one_is_preferred():
    """Costs −1, −2, 1 and 2 with tail 0.05: the excess over 0 decides, 1/0.05 = 20; between the first two the reward,
    half of its difference of 2; how helpful a harmful response is does not count."""
    groups = answered(
        (["cost"], {"q": [("dull", -2.0), ("fine", -1.0), ("bad", 1.0), ("worse", 2.0)]}), rewards=REWARDS
    )
    rows, counts = pairs_of([make(labels="unsafe", budget=1.0)], groups, reward=REWARD)
    assert counts["ties"] == 0
    found = labels(rows)
    assert found["fine", "dull"] == pytest.approx(sigmoid(1))
    assert found["bad", "worse"] == found["dull", "bad"] == found["fine", "bad"] == pytest.approx(sigmoid(20))
    # Without a weight for it, they tie as before.
    assert labels(pairs_of([make(labels="unsafe", budget=1.0)], groups)[0])["dull", "fine"] == 0.5


def test_responses_that_are_as_harmful_tie_whatever_their_reward():
    """Both are clipped to 8, and the more "helpful" one may well be the worse one."""
    groups = answered((["cost"], {"q": [("bad", 9.0), ("worse", 20.0)]}), rewards=REWARDS)
    ((label,),) = [labels(pairs_of([make(labels="unsafe", budget=1.0)], groups, reward=REWARD)[0]).values()]
    assert label == 0.5


def test_the_likelihood_of_an_unsafe_response_is_not_raised():
    """It is the chosen one where the other is worse, and is preferred; but not written more of."""
    groups = answered((["cost"], {"q": [("dull", -1.0), ("bad", 1.0), ("worse", 2.0)]}))
    rows, _ = pairs_of([make(labels="unsafe", budget=1.0)], groups)
    assert {(row["chosen"], row["rejected"]): row["sft_weight"] for row in rows} == {
        ("dull", "bad"): 1.0,
        ("dull", "worse"): 1.0,
        ("bad", "worse"): 0.0,
    }
    # Where no chosen response is unsafe there is no column.
    groups = answered((["cost"], {"q": [("dull", -1.0), ("bad", 1.0)]}))
    assert "sft_weight" not in pairs_of([make(labels="unsafe", budget=1.0)], groups)[0][0]


def test_a_response_that_one_of_several_costs_finds_unsafe_is_not_harmless():
    """By the first cost, with η = 1, none of them counts; by the second one both are unsafe and clipped alike."""
    groups = answered((["cost", "honest"], {"q": [("dull", -1.0, 0.5), ("fine", -1.0, 0.5)]}), rewards=REWARDS)
    constraints = [make(labels="truncated"), make(labels="truncated", name="honest")]
    etas = {"cost": 1.0, "honest": 1.0}
    assert set(labels(pairs_of(constraints, groups, etas=etas, reward=REWARD)[0]).values()) == {0.5}
    harmless = answered((["cost", "honest"], {"q": [("dull", -1.0, -0.5), ("fine", -1.0, -0.5)]}), rewards=REWARDS)
    assert labels(pairs_of(constraints, harmless, etas=etas, reward=REWARD)[0]) == {
        ("fine", "dull"): pytest.approx(sigmoid(1))
    }


def test_a_constraint_that_holds_still_says_what_is_harmless():
    """Only the first is raised. "fine" has the higher reward, and the second calls it unsafe: no label is the
    reward's, and no unsafe response is imitated."""
    groups = answered((["cost", "honest"], {"q": [("dull", -1.0, -1.0), ("fine", -1.0, 7.0)]}), rewards=REWARDS)
    constraints = [make(labels="unsafe", budget=1.0), make(labels="unsafe", budget=1.0, name="honest")]
    rows, _ = pairs_of(constraints, groups, deltas={"cost": 1.0, "honest": 0.0}, reward=REWARD)
    assert set(labels(rows).values()) == {0.5}
    assert all(row.get("sft_weight", 1.0) == 0.0 for row in rows if row["chosen"] == "fine")


def test_sampled_labels_follow_the_reward_too():
    """σ(1) = 0.731, as above."""
    groups = answered((["cost"], {f"q{i}": [("dull", -1.0), ("fine", -1.0)] for i in range(2000)}), rewards=REWARDS)
    rows, _ = pairs_of([make(labels="unsafe", budget=1.0)], groups, reward=REWARD, soft=False)
    assert abs(np.mean([row["chosen"] == "fine" for row in rows]) - sigmoid(1)) < 0.033


def answers(*costs):
    return [ScoredResponse(f"{cost:g}", cost, cost) for cost in costs]


def test_sampled_labels_are_drawn_by_their_probability():
    """σ(1) = 0.731: of 2,000 pairs the safer one is chosen in 0.731 ± 0.033 (3.3 standard errors)."""
    rows = safety_pairs([(f"q{i}", answers(1.0, 0.0)) for i in range(2000)], seed=3, soft=False)
    share = np.mean([row["chosen"] == "0" for row in rows])
    assert abs(share - sigmoid(1)) < 0.033
    assert "pair_label" not in rows[0]


def test_equal_texts_make_no_pair_and_pairs_can_be_limited():
    several = [("q", answers(0.0, 0.0, 1.0, 2.0))]
    assert len(safety_pairs(several, seed=0)) == 3
    assert len(safety_pairs(several, seed=0, per_prompt=2)) == 2
    assert safety_pairs([("q", answers(0.0, 0.0))], seed=0) == []


def test_all_rows_have_the_same_columns():
    """A dataset takes its columns from the first row."""
    bad = [ScoredResponse("bad", 1.0, 1.0, harmless=False), ScoredResponse("worse", 2.0, 2.0, harmless=False)]
    rows = safety_pairs([("p", answers(0.0, 1.0)), ("q", bad)], seed=0)
    assert [row["sft_weight"] for row in rows] == [1.0, 0.0]


def test_completions_have_the_prompt_s_format():
    messages = [{"role": "user", "content": "hello"}]
    (row,) = safety_pairs([(messages, answers(3.0, 1.0))], seed=0)
    assert row["chosen"] == [{"role": "assistant", "content": "1"}]


def arguments(args, settings, delta):
    return rung_arguments(args, settings, delta, Path("o/rung-01"), "o/rung-01", 7)


def test_the_entropic_measure_keeps_its_aversion_per_unit_of_cost():
    """θ/β_i stays: at Δλ = 4 the rung's θ is a quarter."""
    found = arguments({"risk_theta": 2.0}, RungSettings(), 4.0)
    assert found["risk_theta"] == 0.5 and found["constraint_multiplier"] == 4.0


@pytest.mark.parametrize(
    ("settings", "args", "alpha"),
    [
        ({}, {}, 0.0),
        ({}, {"risk_alpha": 0.3}, 0.3),
        ({"args": {"risk_alpha": 0.2}}, {"risk_alpha": 0.3}, 0.2),
        ({"risk_measure": "cvar"}, {}, 0.5),
        ({}, {"loss_type": ["rsa1"]}, None),
    ],
    ids=str,
)
def test_rungs_have_no_token_level_risk_unless_one_is_named(settings, args, alpha):
    args = {"use_cpu": True, "bf16": False} | args
    config = RSAConfig(**arguments(args, RungSettings(**settings), 1.0))
    assert config.risk_alpha == alpha


@pytest.mark.parametrize(
    ("settings", "args", "losses", "weights"),
    [
        ({}, {}, ["rsa2", "sft"], [1.0, 1.0]),
        ({"sft": 0.2}, {}, ["rsa2", "sft"], [1.0, 0.2]),
        ({"sft": 0.0}, {}, ["rsa2"], None),
        ({}, {"loss_type": ["rsa1"]}, ["rsa1"], None),
        ({"args": {"loss_type": ["rsa2"]}}, {}, ["rsa2"], None),
    ],
    ids=str,
)
def test_the_chosen_response_s_likelihood_stands_beside_the_loss(settings, args, losses, weights):
    config = RSAConfig(**arguments({"use_cpu": True, "bf16": False} | args, RungSettings(**settings), 1.0))
    assert config.loss_type == losses and config.loss_weights == weights


# Human pairs


@pytest.fixture
def human_data():
    return Dataset.from_list(
        [{"prompt": p, "chosen": f" fine {i} ", "rejected": " awful "} for p in "abcd" for i in range(5)]
    )


def test_human_pairs_fill_their_share_and_keep_their_label(human_data):
    constraint = make(human_pairs=human_data, human_share=0.25)
    human = {"cost": load_human_pairs(constraint, ["p"], {untemplated_key("d")}, seed=0)}
    assert human["cost"].counts["left_out_as_decide_or_certify_prompts"] == 5
    groups = answered((["cost"], {f"q{i}": [("bad", 3.0), ("good", 1.0)] for i in range(30)}))
    rows, counts = pairs_of([constraint], groups, human=human)
    assert counts["own_pairs"] == 30 and counts["human_pairs"] == {"cost": 10}
    judged = [row for row in rows if row["rejected"].strip() == "awful"]
    assert len(judged) == 10 and all(row["pair_label"] == 1.0 for row in judged)
    assert not any(row["prompt"] == "d" for row in judged)
    # Another rung, another draw; none for a constraint that is not raised.
    named = {"cost": constraint, "honest": make(name="honest")}
    label_costs, deltas = (
        {name: label_cost(one, 0.0, None) for name, one in named.items()},
        {"cost": 0.0, "honest": 1.0},
    )
    groups = answered((["cost", "honest"], {"q": [("bad", 0.0, 3.0), ("good", 0.0, 1.0)]}))
    assert "human_pairs" not in rung_pairs(groups, named, RungSettings(), human, deltas, label_costs, seed=0)[1]


def test_human_pairs_on_unseen_prompts_are_left_out_in_whatever_template(human_data):
    """Rendered, a prompt is another text, and it is still the prompt that certifies."""
    constraint = make(human_pairs=human_data, human_options={"template": "safe-rlhf", "eos_token": "</s>"})
    found = load_human_pairs(constraint, ["p"], set(map(untemplated_key, "cd")), seed=0)
    assert {row["prompt"] for row in found.rows} == {
        "BEGINNING OF CONVERSATION: USER: a ASSISTANT:",
        "BEGINNING OF CONVERSATION: USER: b ASSISTANT:",
    }
    assert found.counts["left_out_as_decide_or_certify_prompts"] == 10


def test_human_pairs_that_come_in_the_template_are_known_by_the_tokenizer_s_end(human_data):
    """The end of an earlier turn is in their text, and `human_options` need not name it."""
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    unseen = {untemplated_key([{"role": role, "content": content} for role, content in turns], "</s>")}
    text = "BEGINNING OF CONVERSATION: USER: a ASSISTANT:b</s>USER: c ASSISTANT:"
    rows = [*human_data, {"prompt": text, "chosen": "fine", "rejected": "awful"}]
    constraint = make(human_pairs=Dataset.from_list(rows))
    found = load_human_pairs(constraint, ["p"], unseen, 0, "</s>")
    assert found.counts["left_out_as_decide_or_certify_prompts"] == 1
    assert text not in {row["prompt"] for row in found.rows}


def test_human_pairs_that_cannot_be_used_are_refused(human_data):
    constraint = make(human_pairs=human_data)
    with pytest.raises(ValueError, match="all on prompts to decide on or to certify with"):
        load_human_pairs(constraint, ["p"], set(map(untemplated_key, "abcd")), seed=0)
    with pytest.raises(ValueError, match="whose prompts are texts and prompts that are messages"):
        load_human_pairs(constraint, [[{"role": "user", "content": "p"}]], set(), seed=0)
