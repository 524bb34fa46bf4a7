"""The command line of Safe RLHF's modules: flags with values for truth, dataset specs, ZeRO stages without a file."""

import argparse
import os
from pathlib import Path
from typing import Any


TRACKERS = ("wandb", "tensorboard")


def truth(text: str) -> bool:
    """`True`, `yes`, `1`, … as Safe RLHF takes them."""
    words = {"true": True, "yes": True, "t": True, "y": True, "1": True}
    words |= {"false": False, "no": False, "f": False, "n": False, "0": False}
    if text.strip().casefold() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.strip().casefold()]


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """What all of Safe RLHF's trainers take, with its defaults."""
    add = parser.add_argument
    data = parser.add_argument_group("model and data")
    data.add_argument("--model_name_or_path", required=True, help="folder or Hub id of the model to start from")
    data.add_argument("--max_length", type=int, default=512, help="most tokens of prompt and response")
    data.add_argument("--trust_remote_code", type=truth, default=False, metavar="BOOL")
    data.add_argument("--train_datasets", nargs="+", required=True, metavar="NAME[:PROPORTION[:PATH]]")
    data.add_argument("--eval_datasets", nargs="+", metavar="NAME[:PROPORTION[:PATH]]")
    data.add_argument("--output_dir", required=True)
    add("--epochs", type=int, default=1)
    add("--per_device_train_batch_size", type=int, default=16)
    add("--per_device_eval_batch_size", type=int, default=16)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--gradient_checkpointing", action="store_true")
    add("--lr", "--learning_rate", dest="lr", type=float, default=2e-5)
    add("--lr_scheduler_type", default="cosine", choices=_SCHEDULERS)
    add("--lr_warmup_ratio", type=float, default=0.0)
    add("--weight_decay", type=float, default=0.0)
    add("--seed", type=int, default=42)
    for name in ("fp16", "bf16", "tf32"):
        add(f"--{name}", type=truth, default=None, metavar="BOOL")
    add("--eval_strategy", default="epoch", choices=["epoch", "steps"])
    add("--eval_interval", type=int, default=1_000_000, metavar="STEPS")
    add("--need_eval", action="store_true", help="evaluate during training too")
    add("--eval_split_ratio", type=float, help="share of the training prompts to evaluate on")
    add("--log_type", choices=TRACKERS, default="wandb")
    add("--log_dir")
    add("--log_project")
    add("--log_run_name")
    add("--save_16bit", action="store_true")
    add("--save_interval", type=int, default=1_000_000, metavar="STEPS")
    add("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # the deepspeed launcher gives it
    add("--zero_stage", type=int, default=0, choices=[0, 1, 2, 3])
    add("--offload", default="none", choices=["none", "parameter", "optimizer", "all"])
    add("--use_cpu", action="store_true", help="train without an accelerator, as where there is none")


_SCHEDULERS = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


def training_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as arguments of transformers' trainer, and of those that extend it."""
    precision = {name: getattr(args, name) for name in ("fp16", "bf16", "tf32") if getattr(args, name) is not None}
    use_cpu = args.use_cpu or not _has_accelerator()
    if use_cpu:
        precision.pop("tf32", None)  # a matter of NVIDIA's units
    found: dict[str, Any] = {
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
        # transformers takes a share of the steps below 1, and a number of steps from 1.
        "warmup_steps": args.lr_warmup_ratio,
        "weight_decay": args.weight_decay,
        "seed": args.seed,
        "use_cpu": use_cpu,
        "bf16": False,
        **precision,
        "save_strategy": "steps",
        "save_steps": args.save_interval,
        "report_to": tracker(args),
        "eval_strategy": args.eval_strategy if args.need_eval else "no",
        "deepspeed": deepspeed_config(args.zero_stage, args.offload) if launched() else None,
    }
    if args.need_eval and args.eval_strategy == "steps":
        found["eval_steps"] = args.eval_interval
    if args.log_run_name:
        found["run_name"] = args.log_run_name
    return found


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def launched() -> bool:
    """Whether a launcher has started this process; ZeRO needs its ranks."""
    return "LOCAL_RANK" in os.environ and "MASTER_PORT" in os.environ


def deepspeed_config(zero_stage: int, offload: str) -> dict[str, Any]:
    """`--zero_stage` and `--offload` as DeepSpeed's configuration; the trainer fills what is "auto"."""
    zero: dict[str, Any] = {"stage": zero_stage, "overlap_comm": True, "contiguous_gradients": True}
    if offload in ("parameter", "all") and zero_stage < 3:
        raise ValueError(
            f"You set offload={offload} with zero_stage={zero_stage}, but only stage 3 takes parameters apart. Set "
            "zero_stage=3, or offload=optimizer."
        )
    if offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if offload in ("parameter", "all"):
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if zero_stage == 3:
        # Whole weights in the saved folder: nobody has to run zero_to_fp32.py.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {
        **dict.fromkeys(auto, "auto"),
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
    }


def tracker(args: argparse.Namespace) -> str:
    """The tracker, with its project and folder. Weights & Biases is asked nothing: without a key it stays offline."""
    if args.log_type == "tensorboard":
        folder = Path(args.log_dir or args.output_dir) / "tensorboard"
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder))
        return "tensorboard" if _installed("tensorboard") or _installed("tensorboardX") else _none("tensorboard")
    if not _installed("wandb"):
        return _none("wandb")
    if "WANDB_API_KEY" not in os.environ:
        os.environ.setdefault("WANDB_MODE", "offline")
    if args.log_project:
        os.environ.setdefault("WANDB_PROJECT", args.log_project)
    if args.log_dir:
        os.environ.setdefault("WANDB_DIR", args.log_dir)
    return "wandb"


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _none(name: str) -> str:
    print(f"{name} is not installed: nothing is logged to it. `pip install {name}` changes that.")
    return "none"
