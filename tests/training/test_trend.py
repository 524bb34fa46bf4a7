"""What is said of a training by its logged numbers."""

import pytest
from cpu_args import CPU_ARGS
from datasets import Dataset

from trl_rsa import Plan, Stage, align
from trl_rsa.training.trend import rise_of, standstill_of


@pytest.mark.parametrize(
    ("losses", "risen"),
    [
        ([0.70, 0.69, 0.70, 0.71, 0.80, 0.85, 0.90, 0.95], True),
        ([0.70, 0.69, 0.68, 0.66, 0.64, 0.60, 0.58, 0.55], False),
        ([0.70, 0.60, 0.75, 0.65, 0.62, 0.78, 0.60, 0.76], False),  # noise
        ([0.70, 0.69, 0.70, 0.71, 0.80, 0.85, float("nan"), float("nan")], True),
        ([0.1, 0.9], False),  # too few to tell
    ],
    ids=["rises", "falls", "noise", "nan", "two"],
)
def test_a_loss_that_rises_is_named(losses, risen):
    said = rise_of(losses)
    assert (said is not None) == risen
    assert not risen or said.startswith("the loss ROSE from 0.695 to ")


@pytest.mark.parametrize(
    ("margins", "labels", "stands"),
    [
        ([0.0, 0.01, 0.02, 0.02], [0.7, 0.8], True),  # log-odds 0.85 and, cut, 1
        ([0.0, 0.3, 0.6, 0.8], [0.7, 0.8], False),
        ([0.0, -0.5, -0.5, -0.6], [0.7, 0.8], True),
        ([0.0, 0.0, 0.0, 0.0], [0.5, 0.5], False),  # ties hold the policy where it is
        ([0.0, 0.0, 0.0, 0.0], None, False),
        ([0.0, 0.2, 0.3, 0.3], [1.0, 1.0], False),  # certain labels ask for no more than others
    ],
    ids=["hardly", "moved", "backwards", "ties", "no labels", "certain"],
)
def test_a_policy_that_hardly_moved_is_named(margins, labels, stands):
    rows = {"prompt": ["a", "b"]} | ({} if labels is None else {"pair_label": labels})
    history = [{"loss": 0.7, "rewards/margins": margin} for margin in margins] + [{"train_loss": 0.7}]
    said = standstill_of(history, Dataset.from_dict(rows))
    assert (said is not None) == stands
    assert not stands or "HARDLY MOVED" in said


@pytest.mark.parametrize(("rate", "said"), [(1e-9, 1), (0.05, 0)])
def test_it_is_said_of_a_stage_with_soft_labels(tiny_model_path, tmp_path, rate, said):
    rows = [{"prompt": "the cat", "chosen": "sat on", "rejected": "ran slow", "pair_label": 0.9}] * 8
    args = {**CPU_ARGS, "learning_rate": rate, "max_steps": 8, "logging_steps": 1, "per_device_train_batch_size": 2}
    args |= {"lr_scheduler_type": "constant"}
    stage = Stage("soft", dataset=Dataset.from_list(rows), dataset_options={"template": "none"}, beta=1.0)
    lines: list[str] = []
    align(Plan([stage], tiny_model_path, str(tmp_path), args=args), log=lines.append)
    assert sum("HARDLY MOVED" in line for line in lines) == said, lines
