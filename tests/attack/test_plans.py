"""Plans with values, keys and bytes mutated: `align --dry_run` shows what would run, or says one sentence."""

import json

import pytest
import yaml
from attacking import TIMES, Attack, run

from trl_rsa.alignment.manifest import describe
from trl_rsa.alignment.plan import Plan
from trl_rsa.scripts._command import explain


@pytest.fixture(scope="module")
def plan(tiny_model_path, make_preference_dataset, tmp_path_factory):
    """A plan with nearly every section, and what it reads."""
    folder = tmp_path_factory.mktemp("plan")
    make_preference_dataset(12).to_json(folder / "pairs.jsonl")
    prompts = [{"prompt": f"the cat ran {i}", "category": "c"} for i in range(24)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n")
    (folder / "cost.py").write_text("def cost(prompts, completions, **kwargs):\n    return [0.0] * len(prompts)\n")
    stage = {"name": "helpful", "dataset": str(folder / "pairs.jsonl"), "held_out": 2, "beta": 0.1}
    return {
        "model": tiny_model_path,
        "output_dir": str(folder / "out"),
        "seed": 3,
        "args": {"use_cpu": True, "bf16": False, "report_to": "none", "learning_rate": 1e-4, "max_steps": 2}
        | {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        "peft_config": {"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"},
        "stages": [
            stage | {"dataset_options": {"limit": 8, "template": "none"}},
            stage
            | {"name": "safe", "constraint_multiplier": 4, "risk_measure": "cvar", "args": {"risk_tail": 0.1}}
            | {"dataset_options": {"template": "none"}},
        ],
        "constraint": {
            "scorer": f"{folder / 'cost.py'}:cost",
            "prompts": str(folder / "prompts.jsonl"),
            "budget": 0.5,
            "bounds": [-5, 15],
            "tail": 0.25,
            "confidence": 0.9,
            "labels": "unsafe",
        },
        "rungs": {
            "sampling": {"max_new_tokens": 4, "temperature": 1.0, "top_p": 0.9},
            "draws": {"train": 2},
            "batch_size": 4,
            "soft": True,
            "max_rungs": 2,
            "args": {"learning_rate": 1e-4},
        },
    }


def dry_run(capsys, path):
    return run(capsys, "align", "--config", path, "--dry_run")


def test_the_plan_itself_is_sound(plan, tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    status, out, err = dry_run(capsys, tmp_path / "plan.yaml")
    assert status == 0, err
    assert "[ladder]" in out


@pytest.mark.parametrize("seed", range(20 * TIMES))
def test_a_dry_run_says_a_sentence(seed, plan, tmp_path, capsys):
    attack = Attack(seed)
    content = yaml.safe_dump(attack.json(plan, attack.random.randint(1, 2)), allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )
    if seed % 5 == 0:
        content = attack.bytes(content)
    (tmp_path / "plan.yaml").write_bytes(content)
    assert dry_run(capsys, tmp_path / "plan.yaml")[0] in (0, 2)


@pytest.mark.parametrize("seed", range(1000, 1000 + 30 * TIMES))
def test_reading_a_plan_says_a_sentence(seed, plan, tmp_path):
    """Ten plans a test; a plan that is accepted is written down the same when it is read again."""
    path = tmp_path / "plan.yaml"
    for number in range(10):
        attack = Attack(seed * 10 + number)
        content = yaml.safe_dump(attack.json(plan, attack.random.randint(1, 3))).encode("utf-8", "surrogatepass")
        path.write_bytes(attack.bytes(content) if number == 0 else content)
        try:
            described = json.dumps(describe(Plan.from_yaml(path)))
        except Exception as error:
            assert explain(error), f"no sentence for {error!r}"
        else:
            assert described == json.dumps(describe(Plan.from_yaml(path)))
