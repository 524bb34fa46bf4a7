"""The command line of Safe RLHF's trainers: flags with values for truth, ZeRO stages without a file, trackers."""

import argparse
import os
from importlib.util import find_spec
from typing import Any


_SCHEDULERS = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
_WORDS = {"true": True, "yes": True, "t": True, "y": True, "1": True}
_WORDS |= {"false": False, "no": False, "f": False, "n": False, "0": False}


def truth(text: str) -> bool:
    """`True`, `yes`, `1`, … as Safe RLHF takes them."""
    if text.strip().casefold() not in _WORDS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return _WORDS[text.strip().casefold()]


def add_switch(group: Any, name: str, help: str, default: bool | None = False) -> None:
    """A flag that is on when it stands alone, and that takes a value too: both are in use."""
    group.add_argument(name, nargs="?", const=True, default=default, type=truth, metavar="BOOL", help=help)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """What all of Safe RLHF's trainers take, with its defaults."""
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--output_dir", required=True, help="folder of the trained model")
    add("--epochs", type=int, default=1, help="passes over the data")
    add("--per_device_train_batch_size", type=int, default=16, help="rows per device and forward pass")
    add("--per_device_eval_batch_size", type=int, default=16, help="the same in an evaluation")
    add("--gradient_accumulation_steps", type=int, default=1, help="forward passes per optimizer step")
    add_switch(group, "--gradient_checkpointing", "save memory by computing activations twice")
    add("--lr", "--learning_rate", dest="lr", type=float, default=2e-5, help="peak learning rate")
    add("--lr_scheduler_type", default="cosine", choices=_SCHEDULERS, help="shape of the learning rate")
    add("--lr_warmup_ratio", type=float, default=0.0, help="share of the steps to warm up, below 1")
    add("--weight_decay", type=float, default=0.0, help="weight decay")
    add("--seed", type=int, default=42, help="seed of the training and of the draw of data")
    for name in ("fp16", "bf16"):
        add_switch(group, f"--{name}", f"train in {name}")
    add_switch(group, "--tf32", "TF32 products, where the device has them", default=None)
    add_switch(group, "--use_cpu", "train without an accelerator, as where there is none")
    add_switch(group, "--need_eval", "evaluate during training too")
    add("--eval_strategy", default="epoch", choices=["epoch", "steps"], help="when to")
    add("--eval_interval", type=int, default=1_000_000, help="steps between two, for steps")
    add("--eval_split_ratio", type=float, help="share of the training prompts to evaluate on")
    add("--log_type", default="wandb", choices=["wandb", "tensorboard", "none"], help="the tracker")
    add("--log_dir", help="its folder (default: output_dir)")
    add("--log_project", help="its project")
    add("--log_run_name", help="its run")
    add_switch(group, "--save_16bit", "save the weights in 16 bits")
    add("--save_interval", type=int, default=1_000_000, help="steps between two checkpoints")
    add("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # the deepspeed launcher gives it
    add("--zero_stage", type=int, default=0, choices=[0, 1, 2, 3], help="ZeRO stage; 0 is DDP")
    add("--offload", default="none", choices=["none", "parameter", "optimizer", "all"], help="what waits in memory")


def deepspeed_config(zero_stage: int, offload: str = "none") -> dict[str, Any] | None:
    """`--zero_stage` and `--offload` as DeepSpeed's configuration, of which the trainer fills the "auto"; None for
    stage 0, which is DDP."""
    least = {"none": 0, "optimizer": 1, "parameter": 3, "all": 3}[offload]
    if zero_stage < least:
        raise ValueError(
            f"You set offload={offload} with zero_stage={zero_stage}, but DeepSpeed offloads that from stage {least} "
            f"on. Set zero_stage={least}, or offload=none."
        )
    if zero_stage == 0:
        return None
    zero: dict[str, Any] = {"stage": zero_stage}
    for part, choices in (("optimizer", ("optimizer", "all")), ("param", ("parameter", "all"))):
        if offload in choices:
            zero[f"offload_{part}"] = {"device": "cpu", "pin_memory": True}
    if zero_stage == 3:
        # Whole weights in the saved folder: nobody has to run zero_to_fp32.py.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {
        "zero_optimization": zero,
        # torch's optimizer: DeepSpeed's own has to be compiled at the first start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **dict.fromkeys((*automatic, "gradient_clipping"), "auto"),
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }


def start_engine(zero_stage: int, use_cpu: bool) -> None:
    """What DeepSpeed needs before the first configuration object is made."""
    if zero_stage == 0:
        return
    if find_spec("deepspeed") is None:
        raise ImportError(
            f"You set zero_stage={zero_stage}, but DeepSpeed is not installed. Run pip install 'trl-rsa[deepspeed]', "
            "or set zero_stage=0."
        )
    if "RANK" not in os.environ:  # one process, without a launcher
        import socket

        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    if use_cpu:
        import deepspeed

        # accelerate does this itself, but not on a CPU.
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def tracker(
    log_type: str, log_dir: str | None, log_project: str | None, output_dir: str
) -> tuple[str, dict[str, str], str | None]:
    """What `report_to` is, the environment variables that the tracker reads, and a sentence where it is another one
    than was asked for. Weights & Biases asks nothing: without a key it stays offline."""
    packages = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX"), "none": ("trl",)}[log_type]
    if not any(map(find_spec, packages)):
        return "none", {}, f"{log_type} is not installed, so nothing is logged to it; pip install {log_type}."
    folder = log_dir or output_dir
    if log_type == "tensorboard":
        return log_type, {"TENSORBOARD_LOGGING_DIR": folder}, None
    if log_type == "none":
        return log_type, {}, None
    variables = {"WANDB_PROJECT": log_project or "safe-rlhf", "WANDB_DIR": folder}
    return log_type, variables if "WANDB_API_KEY" in os.environ else variables | {"WANDB_MODE": "offline"}, None
