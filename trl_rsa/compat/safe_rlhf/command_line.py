"""Safe RLHF's command lines: flags with values for yes and no, one sentence for what is wrong, exit status 2."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl_rsa.scripts._command import UsageError, did_you_mean, exit_status, parse_arguments


_TRUE = ("true", "t", "yes", "y", "on", "1")
_FALSE = ("false", "f", "no", "n", "off", "0")

# Flags of other programs that all the modules have under another name: see `run`.
KNOWN_AS = {
    "--num_train_epochs": "here it is Safe RLHF's --epochs",
    "--warmup_ratio": "here it is Safe RLHF's --lr_warmup_ratio",
    "--dataset_name": "here it is Safe RLHF's --train_datasets NAME[:PROPORTION[:PATH]]",
    "--report_to": "here it is Safe RLHF's --log_type",
    "--run_name": "here it is Safe RLHF's --log_run_name",
    "--save_steps": "here it is Safe RLHF's --save_interval",
    "--deepspeed_config": "no file is needed: --zero_stage and --offload say all of it",
}


def truth(text: str) -> bool:
    """`True`, `yes`, `1`, … and their opposites, in any case."""
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def add_switch(group: Any, name: str, help: str, default: bool | None = False) -> None:
    """A flag that is on when it stands alone, and that takes a value too: both are in use."""
    group.add_argument(name, nargs="?", const=True, default=default, type=truth, metavar="BOOL", help=help)


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """
    Raises:
        ValueError: if one of these flags is set and below 1.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"You set {name}={value}, but it counts from 1. Set a whole number of at least 1.")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """What the trainers of Safe RLHF share, with its defaults."""
    group = parser.add_argument_group("model and data")
    group.add_argument("--model_name_or_path", required=True, help="Hub id or folder of the model to train")
    group.add_argument("--max_length", type=int, default=512, help="most tokens of prompt and answer")
    add_switch(group, "--trust_remote_code", "run a model's own code")
    spec = "NAME[:PROPORTION[:PATH]]"
    group.add_argument("--train_datasets", nargs="+", required=True, metavar=spec, help="data to train on")
    group.add_argument("--eval_datasets", nargs="+", metavar=spec, help="data to evaluate on")

    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=1, help="passes over the data")
    group.add_argument("--per_device_train_batch_size", type=int, default=16, help="rows per device and forward pass")
    group.add_argument("--per_device_eval_batch_size", type=int, default=16, help="the same in an evaluation")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, help="forward passes per optimizer step")
    add_switch(group, "--gradient_checkpointing", "save memory by computing activations twice")
    group.add_argument("--lr", "--learning_rate", dest="lr", type=float, default=2e-5, help="peak learning rate")
    group.add_argument(
        "--lr_scheduler_type",
        default="cosine",
        choices=["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
        help="shape of the learning rate",
    )
    group.add_argument("--lr_warmup_ratio", type=float, default=0.0, help="share of the steps to warm up, below 1")
    group.add_argument("--weight_decay", type=float, default=0.0, help="weight decay")
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="norm at which gradients are clipped")
    group.add_argument("--seed", type=int, default=42, help="seed of the training and of the draw of data")
    for name in ("fp16", "bf16"):
        add_switch(group, f"--{name}", f"train in {name}")
    add_switch(group, "--tf32", "TF32 products, where the device has them", default=None)
    add_switch(group, "--use_cpu", "train without an accelerator, as where there is none")

    group = parser.add_argument_group("evaluation")
    add_switch(group, "--need_eval", "evaluate during training")
    group.add_argument("--eval_strategy", default="epoch", choices=["epoch", "steps"], help="when to")
    group.add_argument("--eval_interval", type=int, default=1_000_000, help="steps between two, for steps")
    group.add_argument("--eval_split_ratio", type=float, help="share of the prompts to hold out")

    group = parser.add_argument_group("saving and logging")
    group.add_argument("--output_dir", help="folder of the trained model")
    group.add_argument("--log_type", default="wandb", choices=["wandb", "tensorboard", "none"], help="the tracker")
    group.add_argument("--log_dir", help="its folder (default: output_dir)")
    group.add_argument("--log_project", help="its project (default: safe-rlhf)")
    group.add_argument("--log_run_name", help="its run")
    add_switch(group, "--save_16bit", "save the weights in 16 bits")
    group.add_argument("--save_interval", type=int, default=1_000_000, help="steps between two checkpoints")
    group.add_argument("--resume_from_checkpoint", metavar="true|FOLDER", help="go on from the last one, or this one")
    group.add_argument("--dataset_module", metavar="FILE.py", help="where your RawDataset classes are")

    group = parser.add_argument_group("DeepSpeed")
    group.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    add_switch(group, "--deepspeed", "taken, and without effect: --zero_stage decides")
    group.add_argument("--zero_stage", type=int, default=0, choices=[0, 1, 2, 3], help="ZeRO stage; 0 is DDP")
    group.add_argument(
        "--offload",
        default="none",
        choices=["none", "parameter", "optimizer", "all"],
        help="what waits in main memory: the optimizer from stage 1 on, parameters in stage 3",
    )
    add_switch(parser, "--dry_run", "print the resulting configuration, and end")


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
    known_as: Mapping[str, str],
) -> int:
    """
    Parses and runs.

    Args:
        parser, main, argv:
            As one would think; `argv` defaults to the command line.
        known_as (`Mapping[str, str]`):
            From flags of other programs to what is to be done here in their place, as the end of a sentence.

    Returns:
        `int`: the exit status: 2 after an error that the user can mend, of which one sentence stands on stderr.
    """
    words = sys.argv[1:] if argv is None else list(argv)

    def work() -> int | None:
        _refuse_unknown(words, parser, known_as)
        return main(parse_arguments(parser, words, parser.prog))

    return exit_status(parser.prog, work)


def _refuse_unknown(argv: Sequence[str], parser: argparse.ArgumentParser, known_as: Mapping[str, str]) -> None:
    own = parser._option_string_actions
    for flag in (word.split("=", 1)[0] for word in argv if word.startswith("--")):
        if flag in own or flag == "--":
            continue
        if flag in known_as:
            raise UsageError(f"You set {flag}, but {known_as[flag]}.")
        near = did_you_mean(flag, own) or ". See --help for those that there are."
        raise UsageError(f"You set {flag}, but there is no such flag{near}")
