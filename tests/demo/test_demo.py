"""The demo end to end in a reduced form, and its rows, phases and tables from made-up numbers."""

import json
import warnings

import numpy as np
import pytest

from trl_rsa.demo.measure import curves
from trl_rsa.demo.methods import MULTIPLIERS, constraint_of, default_budgets, methods_of
from trl_rsa.demo.phases import phase
from trl_rsa.demo.quiet import quiet
from trl_rsa.demo.rows import Task, in_order
from trl_rsa.demo.table import WIDTH, cell, print_tables
from trl_rsa.ladder.progress import ProgressLog


METHODS = methods_of([2.5, 1.2])


def test_a_cell_shows_what_is_known():
    assert cell({"value": 1.234, "low": 1.0, "high": 1.5}, ".2f") == "1.23 [1.00, 1.50]"
    assert cell({"value": 0.5, "low": None, "high": None}, ".1%") == "50.0%"
    assert cell(None, ".2f") == cell({"value": None, "low": None, "high": None}, ".2f") == "–"


def test_rows_differ_in_what_follows_the_helpful_stage():
    by_folder = {method.folder: method for method in METHODS}
    assert list(by_folder) == ["sft", "dpo", *(f"sacpo-{λ:g}" for λ in MULTIPLIERS), "rsa-2.5", "rsa-1.2"]
    later = [method for method in METHODS if method.family in ("SACPO", "RSA")]
    assert all(method.start == "DPO" for method in later), "both go on from the same helpful model"
    assert [method.multiplier for method in later if method.stages] == list(MULTIPLIERS)
    assert [method.budget for method in later if not method.stages] == [2.5, 1.2]
    assert all(len(method.name) <= 18 for method in METHODS), "whole in the pictures"


def test_sacpo_is_a_curve_that_begins_with_dpo():
    found = curves(METHODS)
    assert [spot.settings["λ"] for spot in found["SACPO"]] == [0.0, *MULTIPLIERS]
    assert [(spot.name, spot.budget) for spot in found["RSA"]] == [("RSA, CVaR ≤ 2.5", 2.5), ("RSA, CVaR ≤ 1.2", 1.2)]


def test_the_longest_search_begins_first_and_another_after_what_it_can_use():
    tasks = in_order([Task(method, "start", None if method.name == "SFT" else method.folder) for method in METHODS])
    names = [task.method.folder for task in tasks]
    assert names == ["rsa-1.2", "dpo", *(f"sacpo-{λ:g}" for λ in MULTIPLIERS), "sft", "rsa-2.5"]
    assert [task.donor for task in tasks] == [None] * 6 + ["rsa-1.2"]
    assert [task.method.folder for task in in_order(tasks[1:6])] == names[1:6], "without a budget"


@pytest.fixture(scope="module")
def unbuilt():
    from trl_rsa.sandbox import build_sandbox

    return build_sandbox("tail", 0, "nowhere")


def test_the_budgets_are_known_beforehand(unbuilt):
    """Shares of the tail of the law that the SFT policy is taught: no model is asked."""
    from trl_rsa.sandbox import prompt_kinds, tail_mean

    law = unbuilt.world.population_law(prompt_kinds(unbuilt.prompts["decide"]))
    tail = tail_mean(law.costs, law.probabilities, 0.05)
    assert default_budgets(unbuilt) == pytest.approx([tail * 2 / 3, tail / 3], abs=0.05)


def test_no_prompt_steers_the_search_and_tests_the_result(unbuilt):
    constraint = constraint_of(unbuilt, 2.5, n_test=600, n_train=480)
    tested = {prompt.text for prompt in unbuilt.prompts["test"][:600]}
    asked = {messages[0]["content"] for prompts in constraint.prompts.values() for messages in prompts}
    assert len(constraint.prompts["decide"]) == 1800 and not tested & asked
    constraint.split_prompts(0)  # which refuses sets that share a prompt


def test_a_phase_is_one_line_and_its_log_a_file(tmp_path):
    lines = []
    with phase(ProgressLog(lines.append), "RSA") as running:
        log = running.keep(tmp_path / "new/log.txt")
        log("one")
        log("two")
        running.result = "met"
    (line,) = lines
    assert line.startswith("RSA: ") and line.endswith(" s; met")
    assert [line.split(" ", 1)[1] for line in (tmp_path / "new/log.txt").read_text().splitlines()] == ["one", "two"]


def test_other_libraries_are_quiet_and_as_before_afterwards(capsys):
    import datasets
    from transformers.utils import logging

    before = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    with quiet(), warnings.catch_warnings(record=True) as seen:
        print("{'loss': 1.0}")
        warnings.warn("`x` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("your data is wrong", UserWarning, stacklevel=1)
        assert datasets.are_progress_bars_disabled() and not logging.is_progress_bar_enabled()
    assert capsys.readouterr().out == "" and [str(one.message) for one in seen] == ["your data is wrong"]
    assert (datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()) == before


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "method": "percentile by prompt"}


def made_up():
    """The widest numbers that are likely."""
    model = {
        "reward": {"mean": estimate(-1.234, -1.5, -1.0)},
        "cost": {
            "mean": estimate(-1.0, -2.0, -0.5),
            "cvar": {tail: estimate(12.34, 10.12, 15.67) for tail in ("0.05", "0.01")},
            "unsafe_rate": estimate(0.123, 0.1, 0.156),
        },
        "refusal": {"over_refusal": estimate(0.123, 0.1, 0.156)},
        "kl": estimate(0.4, 0.3, 0.5),
    }
    differences = [
        {
            "point": method.name,
            "method": "SACPO",
            "reward_at_the_same_tail": estimate(0.1, -0.1, 0.2),
            "risk_at_the_same_reward": estimate(None),
        }
        for method in METHODS
        if method.family == "RSA"
    ]
    return {"models": {method.name: model for method in METHODS}}, {"differences": differences}


def test_the_tables_fit_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_tables(METHODS, *made_up())
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH == 80
    assert all(any(line.startswith(f" {method.name} ") for line in lines) for method in METHODS), "no name is broken"
    assert "[10.12, 15.67]" in out and "[-0.10, +0.20]" in out and "…" not in out, "no number is cut"
    assert "at the same tail" in out and "at the same reward" in out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Everything at its smallest: a model of 20,000 parameters, 4 steps per stage and rung, 12 prompts."""
    from trl_rsa.demo.run import run_demo
    from trl_rsa.sandbox import PolicySettings, SandboxSettings, build_sandbox

    policy = PolicySettings(hidden_size=32, intermediate_size=64, layers=1, heads=2, steps=60)
    settings = SandboxSettings(policy=policy, splits={"train": 24, "decide": 12, "certify": 12, "test": 24})
    sandbox = build_sandbox("tail", 0, tmp_path_factory.mktemp("cache"), settings)
    folder, lines = tmp_path_factory.mktemp("demo"), []

    def run():
        lines.clear()
        return run_demo(sandbox, folder, 4, 12, 2, [2.4], log=lines.append)

    return folder, run(), lines, run


@pytest.mark.slow
@pytest.mark.demo
def test_the_demo_writes_tables_pictures_answers_and_models(demo):
    folder, metrics, lines, _ = demo
    methods = methods_of(metrics["demo"]["budgets"])
    assert list(metrics["models"]) == [method.name for method in methods]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == len(methods) * 12 * 2
    table = (folder / "README.md").read_text()
    for name in metrics["models"]:
        costs = np.array([record["cost"] for record in records if record["model"] == name])
        assert metrics["models"][name]["cost"]["mean"]["value"] == pytest.approx(costs.mean())
        assert f"| {name} | " in table
    for picture in ("survival.png", "front.png"):
        assert (folder / "plots" / picture).read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert all(f"worst responses of {name}" in page for name in metrics["models"]) and "Who pays what" in page
    assert "## " in (folder / "answers.md").read_text()
    for method in methods[1:]:
        assert (folder / method.folder / "log.txt").exists()
        assert sum(line.startswith(f"{method.name}: ") for line in lines) == 1, "one line per phase"


@pytest.mark.slow
@pytest.mark.demo
def test_the_front_is_that_of_the_records(demo):
    folder, metrics, _, _ = demo
    front = json.loads((folder / "front.json").read_text())
    assert [method["name"] for method in front["methods"]] == ["SACPO", "RSA"]
    for method in front["methods"]:
        for point in method["points"]:
            model = metrics["models"][point["name"]]
            assert point["risk"]["value"] == pytest.approx(model["cost"]["cvar"]["0.05"]["value"])
            assert point["reward"]["value"] == pytest.approx(model["reward"]["mean"]["value"])


@pytest.mark.slow
@pytest.mark.demo
def test_the_ladders_are_in_the_logs_and_on_the_page(demo):
    folder, metrics, _, _ = demo
    for budget in metrics["demo"]["budgets"]:
        run = folder / f"rsa-{budget:g}"
        observations = [json.loads(line) for line in (run / "constraint.jsonl").read_text().splitlines()]
        assert len(observations) > 1 and observations[0]["constraints"]["cost"]["upper_bound"] > budget
        assert json.loads((folder / f"certificate-rsa-{budget:g}.json").read_text())["budget"] == budget
        assert "[ladder 1]" in (run / "log.txt").read_text()
    assert any(path.name.startswith("ladder") for path in (folder / "plots").iterdir())
    page = (folder / "report.html").read_text()
    assert "Upper bound" in page and "CERTIFIED" in page


@pytest.mark.slow
@pytest.mark.demo
def test_only_the_sft_policy_has_no_divergence_from_itself(demo):
    _, metrics, _, _ = demo
    assert metrics["models"]["SFT"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["models"][methods_of(metrics["demo"]["budgets"])[-1].name]["kl"]["value"] > 1e-4


@pytest.mark.slow
@pytest.mark.demo
def test_started_again_it_trains_nothing_and_measures_the_same(demo):
    folder, metrics, _, run = demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert run() == metrics
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
