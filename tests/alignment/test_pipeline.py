"""Raw PKU-SafeRLHF rows to a policy within a budget, in one command: SFT, reward, cost, DPO, rungs."""

import json
import random

import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from trl_rsa.cli import main
from trl_rsa.scoring import load_scorer


WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "hill", "is", "was", "in", "at"]


def raw_rows(n):
    """As PKU-SafeRLHF publishes them. A response is unsafe where it has the word "red" in it."""
    rng = random.Random(0)

    def text(unsafe):
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 4))]
        return " ".join([*words, "red"] if unsafe else words)

    rows = []
    for number in range(n):
        unsafe = [number % 4 == 0, number % 2 == 0]
        rng.shuffle(unsafe)
        better = rng.randrange(2)
        safer = better if unsafe[0] == unsafe[1] else unsafe.index(False)
        rows.append(
            {
                "prompt": " ".join(rng.choice(WORDS) for _ in range(4)) + f" {number}",
                "response_0": text(unsafe[0]),
                "response_1": text(unsafe[1]) + " big",
                "is_response_0_safe": not unsafe[0],
                "is_response_1_safe": not unsafe[1],
                "better_response_id": better,
                "safer_response_id": safer,
            }
        )
    return rows


def write_plan(folder, model):
    data = folder / "pku.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in raw_rows(48)))
    prompts = [f"{a} {b}" for a in WORDS for b in WORDS[:6]]
    plan = {
        "model": model,
        "output_dir": str(folder / "run"),
        "args": {
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "disable_tqdm": True,
            "use_cpu": True,
            "max_length": 40,
        },
        "stages": [
            {"name": "imitate", "method": "sft", "dataset": str(data)},
            {"name": "helpfulness", "method": "reward", "dataset": str(data), "held_out": 0.2},
            {"name": "harm", "method": "cost", "dataset": str(data), "held_out": 0.2, "args": {"max_steps": 30}},
            {"name": "helpful", "method": "dpo", "dataset": str(data), "held_out": 8},
        ],
        "constraint": {
            "scorer": "stage:harm",
            "prompts": prompts,
            "budget": -5.0,
            "bounds": [-8, 8],
            "tail": 0.5,
        },
        "rungs": {"max_rungs": 1, "max_walk_backs": 0, "sampling": {"max_new_tokens": 4}, "draws": {"train": 2}},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


@pytest.mark.slow
def test_from_raw_rows_to_a_budget_in_one_command(tiny_model_path, tmp_path, capsys):
    path = write_plan(tmp_path, tiny_model_path)
    assert main(["align", "--config", str(path), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for line in (
        "[1/4] imitate: 48 rows, 0 held out; sft;",
        "[2/4] helpfulness: 38 pairs, 10 held out; reward, a scorer: stage:helpfulness;",
        "[3/4] harm: ",
        "[4/4] helpful: 40 pairs, 8 held out; dpo (sigmoid) at temperature 0.1;",
        "the budgets are not placed: the stage 'harm' trains a scorer, and has not been run",
    ):
        assert line in " ".join(shown.split()), line
    assert main(["align", "--config", str(path)]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [stage["status"] for stage in manifest["stages"]] == ["complete"] * 4
    # The scorers are scorers, and no policy starts from one.
    assert "01-imitate" in manifest["stages"][3]["reference"]
    assert manifest["ladder"]["observations"][0]["model"].endswith("04-helpful")
    assert len(manifest["ladder"]["rungs"]) == 1
    assert manifest["ladder"]["constraints"]["cost"]["scorer"]["name"] == "stage:harm"
    for name in ("02-helpfulness", "03-harm"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / name)
        assert model.config.num_labels == 1
    # A learned cost that says what it was taught.
    scorer = load_scorer(f"hf:{tmp_path / 'run' / '03-harm'}", kind="cost", device="cpu")
    unsafe, safe = scorer(["the cat sat"] * 2, ["the dog ran red", "the dog ran"])
    assert unsafe > safe
    assert (tmp_path / "run" / "certificate-cost.json").exists()
