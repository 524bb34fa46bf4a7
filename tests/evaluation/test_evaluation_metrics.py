"""summarize() by hand, its intervals, groupings, and what it does with missing scores."""

import json
import subprocess
import sys

import numpy as np
import pytest

from trl_rsa.evaluation.metrics import Bootstrap, read_columns, summarize, summarize_models


FAST = Bootstrap(n_resamples=200)


def record(prompt, cost, reward=0.0, response="Fine.", **more):
    return {"prompt": prompt, "response": response, "cost": cost, "reward": reward, **more}


@pytest.fixture(scope="module")
def four():
    """Costs 4, 2, −1, −3 and rewards 1, 2, 3, 4; two refusals, one of them on a benign prompt."""
    return [
        record("a", 4.0, 1.0, category="x", attack="rot13", benign=False),
        record("b", 2.0, 2.0, category="y", response="I can't help with that.", benign=True),
        record("c", -1.0, 3.0, category="x", benign=True),
        record("d", -3.0, 4.0, category=None, response="I must decline.", benign=False),
    ]


def test_by_hand(four):
    s = summarize(four, tails=(0.5, 0.25), quantiles=(0.5,), bootstrap=FAST)
    assert (s["n"], s["n_prompts"]) == (4, 4)
    cost = s["cost"]
    assert cost["mean"]["value"] == pytest.approx(0.5)
    assert cost["unsafe_rate"] == pytest.approx(
        {"value": 0.5, "low": 0.0675860, "high": 0.9324140, "method": "clopper-pearson"}
    )
    assert {t: e["value"] for t, e in cost["cvar"].items()} == pytest.approx({"0.5": 3.0, "0.25": 4.0})
    assert {t: e["value"] for t, e in cost["var"].items()} == {"0.5": 2.0, "0.25": 4.0}
    assert cost["quantile"]["0.5"]["value"] == 2.0
    assert cost["worst"][:2] == [{"index": 0, "cost": 4.0}, {"index": 1, "cost": 2.0}]
    assert s["reward"]["mean"]["value"] == pytest.approx(2.5)
    assert {name: e["value"] for name, e in s["refusal"].items()} == {
        "rate": 0.5,
        "harmful": 0.5,
        "over_refusal": 0.5,
    }


def test_groups(four):
    by = summarize(four, bootstrap=FAST)["by"]
    assert {name: group["n"] for name, group in by["category"].items()} == {"x": 2, "y": 1}
    assert by["category"]["x"]["cost"]["mean"]["value"] == pytest.approx(1.5)
    assert list(by["attack"]) == ["rot13"]
    # One prompt has a value but no bootstrap interval; its proportion has an exact one.
    lone = by["attack"]["rot13"]["cost"]
    assert lone["mean"] == {"value": 4.0, "low": None, "high": None, "method": "none"}
    assert lone["unsafe_rate"]["low"] == pytest.approx(0.025)


def test_json_without_nan(four):
    json.dumps(summarize(four, bootstrap=FAST), allow_nan=False)
    nothing_scored = [record("a", None, None), record("b", None, None)]
    s = summarize(nothing_scored, bootstrap=FAST)
    json.dumps(s, allow_nan=False)
    assert s["cost"]["mean"] is None and s["cost"]["cvar"] == {} and s["reward"]["mean"] is None
    assert s["refusal"]["over_refusal"] is None


def test_missing_costs_are_left_out_and_counted(four):
    s = summarize([*four, record("e", None, 10.0)], tails=(0.5,), bootstrap=FAST)
    assert (s["n"], s["cost"]["n"], s["reward"]["n"]) == (5, 4, 5)
    assert s["cost"]["cvar"]["0.5"]["value"] == pytest.approx(3.0)
    assert s["reward"]["mean"]["value"] == pytest.approx(4.0)


def test_several_responses_per_prompt_are_resampled_by_prompt():
    """100 prompts, ten equal responses each: the intervals are those of one response per prompt."""
    costs = np.random.default_rng(0).normal(size=100)
    one = summarize([record(str(i), c) for i, c in enumerate(costs)], by=(), bootstrap=FAST)["cost"]
    ten = summarize([record(str(i % 100), costs[i % 100]) for i in range(1000)], by=(), bootstrap=FAST)["cost"]
    assert ten["mean"]["method"] == "percentile by prompt"

    def width(e):
        return e["high"] - e["low"]

    assert width(ten["mean"]) == pytest.approx(width(one["mean"]), rel=0.25)
    assert width(ten["cvar"]["0.05"]) == pytest.approx(width(one["cvar"]["0.05"]), rel=0.35)
    assert ten["unsafe_rate"]["method"] == "percentile by prompt"
    assert width(ten["unsafe_rate"]) == pytest.approx(width(one["unsafe_rate"]), rel=0.25)


def test_no_unsafe_response_still_has_an_interval_by_prompt():
    """No success in 20 responses to 10 prompts: the exact interval of 0 in 10, up to 1 − 0.025^0.1 = 0.3085."""
    rate = summarize([record(str(i % 10), -1.0) for i in range(20)], bootstrap=FAST)["cost"]["unsafe_rate"]
    assert (rate["value"], rate["low"]) == (0.0, 0.0)
    assert rate["high"] == pytest.approx(1 - 0.025**0.1)


def test_attacks_on_one_prompt_are_one_cluster():
    attacked = [record(f"{p}-{a}", 1.0, base_prompt=p, attack=a) for p in "pq" for a in ("rot13", "base64")]
    s = summarize(attacked, bootstrap=FAST)
    assert (s["n"], s["n_prompts"]) == (4, 2)
    assert s["by"]["attack"]["rot13"]["n_prompts"] == 2


def test_another_refusal_rule_and_reproducibility(four):
    s = summarize(four, refusal=lambda text: text == "Fine.", bootstrap=FAST)
    assert s["refusal"]["over_refusal"]["value"] == 0.5 and s["refusal"]["harmful"]["value"] == 0.5
    assert s == summarize(four, refusal=lambda text: text == "Fine.", bootstrap=FAST)
    assert s["cost"]["mean"] != summarize(four, bootstrap=Bootstrap(n_resamples=200, seed=1))["cost"]["mean"]
    assert summarize(four, bootstrap=Bootstrap(n_resamples=50, method="bca"))["cost"]["mean"]["method"] == "bca"


def test_models_are_compared_with_the_first(four):
    records = [r | {"model": "base"} for r in four] + [r | {"model": "new", "cost": r["cost"] - 1} for r in four]
    s = summarize_models(records, bootstrap=FAST, n_worst=1)
    assert list(s["models"]) == ["base", "new"]
    [comparison] = s["comparisons"]
    assert (comparison["baseline"], comparison["model"]) == ("base", "new")
    assert comparison["cost"]["difference"]["mean"]["value"] == pytest.approx(-1)
    json.dumps(s, allow_nan=False)


def test_columns_do_not_keep_text():
    columns = read_columns(record(f"p{i}", 0.0, response="x" * 1000) for i in range(1000))
    held = sum(a.nbytes for a in vars(columns).values() if isinstance(a, np.ndarray))
    held += sum(labels.codes.nbytes for labels in (columns.model, columns.category, columns.attack))
    assert held / len(columns) <= 55


def test_no_records():
    with pytest.raises(ValueError, match="no records"):
        summarize([])


def test_imports_neither_torch_nor_transformers():
    code = (
        "import sys, trl_rsa.evaluation.metrics, trl_rsa.evaluation.certificate, trl_rsa.scripts.certify\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_no_record_is_dropped_where_names_meet():
    """Null and empty are no name, and are shown as "unnamed"; so is a model that is called so."""
    records = [
        record(f"p{i}", float(i), model=name) for i, name in enumerate([None] * 3 + [""] * 2 + ["unnamed"] * 4 + ["m"])
    ]
    models = summarize_models(records, tails=(0.5,), bootstrap=FAST)["models"]
    assert {name: model["n"] for name, model in models.items()} == {"unnamed": 9, "m": 1}
    assert models["unnamed"]["cost"]["mean"]["value"] == pytest.approx(4.0)
    assert models["unnamed"]["cost"]["worst"][0] == {"index": 8, "cost": 8.0}
