"""The plan: it foretells audits that are then made, falls with the labels, and says what a pilot is too small for."""

import json

import numpy as np
import pytest

from tests.audits import laws
from trl_rsa.audits.bound import audited_cvar_bound
from trl_rsa.audits.planning import PlanFile, PlannedAudit, plan_labels
from trl_rsa.audits.selection import choose
from trl_rsa.evaluation.ledger import attempt_delta
from trl_rsa.evaluation.tails import cvar
from trl_rsa.scripts._command import run_command
from trl_rsa.storage.digests import response_key
from trl_rsa.storage.records import RecordWriter


OPTIONS = {"tail": 0.2, "bounds": laws.BOUNDS, "n_prompts": 600, "numbers": [60, 150, 400], "repeats": 12}


@pytest.fixture(scope="module")
def plan():
    scores, harm = laws.LAWS["graded"](np.random.default_rng(0), 1000)
    return plan_labels(scores, harm, budget=6.5, **OPTIONS)


def test_it_foretells_the_audit(plan):
    """Twelve audits of fresh data: their mean bound within 0.5 of the plan's, for the middle number of labels."""
    found, confidence = [], 1 - attempt_delta(0.05, 1)
    for i in range(12):
        scores, harm = laws.LAWS["graded"](np.random.default_rng([1, i]), 600)
        keys = [f"{i} {j}" for j in range(600)]
        drawn = choose(keys, scores, 150, seed=i)
        seen = np.where(drawn.chosen, harm, np.nan)
        settings = {"tail": 0.2, "bounds": laws.BOUNDS, "confidence": confidence, "keys": keys, "least": drawn.least}
        found.append(float(audited_cvar_bound(scores, seen, drawn.probabilities, seed=i, **settings)))
    assert plan.audits[1]["bound"] == pytest.approx(np.mean(found), abs=0.5)


def test_more_labels_less_bound(plan):
    bounds = [each["bound"] for each in plan.audits]
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] > plan.pilot_cvar
    assert all(each["low"] <= each["bound"] <= each["high"] for each in plan.audits)
    # ln(1/δ) (b − η) / (0.85 · m · tail) above the pilot's CVaR, δ the share of a first attempt.
    price = np.log(1 / attempt_delta(0.05, 1)) * (10 - plan.pilot_eta) / (0.85 * 400 * 0.2)
    assert plan.audits[2]["floor"] == pytest.approx(plan.pilot_cvar + price)


def test_how_many_would_do(plan):
    assert plan.enough is None or plan.audits[-1]["certified"] >= 0.8
    scores, harm = laws.LAWS["graded"](np.random.default_rng(0), 1000)
    generous = plan_labels(scores, harm, budget=9.9, **OPTIONS)
    assert generous.enough == 60 and "60 labels would do" in generous.table()
    strict = plan_labels(scores, harm, budget=cvar(harm, 0.2), **OPTIONS)
    assert strict.enough is None and "None of these numbers" in strict.table()


def test_weights_of_the_pilot_count():
    """A pilot in which harm was sought, with weights that say so: the CVaR of the weighted labels."""
    rng = np.random.default_rng(2)
    harm = np.repeat([-1.0, 10.0], 50)
    weights = np.where(harm > 0, 1.0, 19.0)
    found = plan_labels(rng.normal(size=100), harm, weights=weights, budget=5, **OPTIONS | {"repeats": 1})
    assert found.pilot_cvar == pytest.approx(0.25 * 10 - 0.75)  # 5 % of all, so a quarter of the tail


def test_the_same_seed_the_same_plan(plan):
    scores, harm = laws.LAWS["graded"](np.random.default_rng(0), 1000)
    assert plan_labels(scores, harm, budget=6.5, **OPTIONS) == plan
    assert plan_labels(scores, harm, budget=6.5, seed=1, **OPTIONS) != plan


def test_the_command(tmp_path, capsys):
    scores, harm = laws.LAWS["mostly safe"](np.random.default_rng(3), 300)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for i, score in enumerate(scores):
            writer.write({"prompt": f"p{i}", "response": "r", "cost": float(score), "model": "m"})
    grades = [list(laws.COSTS).index(h) for h in harm]
    lines = [{"id": response_key(f"p{i}", "r"), "grade": grade} for i, grade in enumerate(grades[:200])]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["plan", str(tmp_path / "records.jsonl"), str(tmp_path / "labels.jsonl"), "--tail", "0.2"]
    options = ["--budget", "6", "--prompts", "300", "--labels", "50", "200", "--repeats", "2"]
    assert run_command("audit-plan", [*words, *options, "--output", str(tmp_path / "plan.png")]) == 0
    shown = capsys.readouterr()
    assert "Pilot: 200 labels" in shown.out and "would do for the budget 6" in shown.out
    assert "50 labels: 2 simulated audits" in shown.err
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"
    content = json.loads((tmp_path / "plan.json").read_text())
    assert set(content) == set(PlanFile.__annotations__)
    assert set(content["audits"][0]) == set(PlannedAudit.__annotations__)
    assert run_command("audit-plan", [*words[:2], str(tmp_path / "absent.csv")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scores": np.zeros(5), "labels": np.zeros(5)}, "at least 30"),
        ({"weights": np.zeros(40)}, "not positive"),
        ({"numbers": [0]}, "at least one"),
        ({"repeats": 0}, "repeat at least once"),
    ],
)
def test_errors(change, sentence):
    arguments = {"scores": np.zeros(40), "labels": np.zeros(40), "budget": 5} | OPTIONS | change
    with pytest.raises(ValueError, match=sentence):
        plan_labels(arguments.pop("scores"), arguments.pop("labels"), **arguments)
