"""How a stage ends that has gone wrong, and what it says of its data."""

import json

import pytest
from cpu_args import CPU_ARGS
from datasets import Dataset

from trl_rsa import Plan, Stage, align
from trl_rsa.alignment.preview import preview
from trl_rsa.training.methods.terms import RewardTerm


ROWS = [{"prompt": "the cat", "chosen": "sat on", "rejected": "ran slow"}] * 4
ARGS = {**CPU_ARGS, "per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}
TEXT = {"template": "none"}


def test_weights_that_are_not_numbers_are_not_handed_out(tiny_model_path, tmp_path):
    """TRL logs a loss of 0 in place of one that is not a number."""
    args = {**ARGS, "max_steps": 3, "learning_rate": 1e38}
    stage = Stage("wild", Dataset.from_list(ROWS), dataset_options=TEXT)
    with pytest.raises(ValueError, match=r"You ran \[1/1\] wild, but it left weights that are not numbers"):
        align(Plan([stage], tiny_model_path, str(tmp_path / "out"), args=args))
    assert not (tmp_path / "out" / "01-wild" / "model.safetensors").exists()


def test_rows_that_are_skipped_are_counted_aloud(tiny_model_path, tmp_path):
    """In the dry run as in the run."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "not json\n" * 3)
    stage = Stage("one", str(path), dataset_options=TEXT)
    plan = Plan([stage], tiny_model_path, str(tmp_path / "out"), args={**ARGS, "max_steps": 1})
    said: list[str] = []
    preview(plan, log=said.append)
    shown = [line for line in said if "3 of 7 rows were skipped: 3 × " in line]
    assert len(shown) == 1, said
    align(plan, log=said.append)
    assert [line for line in said if "rows were skipped" in line] == shown * 2


def test_a_model_that_scores_is_no_policy(save_tiny_llama, tmp_path):
    folder = save_tiny_llama()
    path = f"{folder}/config.json"
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config | {"architectures": ["LlamaForSequenceClassification"]}, file)
    stage = Stage("one", Dataset.from_list(ROWS), dataset_options=TEXT)
    plan = Plan([stage], folder, str(tmp_path / "out"), args=ARGS)
    for look in (preview, align):
        with pytest.raises(ValueError, match="it is a LlamaForSequenceClassification: it scores texts"):
            look(plan)


def test_no_output_dir_is_no_folder():
    with pytest.raises(ValueError, match="You set output_dir to nothing"):
        Plan([Stage("one", "d")], "m", "")


def test_a_dry_run_sees_pairs_that_are_all_too_long_and_a_folder_that_is_a_file(tiny_model_path, tmp_path):
    stage = Stage("one", Dataset.from_list(ROWS), dataset_options=TEXT)
    plan = Plan([stage], tiny_model_path, str(tmp_path / "out"), args=ARGS | {"max_length": 2})
    with pytest.raises(ValueError, match=r"You set max_length=2 for \[1/1\] one, but all its 4 pairs are longer"):
        preview(plan)
    (tmp_path / "file").touch()
    plan = Plan([stage], tiny_model_path, str(tmp_path / "file" / "out"), args=ARGS)
    with pytest.raises(ValueError, match=r"You set output_dir to '.*', but .*file is a file\. Name a folder"):
        preview(plan)


def test_a_dry_run_looks_at_the_rewards_of_rl(tiny_model_path, tmp_path):
    stage = Stage("rl", Dataset.from_list([{"prompt": "the cat"}] * 4), method="rloo", dataset_options=TEXT)
    stage.rewards = [RewardTerm("module:no_such_module_here:score")]
    stage.args = {"max_completion_length": 8}
    plan = Plan([stage], tiny_model_path, str(tmp_path / "out"), args=CPU_ARGS)
    with pytest.raises((ValueError, ImportError), match="no_such_module_here"):
        preview(plan)
    preview(plan, samples=0)
