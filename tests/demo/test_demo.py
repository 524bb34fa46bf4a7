"""The demo end to end in a reduced form, and its pictures and table from made-up numbers."""

import json

import numpy as np
import pytest

from trl_rsa.demo.methods import METHODS, default_budget
from trl_rsa.demo.table import cell


RSA = METHODS[-1].name


def test_a_cell_shows_what_is_known():
    assert cell({"value": 1.234, "low": 1.0, "high": 1.5}, ".2f") == "1.23 [1.00, 1.50]"
    assert cell({"value": 0.5, "low": None, "high": None}, ".1%") == "50.0%"
    assert cell(None, ".2f") == cell({"value": None, "low": None, "high": None}, ".2f") == "–"


def test_methods_differ_in_their_loss_and_in_what_follows_the_helpful_stage():
    by_folder = {method.folder: method for method in METHODS}
    assert list(by_folder) == ["sft", "dpo", "sacpo", "rsa"]
    assert by_folder["sacpo"].start == "DPO" and by_folder["sacpo"].stages == ("safe",)
    assert by_folder["dpo"].stages == by_folder["rsa"].stages == ("helpful",)
    assert [name for name, method in by_folder.items() if method.constrained] == ["rsa"]
    assert all(len(method.name) <= 18 for method in METHODS), "whole in the pictures"


def test_the_budget_is_known_beforehand():
    """Two thirds of the tail of the law that the SFT policy is taught: no model is asked."""
    from trl_rsa.sandbox import build_sandbox, prompt_kinds, tail_mean

    sandbox = build_sandbox("tail", 0, "nowhere")
    law = sandbox.world.population_law(prompt_kinds(sandbox.prompts["decide"]))
    assert default_budget(sandbox) == pytest.approx(tail_mean(law.costs, law.probabilities, 0.05) * 2 / 3, abs=0.05)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Everything at its smallest: a model of 20,000 parameters, 4 steps per stage and rung, 12 prompts."""
    from trl_rsa.demo.run import run_demo
    from trl_rsa.sandbox import PolicySettings, SandboxSettings, build_sandbox

    policy = PolicySettings(hidden_size=32, intermediate_size=64, layers=1, heads=2, steps=60)
    settings = SandboxSettings(policy=policy, splits={"train": 24, "decide": 12, "certify": 12, "test": 12})
    sandbox = build_sandbox("tail", 0, tmp_path_factory.mktemp("cache"), settings)
    folder, lines = tmp_path_factory.mktemp("demo"), []

    def run():
        lines.clear()
        return run_demo(sandbox, folder, 4, 12, 2, log=lines.append, training={"disable_tqdm": True})

    return folder, run(), lines, run


@pytest.mark.slow
@pytest.mark.demo
def test_the_demo_writes_table_pictures_answers_and_models(demo):
    folder, metrics, _, _ = demo
    assert list(metrics["models"]) == [method.name for method in METHODS]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == len(METHODS) * 12 * 2
    table = (folder / "README.md").read_text()
    for name in metrics["models"]:
        costs = np.array([record["cost"] for record in records if record["model"] == name])
        assert metrics["models"][name]["cost"]["mean"]["value"] == pytest.approx(costs.mean())
        assert f"| {name} | " in table
    for picture in ("survival.png", "tradeoff.png"):
        assert (folder / "plots" / picture).read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert all(f"worst responses of {name}" in page for name in metrics["models"])
    assert "## " in (folder / "answers.md").read_text()
    for method in ("dpo/01-helpful", "sacpo/01-safe", "rsa/01-helpful", "rsa/ladder/rung-01"):
        assert (folder / method / "config.json").exists()


@pytest.mark.slow
@pytest.mark.demo
def test_the_ladder_is_shown_while_it_runs_and_on_the_page(demo):
    folder, metrics, _, _ = demo
    observations = [json.loads(line) for line in (folder / "rsa" / "constraint.jsonl").read_text().splitlines()]
    assert len(observations) > 1 and observations[0]["constraints"]["cost"]["upper_bound"] > metrics["demo"]["budget"]
    assert any(path.name.startswith("ladder") for path in (folder / "plots").iterdir())
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["budget"] == metrics["demo"]["budget"]
    page = (folder / "report.html").read_text()
    assert "Upper bound" in page and "CERTIFIED" in page


@pytest.mark.slow
@pytest.mark.demo
def test_only_the_sft_policy_has_no_divergence_from_itself(demo):
    _, metrics, _, _ = demo
    assert metrics["models"]["SFT"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["models"][RSA]["kl"]["value"] > 1e-4


@pytest.mark.slow
@pytest.mark.demo
def test_started_again_it_trains_nothing_and_measures_the_same(demo):
    _, metrics, lines, run = demo
    assert run() == metrics
    assert sum("complete already" in line for line in lines) == 3
    rounds = (demo[0] / "rsa" / "constraint.jsonl").read_text().splitlines()
    assert sum("(done already)" in line for line in lines) == len(rounds)
