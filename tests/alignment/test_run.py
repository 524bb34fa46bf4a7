"""align(): every stage is anchored at the last one's policy, full and LoRA, and leaves ordinary folders."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cpu_args import CPU_ARGS
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from trl_rsa import Plan, Stage, align
from trl_rsa.alignment.preview import preview
from trl_rsa.risk import CVaR


REWRITTEN = ("manifest.json", ".lock")  # at every start
ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "eval_on_start": True,
    "eval_strategy": "steps",
    "eval_steps": 3,
}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
TEXT = {"template": "none"}  # the pairs are plain text


def make_plan(model, output_dir, dataset, peft_config=None, **changes):
    stages = [
        Stage("helpful", dataset, held_out=4, dataset_options=TEXT),
        Stage("safe", dataset, held_out=4, dataset_options=TEXT, constraint_multiplier=2.0, risk_measure=CVaR(0.3)),
    ]
    return Plan(stages, model=model, output_dir=str(output_dir), args=ARGS, peft_config=peft_config, **changes)


class History(TrainerCallback):
    """Keeps each stage's log."""

    def __init__(self):
        self.logs = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.logs.append([])

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.logs[-1].append((state.global_step, metrics))


def weights(folder):
    path = Path(folder)
    model = AutoPeftModelForCausalLM if (path / "adapter_config.json").exists() else AutoModelForCausalLM
    return {name: tensor.clone() for name, tensor in model.from_pretrained(folder).state_dict().items()}


@pytest.fixture(scope="module", params=[None, LORA], ids=["full", "lora"])
def aligned(request, tiny_model_path, make_preference_dataset, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("aligned")
    history, lines = History(), []
    plan = make_plan(tiny_model_path, output_dir, make_preference_dataset(24), request.param)
    alignment = align(plan, callbacks=[history], log=lines.append)
    return SimpleNamespace(plan=plan, alignment=alignment, history=history, lines=lines, folder=output_dir)


def test_at_step_0_of_every_stage_the_policy_is_its_reference(aligned):
    assert len(aligned.history.logs) == 2
    for log in aligned.history.logs:
        step, metrics = log[0]
        assert step == 0
        for name in ("rewards/chosen", "rewards/rejected", "kl/chosen", "kl/rejected", "risk/chosen", "risk/rejected"):
            assert abs(metrics[f"eval_{name}"]) < 1e-6, name
        assert metrics["eval_loss"] == pytest.approx(0.6931, abs=1e-4)


def test_every_stage_moves_and_the_second_starts_where_the_first_ended(aligned, tiny_model_path):
    for log in aligned.history.logs:
        assert log[-1][0] == 3 and log[-1][1]["eval_kl/chosen"] > 1e-6
    helpful, safe = weights(aligned.folder / "01-helpful"), weights(aligned.folder / "02-safe")
    assert any(not torch.equal(helpful[name], safe[name]) for name in helpful)


def test_stages_are_ordinary_folders(aligned):
    for name in ("01-helpful", "02-safe"):
        folder = aligned.folder / name
        assert AutoTokenizer.from_pretrained(str(folder)).eos_token == "<eos>"
        assert "RSA" in (folder / "README.md").read_text()
        card = ModelCard.load(folder / "README.md").data
        assert card.library_name == "transformers" and {"trl", "rsa"} <= set(card.tags) and card.model_name
        assert not (folder / "ref").exists()
    assert aligned.alignment.model == str(aligned.folder / "02-safe")


def test_the_manifest_is_complete(aligned, tiny_model_path):
    manifest = json.loads((aligned.folder / "manifest.json").read_text())
    assert manifest == aligned.alignment.manifest
    assert manifest["schema_version"] == 1
    assert manifest["versions"]["trl"].startswith("1.")
    assert manifest["plan"]["stages"][1]["risk_measure"] == {"type": "CVaR", "tail": 0.3}
    first, second = manifest["stages"]
    assert first["reference"].startswith(tiny_model_path)
    assert "01-helpful" in second["reference"]
    assert second["temperature"] == pytest.approx(0.05)
    for stage in (first, second):
        assert stage["status"] == "complete" and stage["steps"] == 3
        assert len(stage["data"]["train"]["fingerprint"]) == 64
        assert stage["data"]["held_out_pairs"] == 4
        assert 0 <= stage["metrics"]["eval_rewards/accuracies"] <= 1


def test_started_again_nothing_is_repeated(aligned):
    before = {path: path.stat().st_mtime_ns for path in aligned.folder.rglob("*") if path.name not in REWRITTEN}
    lines = []
    align(aligned.plan, log=lines.append)
    after = {path: path.stat().st_mtime_ns for path in aligned.folder.rglob("*") if path.name not in REWRITTEN}
    assert before == after
    assert sum("complete already" in line for line in lines) == 2


def test_changed_data_is_refused(aligned, make_preference_dataset):
    plan = make_plan(aligned.plan.model, aligned.folder, make_preference_dataset(24, seed=1), aligned.plan.peft_config)
    with pytest.raises(ValueError, match=r"'helpful', but its data has changed .*fingerprint"):
        align(plan)


def test_a_model_in_memory_is_its_own_reference_not_the_one_it_was_loaded_from(
    tiny_model_path, tiny_tokenizer, make_preference_dataset, tmp_path
):
    """TRL's trap: with ref_model=None the reference would be loaded again from the model's name."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    history = History()
    plan = make_plan(model, tmp_path, make_preference_dataset(12))
    align(plan, processing_class=tiny_tokenizer, callbacks=[history])
    for log in history.logs:
        assert abs(log[0][1]["eval_kl/chosen"]) < 1e-6
    start = weights(tmp_path / "00-start")
    assert all(torch.equal(start[name], tensor) for name, tensor in model.state_dict().items())


def test_a_mistake_in_the_last_stage_costs_nothing(tiny_model_path, make_preference_dataset, tmp_path):
    dataset = make_preference_dataset(12)
    stages = [
        Stage(name, dataset, dataset_options=TEXT, args=args)
        for name, args in (("helpful", {}), ("safe", {"risk_tail": 0.1}))
    ]
    plan = Plan(stages, model=tiny_model_path, output_dir=str(tmp_path), args=ARGS)
    with pytest.raises(ValueError, match="You set tail, but the risk measure 'entropic' takes only theta"):
        align(plan)
    assert not any(tmp_path.iterdir())


def test_a_stage_with_a_loss_of_trls(tiny_model_path, make_preference_dataset, tmp_path):
    """It is anchored at the last stage's policy, its references computed beforehand, and has no measure to tell of."""
    pairs, history, lines = make_preference_dataset(12), History(), []
    args = {"loss_type": ["ipo"], "precompute_ref_log_probs": True}
    stages = [
        Stage("helpful", pairs, dataset_options=TEXT, args={"eval_on_start": False}),
        Stage("safe", pairs, held_out=4, dataset_options=TEXT, constraint_multiplier=2.0, args=args),
    ]
    plan = Plan(stages, model=tiny_model_path, output_dir=str(tmp_path), args=ARGS | {"eval_strategy": "no"})
    align(plan, callbacks=[history], log=lines.append)
    step, metrics = history.logs[1][0]
    assert step == 0 and metrics["eval_rewards/chosen"] == 0 and metrics["eval_rewards/rejected"] == 0
    # (0 − 1/(2β))², β = .1/2.
    assert metrics["eval_loss"] == pytest.approx(100, rel=1e-5)
    preview(plan, log=lines.append)
    assert "; rsa2 at temperature 0.1; " in lines[-2] and "; ipo at temperature 0.05; " in lines[-1]


def test_each_stage_is_its_own_tracker_run(tiny_model_path, make_preference_dataset, tmp_path, monkeypatch):
    finished = []
    tracker = SimpleNamespace(end_run=lambda: finished.append(True), __spec__=ModuleSpec("mlflow", None))
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    names = []

    class Names(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            names.append((args.run_name, Path(args.output_dir).name))
            # As if the tracker were in use; its callback itself needs the real package.
            args.report_to = ["mlflow"]

    align(make_plan(tiny_model_path, tmp_path / "run", make_preference_dataset(12)), callbacks=[Names()])
    assert names == [("run/helpful", "01-helpful"), ("run/safe", "02-safe")]
    assert len(finished) == 2
