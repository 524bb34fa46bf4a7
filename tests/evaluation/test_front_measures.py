"""front.json from records: by hand, paired, and silent where nothing was measured."""

import csv
import io

import numpy as np
import pytest

from trl_rsa.evaluation.bootstrap import Bootstrap, resamples
from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.front_measures import PairedPoints, Spot, front_table, measure_front
from trl_rsa.evaluation.tails import cvar


def records(model, costs, rewards, draws=1):
    return [
        {"prompt": f"p{i // draws}", "response": "r", "cost": cost, "reward": reward, "model": model}
        for i, (cost, reward) in enumerate(zip(costs, rewards, strict=True))
    ]


def parts_of(*several):
    return {rows[0]["model"]: read_columns(rows) for rows in several}


def test_by_hand():
    """Of four costs, tail ½ is the mean of the worst two: A (3, 1), B (1, 0), and C between them."""
    parts = parts_of(
        records("A", [4, 2, 0, 0], [1, 1, 1, 1]),
        records("B", [1, 1, 0, 0], [0, 0, 0, 0]),
        records("C", [2, 2, 1, 0], [0.75, 0.75, 0.5, 1]),
    )
    methods = {"one": [Spot("A", {"λ": 1.0}), Spot("B", {"λ": 2.0})], "two": [Spot("C", budget=2.5, met=True)]}
    front = measure_front(methods, parts, 0.5, [2.0, 0.5], (3.0, 0.0), Bootstrap(n_resamples=50))
    one, two = front["methods"]
    assert [(p["risk"]["value"], p["reward"]["value"]) for p in one["points"]] == [(3, 1), (1, 0)]
    assert two["points"][0]["risk"]["value"] == 2 and two["points"][0]["reward"]["value"] == 0.75
    assert two["points"][0]["budget"] == 2.5 and two["points"][0]["met"] is True
    # On the line from B to A, reward ½ at a CVaR of 2. Nothing is within ½.
    assert [of["reward"]["value"] for of in one["within"]] == [pytest.approx(0.5), None]
    assert one["hypervolume"]["value"] == 0, "A is not left of the reference, B not above it"
    assert two["hypervolume"]["value"] == pytest.approx(0.75)
    assert front["differences"][2]["point"] == "C" and front["differences"][2]["method"] == "one"
    assert front["differences"][2]["reward_at_the_same_tail"]["value"] == pytest.approx(0.25)
    assert front["differences"][2]["risk_at_the_same_reward"]["value"] == pytest.approx(-0.5)
    # A has more reward than C ever had, and B less risk.
    assert front["differences"][0]["risk_at_the_same_reward"]["value"] is None
    assert front["differences"][1]["reward_at_the_same_tail"]["value"] is None
    assert front["reference"] == {"risk": 3.0, "reward": 0.0, "given": True}


def test_the_reference_is_the_worst_of_all_and_limits_are_the_budgets():
    parts = parts_of(records("A", [4, 2], [1, 1]), records("B", [1, 1], [0.5, 0]))
    front = measure_front({"one": [Spot("A")], "two": [Spot("B", budget=3.0)]}, parts, 1.0)
    assert front["reference"] == {"risk": 3.0, "reward": 0.25, "given": False}
    assert [of["limit"] for of in front["methods"][0]["within"]] == [3.0]
    without = measure_front({"one": [Spot("A"), Spot("B")]}, parts, 1.0)
    assert [of["limit"] for of in without["methods"][0]["within"]] == [1.5, 2.0, 2.5]


def test_limits_by_default_lie_within_what_was_measured():
    """Costs near 100 that differ by little: to two digits all would be 100, less than any of them."""
    parts = parts_of(records("A", [100.4, 100.4], [1, 1]), records("B", [100.412, 100.412], [2, 2]))
    front = measure_front({"one": [Spot("A"), Spot("B")]}, parts, 1.0)
    within = front["methods"][0]["within"]
    assert [of["limit"] for of in within] == [100.403, 100.406, 100.409]
    assert all(of["reward"]["value"] is not None for of in within)
    alone = measure_front({"one": [Spot("A")]}, parts_of(records("A", [100.4, 100.4], [1, 1])), 1.0)
    assert [(of["limit"], of["reward"]["value"]) for of in alone["methods"][0]["within"]] == [(100.4, 1.0)]


def test_intervals_are_paired():
    """Two models that differ by 1 on every prompt, among prompts that differ by far more."""
    rng = np.random.default_rng(0)
    level = rng.normal(0, 10, 200)
    parts = parts_of(records("A", level, level), records("B", level, level + 1))
    points = PairedPoints(parts, 0.5)
    difference = points.estimate(lambda risks, rewards: float(rewards[1] - rewards[0]))
    assert difference["value"] == pytest.approx(1) and difference["low"] == pytest.approx(1)
    alone = points.estimate(lambda risks, rewards: float(rewards[0]), ["B"])
    assert alone["high"] - alone["low"] > 1
    assert difference["method"] == "percentile by prompt"


def test_a_resample_counts_each_prompts_answers_as_often_as_it_was_drawn():
    """Against the same resamples, made by hand, of prompts with one to three answers in a mixed order, which share the
    weight of their prompt."""
    rng = np.random.default_rng(1)
    rows = [
        {"prompt": f"p{i}", "response": "r", "cost": cost, "reward": reward, "model": "A"}
        for i in range(7)
        for cost, reward in rng.normal(size=(1 + i % 3, 2))
    ]
    rng.shuffle(rows)
    columns = read_columns(rows)
    points = PairedPoints({"A": columns}, 0.3, Bootstrap(n_resamples=5, seed=3))
    counts = np.concatenate(list(resamples(7, 5, np.random.default_rng(3))))
    groups = np.unique(columns.group)
    for row, count in enumerate(counts, start=1):
        codes = np.searchsorted(groups, columns.group)
        weights = count[codes] / np.bincount(codes)[codes]
        assert points.risks[row, 0] == pytest.approx(cvar(columns.cost, 0.3, weights))
        assert points.rewards[row, 0] == pytest.approx(np.average(columns.reward, weights=weights))


def test_an_interval_covers_what_it_is_about():
    """The mean of 100 normal numbers, 200 times over: at 95 %, at least 176 of them (one in a thousand fails)."""
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=100)
        points = PairedPoints(parts_of(records("A", values, values)), 1.0, Bootstrap(n_resamples=200, seed=seed))
        found = points.estimate(lambda risks, rewards: float(rewards[0]))
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 176


def test_no_interval_where_resamples_leave_the_measured_range():
    """B lies within A and A's twin only just: in many resamples it does not."""
    parts = parts_of(
        records("A", [0, 0, 2, 2], [1, 1, 1, 1]),
        records("A'", [4, 4, 4, 4], [2, 2, 2, 2]),
        records("B", [0, 1, 1, 2.1], [1, 1, 1, 1]),
    )
    methods = {"one": [Spot("A"), Spot("A'")], "two": [Spot("B")]}
    found = measure_front(methods, parts, 1.0, bootstrap=Bootstrap(n_resamples=200))["differences"][-1]
    assert found["reward_at_the_same_tail"]["value"] is not None
    assert found["reward_at_the_same_tail"]["low"] is None and found["reward_at_the_same_tail"]["method"] == "none"


def test_all_models_are_read_on_the_prompts_that_all_answered():
    """B has no reward for p1, and C no answer to p2: p0 and p3 are left."""
    parts = parts_of(
        records("A", [1, 2, 3, 4], [1, 1, 1, 5]),
        records("B", [1, 1, 1, 1], [0, None, 0, 0]),
        [record for record in records("C", [0, 0, 0, 0], [0, 0, 0, 0]) if record["prompt"] != "p2"],
    )
    points = PairedPoints(parts, 1.0)
    assert points.n_prompts == 2 and points.risks[0, 0] == 2.5 and points.rewards[0, 0] == 3
    with pytest.raises(ValueError, match="no prompt of which all have an answer"):
        PairedPoints(parts | parts_of([{**row, "prompt": "q"} for row in records("D", [1], [1])]), 1.0)


def test_several_answers_to_a_prompt_are_drawn_together():
    parts = parts_of(records("A", [0, 0, 4, 4], [0, 0, 4, 4], draws=2))
    points = PairedPoints(parts, 1.0, Bootstrap(n_resamples=100))
    assert points.n_prompts == 2 and set(points.rewards[1:, 0]) == {0.0, 2.0, 4.0}
    one = PairedPoints(parts_of(records("A", [1, 3], [1, 3], draws=2)), 1.0)
    assert one.estimate(lambda risks, rewards: float(rewards[0])) == {
        "value": 2.0,
        "low": None,
        "high": None,
        "method": "none",
    }


def test_a_prompt_weighs_the_same_however_many_of_its_answers_have_scores():
    """Two models with the same answers to four prompts; B has lost three of four scores on the two bad ones."""
    costs, rewards = [4.0] * 8 + [0.0] * 8, [0.0] * 8 + [1.0] * 8
    lost = [c if i % 4 == 0 or i >= 8 else None for i, c in enumerate(costs)]
    parts = parts_of(records("A", costs, rewards, draws=4), records("B", lost, rewards, draws=4))
    front = measure_front({"one": [Spot("A")], "two": [Spot("B")]}, parts, 0.5, bootstrap=Bootstrap(n_resamples=50))
    (a,), (b,) = (method["points"] for method in front["methods"])
    assert a["risk"]["value"] == b["risk"]["value"] == 4.0 and a["reward"]["value"] == b["reward"]["value"] == 0.5


def test_the_table():
    parts = parts_of(records("A", [4, 2], [1, 1]), records("B", [1, 1], [0, 0]))
    methods = {"one": [Spot("A", {"λ": 0.5})], "two": [Spot("B", {"budget": 2}, 2.0, False)]}
    rows = list(csv.DictReader(io.StringIO(front_table(measure_front(methods, parts, 1.0)))))
    assert [row["model"] for row in rows] == ["A", "B"] and [row["λ"] for row in rows] == ["0.5", ""]
    assert rows[0]["cvar"] == "3.0" and rows[1]["met"] == "False" and rows[0]["met"] == ""
