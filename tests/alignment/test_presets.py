"""Presets: every one is a plan that dry-runs on other data, and what a user changes is what changes."""

import json

import pytest
import yaml

from trl_rsa import Plan
from trl_rsa.alignment.presets import PRESETS, apply_preset
from trl_rsa.alignment.preview import preview


@pytest.fixture
def pku_file(tmp_path):
    """Pairs in PKU-SafeRLHF's columns, of all kinds of safety."""
    path = tmp_path / "pku.jsonl"
    words = ["cat", "dog", "mat", "hill", "red", "blue", "big", "small"]
    rows = [
        {
            "prompt": f"the {first} sat on the {second}",
            "response_0": f"a {first} ran",
            "response_1": f"a {second} was slow",
            "better_response_id": i % 2,
            "safer_response_id": (i + 1) % 2,
            "is_response_0_safe": i % 3 != 0,
            "is_response_1_safe": i % 3 == 0 or i % 2 == 0,
        }
        for i, (first, second) in enumerate((a, b) for a in words for b in words if a != b)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def changes_for(name, model, data, tmp_path):
    """What a user must change to run a paper's plan on a small model with a chat template and a file of their own."""
    changes = {
        "model": model,
        "output_dir": str(tmp_path / "out"),
        "dataset": data,
        "dataset_options": {"template": "chat", "split": None},
        "args": {"bf16": False, "use_cpu": True, "gradient_checkpointing": False},
        "model_init_kwargs": {"quantization_config": None},
    }
    if name == "dpo-lagrangian":
        changes["constraint"] = {"scorer": "builtins:len", "prompts": data}
        changes["rungs"] = {"sampling": {"template": "chat", "max_new_tokens": 8}}
    return changes


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_dry_runs(name, save_tiny_llama, pku_file, tmp_path):
    lines = []
    model = save_tiny_llama(max_position_embeddings=1024)  # with room for the responses of a preset
    plan = Plan.from_preset(name, **changes_for(name, model, pku_file, tmp_path))
    preview(plan, log=lines.append, samples=0)
    planned = [line for line in lines if "; planned, in " in line]
    assert len(planned) == len(plan.stages)
    assert all(stage.name in line for stage, line in zip(plan.stages, planned, strict=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_plan_as_it_stands_and_says_what_differs(name, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PRESETS[name].text)
    assert Plan.from_yaml(path).stages
    said = "\n".join(PRESETS[name].comments)
    for part in ("Paper: ", "Differs:", "Not certain:"):
        assert said.count(part) == 1
    assert len(PRESETS[name].summary) <= 119


def test_the_presets_of_the_issue():
    named = {"sacpo", "p-sacpo", "safedpo", "tdpo1", "tdpo2", "ra-dpo", "rsa-paper", "dpo-lagrangian", "safe-rlhf"}
    assert named <= PRESETS.keys()


def test_the_settings_of_sacpo():
    """Wachi et al.: β 0.1; β/λ of 0.01 for the merged ones; 2e-5, cosine, 3 epochs, 16 × 2, 512 tokens."""
    plan = Plan.from_preset("p-sacpo")
    assert [stage.temperature for stage in plan.stages] == [0.1, pytest.approx(0.01)]
    assert [stage.preferred_by for stage in plan.stages] == ["better", "safer"]
    assert plan.merge.weights == [0.25, 0.5, 0.75] and plan.merge.stages == ["helpful", "safe"]
    assert (plan.args["learning_rate"], plan.args["num_train_epochs"], plan.args["max_length"]) == (2e-5, 3, 512)
    assert all(stage.args["risk_alpha"] == 0 for stage in plan.stages), "without a risk rsa2 is DPO"


def test_yaml_and_python_say_the_same(tiny_model_path, tmp_path):
    changes = {
        "model": tiny_model_path,
        "output_dir": "mine",
        "dataset": "pairs.jsonl",
        "dataset_options": {"template": "chat"},
        "args": {"num_train_epochs": 1, "warmup_steps": None},
        "stages": {"safe": {"constraint_multiplier": 10, "args": {"learning_rate": 1e-6}}},
        "seed": 7,
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"preset": "sacpo", **changes}))
    plan = Plan.from_yaml(path)
    assert plan == Plan.from_preset("sacpo", **changes)
    assert (plan.model, plan.output_dir, plan.seed) == (tiny_model_path, "mine", 7)
    assert plan.args["num_train_epochs"] == 1 and plan.args["learning_rate"] == 2e-5
    assert "warmup_steps" not in plan.args
    helpful, safe = plan.stages
    assert helpful.dataset == safe.dataset == "pairs.jsonl" and safe.dataset_options["template"] == "chat"
    assert (helpful.constraint_multiplier, safe.constraint_multiplier) == (1.0, 10)
    assert safe.args == {"risk_alpha": 0.0, "learning_rate": 1e-6} and helpful.args == {"risk_alpha": 0.0}
    assert apply_preset("sacpo", {"stages": {"helpful": None}})["stages"][0]["name"] == "safe"
    assert Plan.from_yaml(path, output_dir="elsewhere").output_dir == "elsewhere"


def test_objects_of_python(preference_dataset):
    plan = Plan.from_preset("safedpo", dataset=preference_dataset)
    assert plan.stages[0].dataset is preference_dataset


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sacp", {}, "the presets are .*Did you mean 'sacpo'"),
        (["sacpo"], {}, "the presets are"),
        ("sacpo", {"stages": {"save": {}}}, "the stages of the preset 'sacpo' are helpful, safe. Did you mean 'safe'"),
        ("sacpo", {"arg": {}}, "You set 'arg' in the preset sacpo"),
        ("sacpo", {"args": {"epochs": 1}}, "'epochs' in the args"),
        ("p-sacpo", {"merge": {"stages": ["helpful", "tame"]}}, "no stage 'tame' makes a policy"),
        ("p-sacpo", {"merge": {"weights": [2]}}, r"Set numbers in \[0, 1\]"),
        ("p-sacpo", {"merge": {"weight": [0.5]}}, "'weight' in merge of the preset p-sacpo"),
    ],
)
def test_mistakes(name, changes, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_preset(name, **changes)
