"""A sweep end to end on tiny models: shared stages, evaluation alike, a bad point, a kill, the page of several."""

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import trl_rsa.sweep.run as sweep_run
from trl_rsa import Plan, RiskConstraint, RungSettings, Stage, align
from trl_rsa.evaluation.request import CertificateSettings, Evaluation
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.report import write_report
from trl_rsa.sampling.response import Sampling
from trl_rsa.storage.records import read_records
from trl_rsa.sweep.axes import Axis
from trl_rsa.sweep.files import SweepState, read_sweep
from trl_rsa.sweep.page import write_front
from trl_rsa.sweep.run import Sweep
from trl_rsa.sweep.shared import common_stages, copy_finished_stages, copy_first_responses


ARGS = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "save_strategy": "no",
}
TEXT = {"template": "none"}
PROMPTS = [f"the {word} {verb}" for word in ("cat", "dog", "mat", "hill") for verb in ("ran", "sat", "was")]
MULTIPLIER = "stages.safe.constraint_multiplier"


def cost(prompts, completions, **kwargs):
    """Between −1 and 1, by the length of the answer."""
    return [min(len(completion.split()), 8) / 4 - 1 for completion in completions]


def reward(prompts, completions, **kwargs):
    return [float(completion.split().count("the")) for completion in completions]


def make_evaluation(model, prompts=PROMPTS, **changes):
    settings = {
        "models": {"start": model},
        "rows": [{"prompt": prompt, "category": None, "benign": None} for prompt in prompts],
        "reward": ScorerSpec(reward, "reward"),
        "cost": ScorerSpec(cost, "cost"),
        "sampling": Sampling(draws=2, max_new_tokens=6),
        "device": "cpu",
    }
    return Evaluation("unused", **(settings | changes))


@pytest.fixture
def plan(tiny_model_path, make_preference_dataset, tmp_path):
    pairs = make_preference_dataset(12)
    stages = [
        Stage("helpful", pairs, dataset_options=TEXT),
        Stage("safe", pairs, dataset_options=TEXT, constraint_multiplier=2.0),
    ]
    return Plan(stages, model=tiny_model_path, output_dir=str(tmp_path / "unused"), args=ARGS)


def run(plan, folder, axes, name=None, models=None, **changes):
    lines = []
    sweep = Sweep(plan, axes, make_evaluation(plan.model, **changes), folder, name, models)
    return sweep.run(lines.append), lines


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one, other):
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_shared_stage_is_trained_once_and_points_are_those_of_align(plan, tmp_path):
    folder = tmp_path / "sweep"
    state, lines = run(plan, folder, [Axis(MULTIPLIER, (0.5, 4.0))], models={"start": plan.model})
    _, first, second = state["points"]
    assert state == read_sweep(folder) and [point["name"] for point in state["points"]] == ["start", "λ=0.5", "λ=4"]
    assert all(point["status"] == "complete" for point in state["points"])
    assert (
        second["reused"] == ["helpful"] and "reused" not in first and "λ=4: helpful: trained already" in "".join(lines)
    )
    manifest = json.loads((folder / second["folder"] / "run/manifest.json").read_text())
    assert manifest["stages"][0]["copied_from"] == str(folder / first["folder"] / "run/01-helpful")
    assert "copied_from" not in manifest["stages"][1]
    # The copied stage leads to the very model that training everything would.
    alone = plan.__class__(**{**vars(plan), "output_dir": str(tmp_path / "alone")})
    alone.stages[1].constraint_multiplier = 4.0
    assert same(align(alone, log=lines.append).model, second["model"])
    assert not same(first["model"], second["model"])


@pytest.mark.slow
def test_started_again_it_repeats_nothing_and_takes_new_values(plan, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    before, _ = run(plan, folder, [Axis(MULTIPLIER, (0.5,))])
    calls = []
    real = sweep_run.align
    monkeypatch.setattr(sweep_run, "align", lambda plan, *args, **kw: calls.append(plan) or real(plan, *args, **kw))
    after, lines = run(plan, folder, [Axis(MULTIPLIER, (0.5, 1.0))])
    assert len(calls) == 1 and calls[0].stages[1].constraint_multiplier == 1.0
    assert after["points"][0] == before["points"][0] and "[1/2] λ=0.5: complete already" in lines
    only_new, _ = run(plan, folder, [Axis(MULTIPLIER, (1.0,))])
    assert [point["name"] for point in only_new["points"]] == ["λ=0.5", "λ=1"], "the earlier one stays"
    plan.stages[0].beta = 0.3
    with pytest.raises(ValueError, match=r"You changed the plan of the sweep .* \(stages\.0\.beta: 0\.1 before, 0\.3"):
        run(plan, folder, [Axis(MULTIPLIER, (0.5,))])


def state_of(folder, *points):
    """sweep.json read, with points of a name, settings, status and, of a finished model, its model."""
    names = ("name", "settings", "folder", "status", "model")
    entries = [dict(zip(names, point, strict=False)) for point in points]
    return SweepState(folder, "one", {"seed": 0}, {}, entries)


def test_a_folder_does_not_stand_for_another_point(tmp_path):
    """A folder is named by the last name of a field: a setting of another stage, or another model, has the same."""
    helpful, safe = (("β=0.5", {f"stages.{name}.beta": 0.5}, "points/beta_0.5", "complete") for name in "ab")
    model = ("base", {}, "points/base", "failed", "tiny")
    other = (*model[:4], "tiny2")
    state_of(tmp_path, helpful, model).update("points/base", status="failed")
    assert state_of(tmp_path, helpful, model).of("points/base")["model"] == "tiny"
    with pytest.raises(
        ValueError, match=r"with stages\.b\.beta=0\.5, .* holds the point β=0\.5 with stages\.a\.beta=0"
    ):
        state_of(tmp_path, safe)
    # Of a misspelt model nothing was made. Once something was, it is another point.
    assert state_of(tmp_path, other).of("points/base")["model"] == "tiny2"
    (tmp_path / "points/base/evaluation").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"the finished model tiny2, .* the finished model tiny\. .* another name"):
        state_of(tmp_path, other)
    with pytest.raises(ValueError, match=r"has another one of this name"):
        state_of(tmp_path, ("β=0.5", {"stages.a.beta": 0.5000001}, "points/beta_0.5000001", "planned"))


@pytest.mark.slow
def test_a_bad_point_does_not_lose_the_others_and_is_tried_again(plan, tmp_path, monkeypatch):
    folder, axes = tmp_path / "sweep", [Axis(MULTIPLIER, (0.5, 1.0, 2.0))]
    real = sweep_run.align

    def broken(plan, *args, **kwargs):
        if plan.stages[1].constraint_multiplier == 1.0:
            raise RuntimeError("out of\nmemory")
        return real(plan, *args, **kwargs)

    monkeypatch.setattr(sweep_run, "align", broken)
    state, lines = run(plan, folder, axes)
    assert [point["status"] for point in state["points"]] == ["complete", "failed", "complete"]
    failed = state["points"][1]
    assert failed["problem"] == "RuntimeError: out of memory" and any("λ=1: FAILED" in line for line in lines)
    assert "Traceback" in (folder / failed["folder"] / "problem.txt").read_text()
    assert len(write_front([folder], folder)["methods"][0]["points"]) == 2
    monkeypatch.setattr(sweep_run, "align", real)
    again, _ = run(plan, folder, axes)
    assert [point["status"] for point in again["points"]] == ["complete"] * 3 and "problem" not in again["points"][1]


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_like_an_uninterrupted_one(plan, tmp_path, monkeypatch):
    axes = [Axis(MULTIPLIER, (0.5, 2.0))]
    whole, _ = run(plan, tmp_path / "whole", axes)
    real, seen = sweep_run.EvaluationRun.run, []

    def stop(self):
        seen.append(self)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run.EvaluationRun, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(plan, tmp_path / "killed", axes)
    assert [p["status"] for p in read_sweep(tmp_path / "killed")["points"]] == ["complete", "running"]
    again, _ = run(plan, tmp_path / "killed", axes)
    for one, other in zip(whole["points"], again["points"], strict=True):
        assert same(one["model"], other["model"])
        records = [tmp_path / name / one["folder"] / "evaluation/records.jsonl" for name in ("whole", "killed")]
        assert records[0].read_bytes() == records[1].read_bytes()


def test_a_plan_that_cannot_be_run_is_refused_before_anything_is_written(plan, tmp_path):
    folder = tmp_path / "sweep"
    with pytest.raises(ValueError, match=r"The point dataset=nowhere\.jsonl cannot be run\."):
        run(plan, folder, [Axis("stages.helpful.dataset", ("nowhere.jsonl",))])
    assert not folder.exists()


def test_an_evaluation_must_measure_both(plan, tmp_path):
    axes = [Axis(MULTIPLIER, (0.5,))]
    for changes in ({"reward": None}, {"cost": None}):
        with pytest.raises(ValueError, match="without a reward, a cost or prompts"):
            run(plan, tmp_path, axes, **changes)
    with pytest.raises(ValueError, match="certified by luck"):
        run(plan, tmp_path, axes, certificate=CertificateSettings(0.0, (-1.0, 1.0)))
    with pytest.raises(ValueError, match="nothing to sweep over"):
        run(plan, tmp_path, [])


def test_what_decides_a_stage_decides_whether_it_is_shared(plan, other_tiny_model_path, make_preference_dataset):
    def changed(**changes):
        return plan.__class__(**{**vars(plan), **changes})

    safe = Stage("safe", plan.stages[1].dataset, dataset_options=TEXT, constraint_multiplier=4.0)
    assert common_stages(plan, changed()) == 2
    assert common_stages(plan, changed(stages=[plan.stages[0], safe])) == 1
    for changes in ({"seed": 1}, {"model": other_tiny_model_path}, {"args": {**ARGS, "max_steps": 3}}):
        assert common_stages(plan, changed(**changes)) == 0
    # Other rows under the same columns: in the manifest they look alike.
    other = Stage("helpful", make_preference_dataset(12, seed=1), dataset_options=TEXT)
    assert common_stages(plan, changed(stages=[other, plan.stages[1]])) == 0


def test_only_what_is_finished_and_unchanged_is_copied(plan, tmp_path):
    donor = plan.__class__(**{**vars(plan), "output_dir": str(tmp_path / "donor")})
    target = plan.__class__(**{**vars(plan), "output_dir": str(tmp_path / "target")})
    assert copy_finished_stages(target, [donor]) == [] and not (tmp_path / "target").exists()
    align(donor, log=lambda line: None)
    path = tmp_path / "donor/manifest.json"
    manifest = json.loads(path.read_text())
    for change in (
        {"stages": [{**manifest["stages"][0], "status": "running"}, manifest["stages"][1]]},
        {"versions": {**manifest["versions"], "torch": "1.0"}},
        {"models": {f"the model {plan.model}": "another"}},
    ):
        path.write_text(json.dumps(manifest | change))
        assert copy_finished_stages(target, [donor]) == []
    path.write_text(json.dumps(manifest))
    (tmp_path / "donor/01-helpful/config.json").write_text("{}")
    with pytest.raises(OSError, match="is not as its origin"):
        copy_finished_stages(target, [donor])
    assert not (tmp_path / "target/manifest.json").exists()


def ladder_of(plan, folder="unused", stages=None, rungs=None, seed=42, **changes):
    """From the helpful stage, or without a stage, to a budget."""
    settings = {"tail": 0.5, "confidence": 0.5, "bounds": (-1.0, 1.0), "budget": 0.9}
    prompts = {"train": PROMPTS[:4], "decide": PROMPTS[4:8], "certify": PROMPTS[8:]}
    constraint = RiskConstraint(**({"scorer": cost, "prompts": prompts} | settings | changes))
    options = {"sampling": {"max_new_tokens": 4}, "draws": {"train": 2}, "max_rungs": 1, "max_walk_backs": 0}
    return Plan(
        plan.stages[:1] if stages is None else stages,
        plan.model,
        str(folder),
        args=ARGS,
        constraint=constraint,
        rungs=RungSettings(**(options | (rungs or {}))),
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 0])
def test_ladders_from_one_model_share_its_responses_and_end_as_if_alone(plan, tmp_path, stages):
    """The copied responses, their model's name but for, are those that it would have drawn."""
    folder, asked = tmp_path / "sweep", []

    def counted(prompts, completions, **kwargs):
        asked.extend(prompts)
        return cost(prompts, completions)

    given = plan.stages[:stages]
    axes = [Axis("constraints.cost.budget", (-0.9, -0.95))]
    state, lines = run(ladder_of(plan, stages=given, scorer=counted), folder, axes)
    first, second = (folder / point["folder"] / "run" for point in state["points"])
    assert f"copied from {first}" in "".join(lines)
    alone = ladder_of(plan, tmp_path / "alone", stages=given, scorer=counted, budget=-0.95)
    before = len(asked)
    found = align(alone, log=lines.append)
    # A rung is trained on 4 · 2 responses, and each of 2 models is observed on 4 prompts; then 4 for the certificate.
    assert len(asked) - before == 8 + 2 * 4 + 4 and len(asked) == 2 * 20 + 8
    assert same(found.model, state["points"][1]["model"])
    for name in ("00-train", "00-decide", "01-decide"):
        mine, theirs = ([*read_records(f / f"ladder/{name}.jsonl", scores=())] for f in (second, tmp_path / "alone"))
        assert [record | {"model": ""} for record in mine] == [record | {"model": ""} for record in theirs]
        if stages and name.startswith("00"):
            assert {record["model"] for record in mine} == {str(second / "01-helpful")}


def test_only_responses_that_would_be_the_same_are_copied(plan, tmp_path, other_tiny_model_path):
    donor = ladder_of(plan, tmp_path / "donor", stages=[])
    assert copy_first_responses(ladder_of(plan, tmp_path / "early", stages=[]), [donor]) is None
    align(donor, log=lambda line: None)
    files = sorted(path.name for path in (tmp_path / "donor/ladder").glob("00-*"))
    assert "00-decide.jsonl" in files

    def copied(name, **changes):
        return copy_first_responses(ladder_of(plan, tmp_path / name, **({"stages": []} | changes)), [donor])

    assert copied("same", budget=-0.5, tail=0.25) == str(tmp_path / "donor")
    assert sorted(path.name for path in (tmp_path / "same/ladder").iterdir()) == files
    assert copied("same", budget=-0.5) is None, "it has begun"
    different = {
        "seed": {"seed": 1},
        "tokens": {"rungs": {"sampling": {"max_new_tokens": 5}}},
        "draws": {"rungs": {"draws": {"train": 3}}},
        "reward": {"rungs": {"reward": {"scorer": reward}}},
        "scorer": {"scorer": reward},
        "prompts": {"prompts": {"train": PROMPTS[:5], "decide": PROMPTS[5:8], "certify": PROMPTS[8:]}},
        "heat": {"under": {"temperature": 1.5}},
        "stage": {"stages": plan.stages[:1]},
    }
    for name, changes in different.items():
        assert copied(name, **changes) is None, name
        assert not (tmp_path / name).exists()
    plan.model = other_tiny_model_path
    assert copied("model") is None


@pytest.mark.slow
def test_several_sweeps_on_one_page(plan, tmp_path):
    ladder = ladder_of(plan)
    run(plan, tmp_path / "one", [Axis(MULTIPLIER, (0.5, 4.0))], "SACPO")
    run(ladder, tmp_path / "two", [Axis("constraints.cost.budget", (0.9, -0.9))], "RSA")
    folder = tmp_path / "page"
    front = write_front([tmp_path / "one", tmp_path / "two"], folder, limits=[0.5], write_page=write_report)
    assert [method["name"] for method in front["methods"]] == ["SACPO", "RSA"]
    assert front["tail"] == 0.5, "the ladder's"
    rsa = front["methods"][1]["points"]
    assert [(point["budget"], point["settings"]) for point in rsa] == [
        (0.9, {"constraints.cost.budget": 0.9}),
        (-0.9, {"constraints.cost.budget": -0.9}),
    ]
    assert [point["met"] for point in rsa] == [True, False]
    assert front["n_prompts"] == len(PROMPTS) and json.loads((folder / "front.json").read_text()) == front
    records = list(read_records(folder / "records.jsonl"))
    assert {record["model"] for record in records} == {"SACPO λ=0.5", "SACPO λ=4", "RSA budget=0.9", "RSA budget=-0.9"}
    metrics = json.loads((folder / "metrics.json").read_text())
    for method in front["methods"]:
        for point in method["points"]:
            model = metrics["models"][point["name"]]
            assert point["reward"]["value"] == pytest.approx(model["reward"]["mean"]["value"])
            assert point["risk"]["value"] == pytest.approx(model["cost"]["cvar"]["0.5"]["value"])
    rows = list(csv.DictReader((folder / "front.csv").open()))
    assert [row["model"] for row in rows] == [p["name"] for m in front["methods"] for p in m["points"]]
    assert rows[0][MULTIPLIER] == "0.5" and rows[2][MULTIPLIER] == "" and rows[2]["budget"] == "0.9"
    page = (folder / "report.html").read_text()
    assert "Who pays what" in page and "Hypervolume" in page and (folder / "plots/front.png").exists()


def test_what_was_not_evaluated_alike_is_on_no_page(plan, tmp_path):
    models = {"start": plan.model}
    run(plan, tmp_path / "one", [], "A", models)
    run(plan, tmp_path / "two", [], "B", models, prompts=PROMPTS[:6])
    with pytest.raises(ValueError, match=r"A start and B start .* were not evaluated alike \(prompts"):
        write_front([tmp_path / "one", tmp_path / "two"], tmp_path / "page")
    with pytest.raises(ValueError, match="two sweeps with the name 'A'"):
        write_front([tmp_path / "one", tmp_path / "one"], tmp_path / "page")
    with pytest.raises(FileNotFoundError, match=r"it has no sweep\.json"):
        write_front([tmp_path], tmp_path / "page")
    assert not Path(tmp_path / "page").exists()


def test_a_changed_evaluation_is_refused_before_anything_is_run(plan, tmp_path):
    folder, models = tmp_path / "sweep", {"start": plan.model}
    run(plan, folder, [], "A", models)
    for changes, said in (
        ({"prompts": PROMPTS[:6]}, r"prompts\.n: 12 before, 6 now"),
        ({"sampling": Sampling(draws=4, max_new_tokens=6)}, r"sampling\.draws: 2 before, 4 now"),
        ({"cost": ScorerSpec(reward, "cost")}, r"scorers\.cost\.name"),
    ):
        more = {**models, "another": plan.model}
        with pytest.raises(ValueError, match=rf"since start was evaluated \({said}.* Set it back, use another"):
            run(plan, folder, [], "B", more, **changes)
        with pytest.raises(ValueError, match=said):
            Sweep(plan, [], make_evaluation(plan.model, **changes), folder, None, more).describe()
    assert read_sweep(folder)["name"] == "A" and not (folder / "points/another").exists()
    # What the page alone is about may change, and so may the name, though nothing is left to run.
    state, lines = run(plan, folder, [], "B", models, unsafe_above=0.5)
    assert "[1/1] start: complete already" in lines and state == read_sweep(folder)
    assert (state["name"], state["unsafe_above"]) == ("B", 0.5)
    # Without records the point is evaluated again; without a name the old one stays.
    records = folder / "points/start/evaluation/records.jsonl"
    before = records.read_bytes()
    records.unlink()
    state, lines = run(plan, folder, [], None, models)
    assert records.read_bytes() == before and state["name"] == "B" and state["points"][0]["status"] == "complete"


def test_a_sweep_does_not_write_into_an_evaluation(plan, tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds an evaluation \(evaluation\.json\)"):
        run(plan, tmp_path, [], "A", {"start": plan.model})


def test_what_it_costs_is_said_beforehand(plan, tmp_path):
    sweep = Sweep(plan, [Axis(MULTIPLIER, (0.5, 4.0))], make_evaluation(plan.model), tmp_path / "sweep")
    assert sweep.describe() == [
        "[1/2] λ=0.5: helpful 12 pairs, 2 steps; safe 12 pairs, 2 steps; evaluates 24 responses",
        "[2/2] λ=4: helpful from λ=0.5; safe 12 pairs, 2 steps; evaluates 24 responses",
        "In all: 6 optimizer steps in stages, 48 responses evaluated.",
    ]
    assert not (tmp_path / "sweep").exists()
