"""
`safe_rlhf.algorithms.dpo`: one stage of preference alignment, with Safe RLHF's flags. Without a risk flag it is DPO.

```bash
deepspeed --module trl_rsa.compat.safe_rlhf.algorithms.dpo --train_datasets PKU-SafeRLHF/train …
accelerate launch -m trl_rsa.compat.safe_rlhf.algorithms.dpo …       # or: python -m …
```
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_rsa.compat.safe_rlhf.command_line import add_switch, add_training_flags, run
from trl_rsa.compat.safe_rlhf.engine import deepspeed_config, start_engine
from trl_rsa.compat.safe_rlhf.pairs import import_datasets, load_pairs
from trl_rsa.compat.safe_rlhf.tracker import tracker
from trl_rsa.data import PAIR_RULES, TEMPLATES, split_by_prompt
from trl_rsa.data.spec import split_spec
from trl_rsa.risk import RISK_MEASURES


PROG = "trl_rsa.compat.safe_rlhf.algorithms.dpo"

# Flags of ours that make the loss RSA's: none of them given, it is DPO.
_RISK = ("risk_measure", "risk_tail", "risk_theta", "risk_weight", "risk_tails", "risk_weights", "risk_alpha")

_KNOWN_AS = {
    "--beta": "here it is Safe RLHF's --scale_coeff",
    "--num_train_epochs": "here it is Safe RLHF's --epochs",
    "--warmup_ratio": "here it is Safe RLHF's --lr_warmup_ratio",
    "--dataset_name": "here it is Safe RLHF's --train_datasets NAME[:PROPORTION[:PATH]]",
    "--report_to": "here it is Safe RLHF's --log_type",
    "--run_name": "here it is Safe RLHF's --log_run_name",
    "--preferred_by": "here it is --preference",
    "--lambda_init": "a single stage has a fixed multiplier: set --constraint_multiplier, or use trl-rsa align with a "
    "constraint, which finds it",
    "--margin": "RSA's loss has no margin: leave it out, or keep only clear pairs with --pair_rule one-safe",
    "--actor_model_name_or_path": "it belongs to PPO: use trl-rsa align with a constraint in place of ppo_lag",
    "--ptx_datasets": "there is no pretraining loss: add an SFT loss with trl-rsa train --loss_type rsa2 sft",
    "--use_peft": "this module trains all weights, as Safe RLHF did: use trl-rsa train --use_peft",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    group = parser.add_argument_group("model")
    group.add_argument("--model_name_or_path", required=True, help="Hub id or folder of the model to train")
    group.add_argument("--ref_model_name_or_path", help="reference (default: the model to train, before training)")
    group.add_argument("--max_length", type=int, default=512, help="most tokens of prompt and answer")
    add_switch(group, "--trust_remote_code", "run a model's own code")

    group = parser.add_argument_group("data")
    spec = "NAME[:PROPORTION[:PATH]]"
    group.add_argument("--train_datasets", nargs="+", required=True, metavar=spec, help="pairs to train on")
    group.add_argument("--eval_datasets", nargs="+", metavar=spec, help="pairs to evaluate on")
    group.add_argument("--preference", default="better", choices=["better", "safer"], help="judgement that decides")
    group.add_argument("--pair_rule", choices=[*PAIR_RULES], help="keep and turn pairs by their safety labels")
    group.add_argument("--template", default="safe-rlhf", choices=TEMPLATES, help="how pairs are written down")
    group.add_argument("--dataset_module", metavar="FILE.py", help="where your RawDataset classes are")
    add_switch(group, "--drop_truncated", "drop pairs that are too long, instead of cutting answers", default=True)

    add_training_flags(parser)

    group = parser.add_argument_group("loss")
    group.add_argument("--scale_coeff", type=float, default=0.02, help="β, the pull to the reference")
    group.add_argument("--constraint_multiplier", type=float, default=1.0, help="λ: the temperature is β/λ")
    group.add_argument("--label_smoothing", type=float, default=0.0, help="probability that a label is flipped")
    group.add_argument("--loss_type", choices=["rsa1", "rsa2"], help="rsa1 or rsa2 (rsa2 if only a risk is set)")
    group.add_argument("--risk_measure", choices=[*RISK_MEASURES], help="risk measure (entropic)")
    group.add_argument("--risk_alpha", type=float, help="rsa2: weight of the risk (0.5; without a risk flag 0, DPO)")
    for name in ("risk_tail", "risk_theta", "risk_weight"):
        group.add_argument(f"--{name}", type=float, help="parameter of the risk measure, as in trl-rsa train")
    for name in ("risk_tails", "risk_weights"):
        group.add_argument(f"--{name}", type=float, nargs="+", help="parameters of spectral")
    return parser


def config_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as arguments of [`RSAConfig`], whatever the machine and its trackers.

    Raises:
        ValueError: if flags contradict each other.
    """
    _check(args)
    risk = {name: getattr(args, name) for name in _RISK if getattr(args, name) is not None}
    loss = args.loss_type or "rsa2"
    if not risk and args.loss_type is None:
        risk = {"risk_alpha": 0.0}
    return {
        "output_dir": args.output_dir,
        "beta": args.scale_coeff,
        "constraint_multiplier": args.constraint_multiplier,
        "label_smoothing": args.label_smoothing,
        "loss_type": [loss],
        **risk,
        "max_length": args.max_length,
        "drop_truncated": args.drop_truncated,
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
        "eval_strategy": args.eval_strategy if args.need_eval else "no",
        **({"eval_steps": args.eval_interval} if args.need_eval and args.eval_strategy == "steps" else {}),
        **_saving(args.save_interval),
        "logging_steps": 1,
        "run_name": args.log_run_name,
        "deepspeed": deepspeed_config(args.zero_stage, args.offload),
    }


def _check(args: argparse.Namespace) -> None:
    if not args.output_dir:
        raise ValueError("You gave no output_dir, but the trained model has to go somewhere. Set --output_dir FOLDER.")
    if args.fp16 and args.bf16:
        raise ValueError("You set fp16 and bf16, but a model is trained in one of them. Set one to False.")
    if not 0 <= args.lr_warmup_ratio < 1:
        raise ValueError(
            f"You set lr_warmup_ratio={args.lr_warmup_ratio}, but it is a share of the steps. Set it in [0, 1)."
        )
    if args.need_eval and not args.eval_datasets and args.eval_split_ratio is None:
        raise ValueError(
            "You set need_eval, but there is nothing to evaluate on. Set --eval_datasets, or --eval_split_ratio to "
            "hold out a share of the pairs."
        )
    if args.eval_datasets and args.eval_split_ratio is not None:
        raise ValueError(
            "You set eval_datasets and eval_split_ratio, but pairs are held out once. Remove one of them."
        )


def _saving(save_interval: int) -> dict[str, Any]:
    """Checkpoints are written where the interval is shorter than Safe RLHF's default, which stands for never."""
    if save_interval >= 1_000_000:
        return {"save_strategy": "no"}
    return {"save_strategy": "steps", "save_steps": save_interval}


def main(args: argparse.Namespace) -> int:
    """Trains and saves, or with `--dry_run` prints what would be done. Raises `ValueError` and its kin for users."""
    arguments = config_arguments(args)
    report_to, variables, note = tracker(args.log_type, args.log_dir, args.log_project, args.output_dir)
    notes = [note] if note else []
    if arguments.get("risk_alpha") == 0:
        notes.append("risk_alpha is 0, which is DPO; add --risk_measure cvar --risk_tail 0.1, for example, for RSA.")
    if args.dataset_module:
        import_datasets(args.dataset_module)
    is_first = os.environ.get("RANK", "0") == "0"
    if args.dry_run:
        _try(arguments)
        if is_first:
            print(json.dumps(_description(args, arguments, report_to, variables, notes), indent=2, ensure_ascii=False))
        return 0
    for sentence in notes if is_first else ():
        print(f"{PROG}: {sentence}", file=sys.stderr)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    _train(args, arguments | {"report_to": report_to}, is_first)
    return 0


def _try(arguments: dict[str, Any]) -> None:
    """Makes the configuration as any machine can, so that a dry run refuses what a run refuses."""
    from trl_rsa.config import RSAConfig

    of_the_machine = {"deepspeed": None, "fp16": False, "bf16": False, "tf32": None, "use_cpu": True}
    RSAConfig(**arguments | of_the_machine, report_to="none")


def _description(
    args: argparse.Namespace, arguments: dict[str, Any], report_to: str, variables: dict[str, str], notes: list[str]
) -> dict[str, Any]:
    def datasets(specs: Sequence[str] | None) -> list[dict[str, Any]]:
        parts = [split_spec(spec) for spec in specs or ()]
        return [dict(zip(("name", "proportion", "num_samples", "path"), part, strict=True)) for part in parts]

    return {
        "model": args.model_name_or_path,
        "reference": args.ref_model_name_or_path or args.model_name_or_path,
        "data": {
            "train": datasets(args.train_datasets),
            "eval": datasets(args.eval_datasets),
            "eval_split_ratio": args.eval_split_ratio,
            "preferred_by": args.preference,
            "pair_rule": args.pair_rule,
            "template": args.template,
        },
        "arguments": arguments | {"report_to": report_to},
        "save_16bit": args.save_16bit,
        "environment": variables,
        "notes": notes,
    }


def _train(args: argparse.Namespace, arguments: dict[str, Any], is_first: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_torch_tf32_available

    from trl_rsa.config import RSAConfig
    from trl_rsa.trainer import RSATrainer

    use_cpu = not torch.accelerator.is_available()
    start_engine(args.zero_stage, use_cpu)
    init_kwargs = {"dtype": "float32"}  # of the weights that are updated; fp16 and bf16 are what is computed in
    config = RSAConfig(
        **arguments | {"tf32": arguments["tf32"] if is_torch_tf32_available() else None},
        use_cpu=use_cpu,
        model_init_kwargs=init_kwargs,
    )
    tokenizer = _load(AutoTokenizer, args.model_name_or_path, args.trust_remote_code)
    if tokenizer.eos_token is None:
        raise ValueError(
            f"You set model_name_or_path={args.model_name_or_path!r}, but its tokenizer has no end-of-sequence token, "
            "which ends every answer. Add one to the tokenizer."
        )

    def load(specs: Sequence[str]) -> Any:
        log = (lambda text: print(text, file=sys.stderr)) if is_first else (lambda text: None)
        return load_pairs(
            specs, args.preference, args.pair_rule, args.template, tokenizer.eos_token, args.seed, log=log
        )

    train, held_out = load(args.train_datasets), None
    if args.need_eval and args.eval_datasets:
        held_out = load(args.eval_datasets)
    elif args.need_eval:
        train, held_out = split_by_prompt(train, args.eval_split_ratio, args.seed)
    reference = None
    if args.ref_model_name_or_path:
        reference = _load(
            AutoModelForCausalLM, args.ref_model_name_or_path, args.trust_remote_code, dtype=torch.float32
        )
    trainer = RSATrainer(
        model=args.model_name_or_path,
        ref_model=reference,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(args.output_dir)
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()
    if args.save_16bit and trainer.is_world_process_zero():
        _cast(Path(args.output_dir), torch.float16 if args.fp16 else torch.bfloat16)
    trainer.accelerator.print(f"Model saved to {args.output_dir}.")
    trainer.end()


def _load(auto_class: Any, path: str, trust_remote_code: bool, **options: Any) -> Any:
    folder = Path(path)
    if not folder.is_dir() and (folder.is_absolute() or path.startswith((".", "~")) or len(folder.parts) > 2):
        raise FileNotFoundError(f"You set the model to {path!r}, but there is no such folder. Correct it.")
    try:
        return auto_class.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"You set the model to {path!r}, but it cannot be loaded: {reason}.") from error


def _cast(folder: Path, dtype: Any) -> None:
    """Rewrites the saved weights in 16 bits."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in sorted(folder.glob("*.safetensors")):
        tensors = {n: t.to(dtype) if t.dtype == torch.float32 else t for n, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config | {"dtype": name}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(make_parser(), main, None, _KNOWN_AS))
