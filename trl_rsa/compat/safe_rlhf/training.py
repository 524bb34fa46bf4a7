"""What the training flags of Safe RLHF become: arguments of a trainer, its tracker and its engine."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa._device import has_accelerator
from trl_rsa.compat.safe_rlhf.command_line import check_counts
from trl_rsa.compat.safe_rlhf.engine import deepspeed_config, start_engine
from trl_rsa.compat.safe_rlhf.tracker import tracker
from trl_rsa.data.spec import split_spec
from trl_rsa.scripts._training import checkpoint_to_resume
from trl_rsa.storage.files import check_writable
from trl_rsa.training.configuration import check_config


_NEVER = 1_000_000  # Safe RLHF's interval for what is not to happen

# What a machine without an accelerator takes, so that a dry run refuses on any machine what a run refuses.
_ANYWHERE = {"deepspeed": None, "fp16": False, "bf16": False, "tf32": None, "use_cpu": True, "report_to": "none"}


def training_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_training_flags` as arguments of a trainer's configuration, whatever the machine and its
    trackers.

    Raises:
        ValueError: if flags contradict each other.
    """
    _check(args)
    resume = checkpoint_to_resume(args.resume_from_checkpoint)
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
        "max_grad_norm": args.max_grad_norm,
        "seed": args.seed,
        "fp16": args.fp16,
        "bf16": args.bf16,
        "tf32": args.tf32,
        "use_cpu": args.use_cpu,
        "eval_strategy": args.eval_strategy if args.need_eval else "no",
        **({"eval_steps": args.eval_interval} if args.need_eval and args.eval_strategy == "steps" else {}),
        **_saving(args.save_interval),
        "logging_steps": 1,
        **({} if resume in (None, False) else {"resume_from_checkpoint": resume}),
        "run_name": args.log_run_name,
        "deepspeed": deepspeed_config(args.zero_stage, args.offload),
    }


def _check(args: argparse.Namespace) -> None:
    if not args.output_dir:
        raise ValueError("You gave no output_dir, but the trained model has to go somewhere. Set --output_dir FOLDER.")
    check_writable(Path(args.output_dir))
    check_counts(args, "epochs", "save_interval", "eval_interval")
    if args.fp16 and args.bf16:
        raise ValueError("You set fp16 and bf16, but a model is trained in one of them. Set one to False.")
    if not 0 <= args.lr_warmup_ratio < 1:
        raise ValueError(
            f"You set lr_warmup_ratio={args.lr_warmup_ratio}, but it is a share of the steps. Set it in [0, 1)."
        )
    if args.need_eval and not args.eval_datasets and args.eval_split_ratio is None:
        raise ValueError(
            "You set need_eval, but there is nothing to evaluate on. Set --eval_datasets, or --eval_split_ratio to "
            "hold out a share of the prompts."
        )
    if args.eval_datasets and args.eval_split_ratio is not None:
        raise ValueError(
            "You set eval_datasets and eval_split_ratio, but there is one set to evaluate on. Remove one of them."
        )
    if args.eval_split_ratio is not None and not 0 < args.eval_split_ratio < 1:
        raise ValueError(
            f"You set eval_split_ratio={args.eval_split_ratio}, but it is a share of the prompts. Set it in (0, 1)."
        )


def _saving(save_interval: int) -> dict[str, Any]:
    """Checkpoints are written where the interval is shorter than Safe RLHF's default, which stands for never."""
    if save_interval >= _NEVER:
        return {"save_strategy": "no"}
    return {"save_strategy": "steps", "save_steps": save_interval}


def start(
    prog: str,
    args: argparse.Namespace,
    config_class: Any,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Any:
    """
    Makes this process ready to train, or with `--dry_run` prints what would be trained, as JSON.

    Args:
        prog (`str`):
            The module, for what is said.
        args (`Namespace`):
            The flags.
        config_class (`type`):
            The trainer's configuration.
        arguments (`Mapping[str, Any]`):
            Its arguments: those of [`training_arguments`], and more.
        settings (`Mapping[str, Any]`):
            What else there is to print.
        notes (`Sequence[str]`):
            Sentences for the user.

    Returns:
        The configuration on this machine, or `None` after a dry run.
    """
    report_to, variables, note = tracker(args.log_type, args.log_dir, args.log_project, args.output_dir)
    notes = [*([note] if note else []), *_of_flags(args, arguments), *notes]
    is_first = os.environ.get("RANK", "0") == "0"
    if args.dry_run:
        check_config(config_class(**{**arguments, **_ANYWHERE}))
        described = {
            "model": args.model_name_or_path,
            "data": {
                "train": _datasets(args.train_datasets),
                "eval": _datasets(args.eval_datasets),
                "eval_split_ratio": args.eval_split_ratio,
            },
            **settings,
            "arguments": {**arguments, "report_to": report_to},
            "save_16bit": args.save_16bit,
            "environment": variables,
            "notes": notes,
        }
        if is_first:
            print(json.dumps(described, indent=2, ensure_ascii=False))
        return None
    for sentence in notes if is_first else ():
        print(f"{prog}: {sentence}", file=sys.stderr)
    os.environ.update(variables)
    config = config_class(**{**arguments, **_of_the_machine(args), "report_to": report_to})
    check_config(config)
    return config


def _of_flags(args: argparse.Namespace, arguments: Mapping[str, Any]) -> list[str]:
    notes = []
    if args.deepspeed:
        notes.append("--deepspeed is taken, and without effect: --zero_stage and --offload say what DeepSpeed does.")
    left = len(list(Path(args.output_dir).glob("checkpoint-*")))
    if left and not arguments.get("resume_from_checkpoint"):
        of = f"{left} checkpoint{'s' if left > 1 else ''} of another run {'are' if left > 1 else 'is'}"
        notes.append(
            f"this run starts anew; {of} in {args.output_dir}. To go on from the last one, set "
            "--resume_from_checkpoint true."
        )
    return notes


def _datasets(specs: Sequence[str] | None) -> list[dict[str, Any]]:
    names = ("name", "proportion", "num_samples", "path")
    return [dict(zip(names, split_spec(spec), strict=True)) for spec in specs or ()]


def _of_the_machine(args: argparse.Namespace) -> dict[str, Any]:
    from transformers.utils import is_torch_tf32_available

    use_cpu = args.use_cpu or not has_accelerator()
    start_engine(args.zero_stage, use_cpu)
    return {"use_cpu": use_cpu, "tf32": args.tf32 if not use_cpu and is_torch_tf32_available() else None}
