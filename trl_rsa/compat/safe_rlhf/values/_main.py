"""What Safe RLHF's two value trainers share: their flags, and the way to `train_score_model`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from trl_rsa.compat.safe_rlhf.values._flags import (
    add_switch,
    add_training_flags,
    deepspeed_config,
    start_engine,
    tracker,
)
from trl_rsa.scripts._command import DEBUG, explain, parse_arguments


_NEVER = 1_000_000  # Safe RLHF's interval for what is not to happen


def make_parser(objective: str) -> argparse.ArgumentParser:
    """The flags of `safe_rlhf.values.<objective>`, with its defaults."""
    parser = argparse.ArgumentParser(
        prog=f"trl_rsa.compat.safe_rlhf.values.{objective}",
        description=f"Train a {objective} model with the arguments of safe_rlhf.values.{objective}.",
    )
    data = parser.add_argument_group("model and data")
    data.add_argument("--model_name_or_path", required=True, help="folder or Hub id of the model to start from")
    data.add_argument("--max_length", type=int, default=512, help="most tokens; longer texts lose their beginning")
    add_switch(data, "--trust_remote_code", "run code that comes with the model")
    data.add_argument("--train_datasets", nargs="+", required=True, metavar="NAME[:PROPORTION[:PATH]]")
    data.add_argument("--eval_datasets", nargs="+", metavar="NAME[:PROPORTION[:PATH]]")
    add_training_flags(parser)
    values = parser.add_argument_group("score model")
    values.add_argument("--loss_type", default="sequence-wise", choices=["token-wise", "sequence-wise"])
    values.add_argument("--regularization", type=float, default=0.0, help="weight of the squared scores")
    add_switch(values, "--normalize_score_during_training", "divide the scores by their spread")
    values.add_argument("--normalizer_type", choices=["RunningMeanStd", "ExponentialMovingAverage"])
    values.add_argument("--normalizer_momentum", type=float)
    return parser


def train(objective: str, argv: Sequence[str] | None = None) -> int:
    """Runs the module and returns its exit status: 2, with one sentence, after an error that the user can mend."""
    parser = make_parser(objective)
    try:
        _train(objective, parse_arguments(parser, [*(sys.argv[1:] if argv is None else argv)], parser.prog))
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get(DEBUG):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(5)  # the first process says it, and the launcher ends this one
        print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _train(objective: str, args: argparse.Namespace) -> None:
    settings = score_model_arguments(objective, args)
    use_cpu = args.use_cpu or not _has_accelerator()
    arguments = training_arguments(args, use_cpu)
    report_to, variables, note = tracker(args.log_type, args.log_dir, args.log_project, args.output_dir)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    start_engine(args.zero_stage, use_cpu)

    from trl import RewardConfig

    from trl_rsa.score_models.train import train_score_model

    training_args = RewardConfig(**arguments, report_to=report_to)
    is_main = training_args.process_index == 0
    if note and is_main:
        print(f"note: {note}", file=sys.stderr)
    result = train_score_model(
        settings, training_args, args.model_name_or_path, log=print if is_main else lambda text: None
    )
    if not is_main:
        return
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for measure, value in (result.measures or {}).items():
        if measure in ("pair_accuracy", "auc", "right_side_of_zero") and isinstance(value, float):
            print(f"{measure}: {value:.3f}")
    print(f"Saved to {args.output_dir}: load it as beaver:{args.output_dir}.")


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def training_arguments(args: argparse.Namespace, use_cpu: bool) -> dict[str, Any]:
    """The flags as arguments of [`~trl.RewardConfig`], without the tracker."""
    if not 0 <= args.lr_warmup_ratio < 1:
        raise ValueError(
            f"You set lr_warmup_ratio={args.lr_warmup_ratio}, but it is a share of the steps. Set it in [0, 1)."
        )
    return {
        "output_dir": args.output_dir,
        "max_length": args.max_length,
        "trust_remote_code": args.trust_remote_code,
        "num_train_epochs": args.epochs,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "per_device_eval_batch_size": args.per_device_eval_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "gradient_checkpointing": args.gradient_checkpointing,
        "learning_rate": args.lr,
        "lr_scheduler_type": args.lr_scheduler_type,
        "warmup_steps": args.lr_warmup_ratio,  # below 1 it is a share
        "weight_decay": args.weight_decay,
        "adam_beta1": 0.9,  # Safe RLHF's, which has no flags for them
        "adam_beta2": 0.95,
        "seed": args.seed,
        "fp16": args.fp16,
        "bf16": args.bf16,
        "tf32": None if use_cpu else args.tf32,  # a matter of NVIDIA's units
        "use_cpu": use_cpu,
        "run_name": args.log_run_name,
        "eval_strategy": args.eval_strategy if args.need_eval else "no",
        **({"eval_steps": args.eval_interval} if args.need_eval and args.eval_strategy == "steps" else {}),
        "save_strategy": "no" if args.save_interval >= _NEVER else "steps",
        "save_steps": args.save_interval,
        "deepspeed": deepspeed_config(args.zero_stage, args.offload),
    }


def score_model_arguments(objective: str, args: argparse.Namespace) -> Any:
    """The flags as [`~score_models.arguments.ScoreModelArguments`]."""
    from trl_rsa.score_models.arguments import ScoreModelArguments

    normalizer, momentum = args.normalizer_type, args.normalizer_momentum
    if not args.normalize_score_during_training:
        normalizer = None  # as in Safe RLHF, which makes a normalizer and does not apply it
    elif normalizer is None:
        raise ValueError(
            "You set normalize_score_during_training=True without normalizer_type. Set it to RunningMeanStd or "
            "ExponentialMovingAverage."
        )
    return ScoreModelArguments(
        objective=objective,
        data=args.train_datasets,
        eval_data=args.eval_datasets,
        held_out=0.0 if args.eval_datasets else args.eval_split_ratio or 0.0,
        loss_type=args.loss_type,
        regularization=args.regularization,
        layout="beaver",
        truncation="left",
        normalizer=normalizer,
        normalizer_momentum=0.9 if momentum is None else momentum,
        save_16bit=args.save_16bit,
    )
