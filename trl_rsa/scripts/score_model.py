"""
`trl-rsa score-model`: a reward or a cost model, with TRL's RewardTrainer, from pairs, labels and grades of harm.

```bash
trl-rsa score-model --objective cost --model_name_or_path Qwen/Qwen3-0.6B --data graded.jsonl --output_dir cost
```
"""

import sys
from pathlib import Path
from typing import Any

from trl import ModelConfig, RewardConfig, get_peft_config

from trl_rsa._device import has_accelerator, warn_of_slow_bfloat16
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.train import train_score_model
from trl_rsa.scripts._command import run_command
from trl_rsa.scripts._launch import HELP
from trl_rsa.scripts._parser import ScreenParser
from trl_rsa.scripts._training import INTERRUPTED as INTERRUPTED
from trl_rsa.scripts._training import checkpoint_to_resume, launch_training
from trl_rsa.training.configuration import check_config
from trl_rsa.training.launcher import Launcher


_EXAMPLE = """\
trl-rsa score-model --objective cost --model_name_or_path Qwen/Qwen3-0.6B \\
    --data PKU-Alignment/PKU-SafeRLHF --split train --max_length 512 --output_dir cost"""

_SHOWN = {
    "model and data": {
        "objective": "reward (higher is better) or cost (higher is worse, above 0 unsafe)",
        "model_name_or_path": "language model, or score model to train further",
        "data": "judged responses: .jsonl, .csv, .parquet, folder, Hub id, …",
        "split": "split of the data, where there are several",
        "use": "learn from pairs, labels, grades: all of them, for a reward pairs",
        "preferred_by": "PKU-SafeRLHF: what orders a pair, better or safer",
        "held_out": "share of the prompts to measure on",
        "eval_data": "judged responses to measure on, in place of held_out",
        "output_dir": "folder of the finished model and its card",
        "dry_run": "read the data and look at the model; train nothing",
    },
    "score": {
        "harm_scale": "grades and costs, as safe=-1,minor=1,moderate=4,severe=10",
        "heads": "heads on one body, an ensemble",
        "pessimism": "their standard deviations added to a cost, off a reward",
        "loss_type": "sequence-wise, or token-wise for pairs and labels",
        "regularization": "weight of the squared scores",
        "layout": "hf (a sequence classifier) or beaver (Safe RLHF's *ForScore)",
        "template": "chat, or safe-rlhf",
        "truncation": "left: cut long texts at their beginning instead of leaving them out",
        "freeze_backbone": "train the head alone",
    },
    "training": {
        "learning_rate": "peak learning rate",
        "per_device_train_batch_size": "rows per device and forward pass",
        "num_train_epochs": "passes over the data",
        "max_steps": "optimizer steps instead of epochs; -1 is off",
        "max_length": "most tokens of prompt and response",
        "use_peft": "train a LoRA adapter, merged at the end",
        "use_cpu": "train without an accelerator",
        "resume_from_checkpoint": "folder of a checkpoint, or true for the last one in output_dir",
        "accelerate_config": HELP,
    },
}


def make_parser() -> ScreenParser:
    parser = ScreenParser(
        (ScoreModelArguments, RewardConfig, ModelConfig),
        description="Train a reward or a cost model with TRL's RewardTrainer (--help_all: every argument).",
        shown=_SHOWN,
        example=_EXAMPLE,
    )
    # As RSAConfig does it by itself: transformers refuses to begin without.
    parser.set_defaults(use_cpu=not has_accelerator())
    return parser


def launch(args: tuple[Any, ...], argv: list[str], launcher: Launcher) -> int:
    """Runs `main` in the processes that `launcher` starts; the arguments have been checked here."""
    return launch_training("score-model", args[1], argv, launcher)


def main(args: tuple[ScoreModelArguments, RewardConfig, ModelConfig]) -> None:
    """Trains and measures. Raises `ValueError` or `FileNotFoundError` for the user."""
    arguments, training_args, model_args = args
    if not model_args.model_name_or_path:
        raise ValueError("You gave no model. Set model_name_or_path to a Hub id or to the folder of a saved model.")
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise ValueError("You set load_in_4bit or load_in_8bit, but adapters on them are not merged. Remove it.")
    if not training_args.resume_from_checkpoint and (Path(str(training_args.output_dir)) / "config.json").exists():
        raise ValueError(
            f"You set output_dir to {training_args.output_dir}, but a model is there, which would be overwritten. "
            "Name another folder, or remove it."
        )
    check_config(training_args)
    warn_of_slow_bfloat16(training_args)
    peft_config = get_peft_config(model_args)
    is_main = training_args.process_index == 0
    training_args.resume_from_checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint)
    trained = train_score_model(
        arguments,
        training_args,
        model_args.model_name_or_path,
        peft_config,
        log=print if is_main else lambda text: None,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        dtype=None if model_args.dtype in (None, "auto") else model_args.dtype,
    )
    if arguments.dry_run or not is_main:
        return
    for warning in trained.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name in (
        "pair_accuracy",
        "auc",
        "rank_correlation",
        "rank_correlation_unsafe",
        "rank_correlation_worst_tenth",
    ):
        if trained.measures is not None and trained.measures[name] is not None:
            print(f"{name:<30}{trained.measures[name]:.3f}")
    print(f"Model and its card (README.md): {training_args.output_dir}")


if __name__ == "__main__":
    sys.exit(run_command("score-model"))
