"""The ladder end to end on a tiny model whose harm is a word: it climbs, walks back and certifies."""

import json
from itertools import product
from pathlib import Path

import pytest

from trl_rsa import Plan, RiskConstraint, align


ARGS = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "per_device_train_batch_size": 16,
    "max_steps": 16,
    "save_steps": 8,
    "learning_rate": 5e-3,
    "logging_steps": 6,
    "disable_tqdm": True,
}
PROMPTS = [
    " ".join(words) for words in product(["the", "a", "in", "on"], ["cat", "dog", "hill", "mat", "big", "small"])
]
PROMPTS = [f"{prompt} {verb}" for prompt in PROMPTS for verb in ("sat", "ran", "was", "is", "slow", "quick")]  # 144


def red_is_harmful(prompts, completions, **kwargs):
    return [1.0 if "red" in text.split() else -1.0 for text in completions]


def make_plan(model, folder, threshold, peft_config=None, **changes):
    constraint = RiskConstraint(
        scorer=red_is_harmful,
        prompts=PROMPTS,
        threshold=threshold,
        clip=(-1.5, 1.5),
        tail=0.8,
        margin=0.2,
        beta=0.5,
        sampling={"max_new_tokens": 24},
        batch_size=256,
        draws={"decide": 4, "certify": 4},
        risk_measure="expectation",
        args={"loss_type": ["rsa2"]},
        **{"max_rungs": 3, "max_walk_backs": 2, **changes},
    )
    return Plan([], model=model, output_dir=str(folder), args=ARGS, peft_config=peft_config, constraint=constraint)


def climb(plan, **kwargs):
    alignment = align(plan, report=lambda line: None, **kwargs)
    return alignment.manifest["constraint"], alignment


@pytest.mark.slow
@pytest.mark.parametrize(
    "peft_config", [None, {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}], ids=["full", "lora"]
)
def test_a_budget_is_met_on_the_model_s_own_behaviour(tiny_model_path, tmp_path, peft_config):
    plan = make_plan(tiny_model_path, tmp_path, -0.5, peft_config)
    if peft_config is not None:
        # A few hundred weights, half of which start at zero: larger steps, and more of them.
        plan.args = plan.args | {"learning_rate": 3e-2, "max_steps": 32}
    result, alignment = climb(plan)
    rounds = result["rounds"]
    assert rounds[0]["multiplier"] == 0 and rounds[0]["upper_bound"] > -0.5, "the start should violate the budget"
    assert rounds[0]["action"] == "next_rung" and rounds[-1]["action"] == "stop"
    best = min((entry for entry in rounds), key=lambda entry: entry["upper_bound"])
    assert best["upper_bound"] < rounds[0]["upper_bound"] - 0.2, "training should lower the bound"
    assert result["met"] == any(entry["upper_bound"] <= -0.5 for entry in rounds)
    assert Path(alignment.model).is_dir() and (Path(alignment.model) / "tokenizer.json").exists()
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["certified"] == result["certified"]
    # What is trained, decided and certified on is disjoint, and the manifest says so.
    files = {name: tmp_path / "ladder" / f"00-{name}.jsonl" for name in ("train", "decide")}
    used = {
        name: {json.loads(line)["prompt"] for line in path.read_text().splitlines()} for name, path in files.items()
    }
    assert not used["train"] & used["decide"]
    assert {name: entry["n"] for name, entry in result["prompts"].items()} == {
        "train": 72,
        "decide": 36,
        "certify": 36,
    }


@pytest.mark.slow
def test_a_loose_budget_costs_nothing(tiny_model_path, tmp_path):
    result, alignment = climb(make_plan(tiny_model_path, tmp_path, 1.45))
    assert result["met"] and result["multiplier"] == 0 and len(result["rounds"]) == 1
    assert alignment.model == tiny_model_path


@pytest.mark.slow
def test_an_infeasible_budget_ends_with_the_best_model_and_says_so(tiny_model_path, tmp_path):
    result, _ = climb(make_plan(tiny_model_path, tmp_path, -1.49, max_rungs=2))
    assert not result["met"] and not result["certified"]
    assert result["reason"].startswith("NOT met")
    bounds = {entry["model"]: entry["upper_bound"] for entry in result["rounds"]}
    assert bounds[result["model"]] == min(bounds.values())
