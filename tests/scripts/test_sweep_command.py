"""`trl-rsa sweep`: what it refuses, and a sweep of two points from files to the page."""

import json

import pytest
import yaml

from trl_rsa.cli import main
from trl_rsa.scripts.sweep import _report_failures


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "You gave no plan, but a sweep varies one."),
        (["plan.yaml", "--over", "seed=1"], "You set no evaluation, but each point is measured by one."),
        (["--page", "a", "--over", "seed=1"], "You set page and over, but a page is made of sweeps that are run."),
        (["--page", "a"], "You set page, but no output_dir, and a page needs a folder of its own."),
        (["--page", "a", "--output_dir", "b"], "You gave the sweep 'a', but it has no sweep.json."),
        (["p.yaml", "--evaluation", "e.yaml", "--name", "A", "--name", "B"], "You set 2 names, but one sweep is one"),
        (["p.yaml", "--evaluation", "e.yaml", "--unsafe_above", "1"], "Set it in e.yaml, or with --page."),
        (["p.yaml", "--evaluation", "e.yaml", "--tail", "5"], "You set tail=5.0, but the tail is"),
        (["p.yaml", "--evaluation", "e.yaml", "--limits", "nan"], "You set limits to nan, but a limit is"),
        (["p.yaml", "--evaluation", "e.yaml", "--reference", "nan", "nan"], "You set reference to nan nan, but"),
        (["--config", "plan.yaml"], "You set no evaluation, but each point is measured by one."),
        (["nowhere.yaml", "--over", "seed=1", "--evaluation", "e.yaml"], "there is no such file"),
    ],
)
def test_what_is_refused(argv, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *argv]) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_model_path, make_preference_dataset):
    """plan.yaml and evaluate.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_preference_dataset(12).to_json("pairs.jsonl")
    args = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_steps": 1}
    args |= {"per_device_train_batch_size": 4, "disable_tqdm": True, "save_strategy": "no"}
    stages = [{"name": "safe", "dataset": "pairs.jsonl", "dataset_options": {"template": "none"}}]
    plan = {"model": tiny_model_path, "output_dir": "unused", "args": args, "stages": stages}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "prompts.txt").write_text("the cat ran\na dog sat\nthe hill was red\n")
    (tmp_path / "scores.py").write_text(
        "def cost(prompts, completions):\n    return [len(c) / 10 - 1 for c in completions]\n"
        "def reward(prompts, completions):\n    return [float(c.count('e')) for c in completions]\n"
    )
    evaluation = {"prompts": "prompts.txt", "reward": "scores.py:reward", "cost": "scores.py:cost"}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(evaluation | {"max_new_tokens": 4, "device": "cpu"}))
    return tmp_path


SWEEP = ["sweep", "plan.yaml", "--over", "beta=0.1,1", "--evaluation", "evaluate.yaml", "--output_dir", "out"]


def test_a_dry_run_says_what_each_point_costs_and_writes_nothing(files, capsys):
    assert main([*SWEEP, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "[1/2] β=0.1: safe 12 pairs, 1 steps; evaluates 3 responses" in out
    assert not (files / "out").exists()


@pytest.mark.slow
def test_from_files_to_the_page_and_on_with_a_bad_point(files, capsys, monkeypatch):
    assert main([*SWEEP, "--name", "DPO", "--reference", "9", "-9"]) == 0
    front = json.loads((files / "out/front.json").read_text())
    assert [point["name"] for point in front["methods"][0]["points"]] == ["β=0.1", "β=1"]
    assert front["reference"] == {"risk": 9.0, "reward": -9.0, "given": True}
    assert (files / "out/report.html").exists() and "| DPO | 2 |" in capsys.readouterr().out
    monkeypatch.setattr("trl_rsa.sweep.run.align", lambda *args, **kwargs: 1 / 0)
    more = [word.replace("beta=0.1,1", "beta=2") for word in SWEEP]
    assert main([*more, "--name", "DPO"]) == 1
    out = capsys.readouterr().out
    assert "β=2 FAILED: ZeroDivisionError: division by zero. The traceback is in out/points/beta_2/problem.txt." in out
    assert "1 point is not on the page, not being complete: β=2." in out
    # It is not asked for any more.
    assert main(SWEEP) == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out and "1 point is not on the page" in out and "| DPO | 2 |" in out


def test_only_what_is_asked_for_fails_and_only_a_traceback_that_is_there_is_named(tmp_path, capsys):
    points = [{"name": n, "folder": f"points/{n}", "status": "failed", "problem": "No."} for n in "ab"]
    (tmp_path / "points/a").mkdir(parents=True)
    (tmp_path / "points/a/problem.txt").touch()
    assert _report_failures({"points": points}, tmp_path, {"points/c"}) == 0 and not capsys.readouterr().out
    assert _report_failures({"points": points}, tmp_path, {"points/a", "points/b"}) == 1
    where = tmp_path / "points/a/problem.txt"
    assert capsys.readouterr().out == f"a FAILED: No. The traceback is in {where}.\nb FAILED: No.\n"


def test_the_evaluation_brings_no_models(files, capsys):
    evaluation = yaml.safe_load((files / "evaluate.yaml").read_text())
    (files / "evaluate.yaml").write_text(yaml.safe_dump(evaluation | {"model": ["a=b"]}))
    assert main(SWEEP) == 2
    assert "finished models go to --model" in capsys.readouterr().err
