"""
`safe_rlhf.algorithms.dpo`: one stage of preference alignment, with Safe RLHF's flags. Without a risk flag it is DPO.

```bash
deepspeed --module trl_rsa.compat.safe_rlhf.algorithms.dpo --train_datasets PKU-SafeRLHF/train …
accelerate launch -m trl_rsa.compat.safe_rlhf.algorithms.dpo …       # or: python -m …
```
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_rsa.compat.safe_rlhf.command_line import KNOWN_AS, add_switch, add_training_flags, run
from trl_rsa.compat.safe_rlhf.pairs import check_names, import_datasets, load_pairs
from trl_rsa.compat.safe_rlhf.training import start, training_arguments
from trl_rsa.data import PAIR_RULES, TEMPLATES, split_by_prompt
from trl_rsa.risk import RISK_MEASURES
from trl_rsa.sampling.policies import refuse_score_model
from trl_rsa.storage.hub import why_not_loaded


PROG = "trl_rsa.compat.safe_rlhf.algorithms.dpo"

# Flags of ours that make the loss RSA's: none of them given, it is DPO.
_RISK = ("risk_measure", "risk_tail", "risk_theta", "risk_weight", "risk_tails", "risk_weights", "risk_alpha")

_KNOWN_AS = KNOWN_AS | {
    "--beta": "here it is Safe RLHF's --scale_coeff",
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
    add_training_flags(parser)

    group = parser.add_argument_group("pairs")
    group.add_argument("--preference", default="better", choices=["better", "safer"], help="judgement that decides")
    group.add_argument("--pair_rule", choices=[*PAIR_RULES], help="keep and turn pairs by their safety labels")
    group.add_argument("--template", default="safe-rlhf", choices=TEMPLATES, help="how pairs are written down")
    add_switch(group, "--drop_truncated", "drop pairs that are too long, instead of cutting answers", default=True)

    group = parser.add_argument_group("loss")
    group.add_argument("--ref_model_name_or_path", help="reference (default: the model to train, before training)")
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
    risk = {name: getattr(args, name) for name in _RISK if getattr(args, name) is not None}
    if not risk and args.loss_type is None:
        risk = {"risk_alpha": 0.0}
    return {
        **training_arguments(args),
        "beta": args.scale_coeff,
        "constraint_multiplier": args.constraint_multiplier,
        "label_smoothing": args.label_smoothing,
        "loss_type": [args.loss_type or "rsa2"],
        **risk,
        "drop_truncated": args.drop_truncated,
    }


def main(args: argparse.Namespace) -> None:
    """Trains and saves, or with `--dry_run` prints what would be done. Raises `ValueError` and its kin for users."""
    from trl_rsa.config import RSAConfig

    # The type of the weights that are updated; fp16 and bf16 are what is computed in.
    arguments = config_arguments(args) | {"model_init_kwargs": {"dtype": "float32"}}
    notes = []
    if arguments.get("risk_alpha") == 0:
        notes.append("risk_alpha is 0, which is DPO; add --risk_measure cvar --risk_tail 0.1, for example, for RSA.")
    if args.dataset_module:
        import_datasets(args.dataset_module)
    for model in (args.model_name_or_path, args.ref_model_name_or_path):
        if model is not None:
            refuse_score_model(model)
    check_names([*args.train_datasets, *(args.eval_datasets or ())], args.preference)
    settings = {
        "reference": args.ref_model_name_or_path or args.model_name_or_path,
        "pairs": {"preferred_by": args.preference, "rule": args.pair_rule, "template": args.template},
    }
    config = start(PROG, args, RSAConfig, arguments, settings, notes)
    if config is not None:
        _train(args, config)


def _train(args: argparse.Namespace, config: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_rsa.score_models.master import save_master_weights
    from trl_rsa.score_models.model import round_weights
    from trl_rsa.scripts._training import check_resumed, identity_of, train_to_the_end
    from trl_rsa.trainer import RSATrainer
    from trl_rsa.training.anchor import model_identity
    from trl_rsa.training.checkpoints import CheckpointMarker, refuse_pieces

    tokenizer = _load(AutoTokenizer, args.model_name_or_path, args.trust_remote_code)
    if tokenizer.eos_token is None:
        raise ValueError(
            f"You set model_name_or_path={args.model_name_or_path!r}, but its tokenizer has no end-of-sequence token, "
            "which ends every answer. Add one to the tokenizer."
        )

    def load(specs: Sequence[str]) -> Any:
        log = (lambda text: print(text, file=sys.stderr)) if config.process_index == 0 else (lambda text: None)
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
    start = [model_identity(path) for path in (args.model_name_or_path, args.ref_model_name_or_path) if path]
    run = identity_of(config, train, str(start), None)
    checkpoint = check_resumed(config.resume_from_checkpoint, config, run)
    trainer = RSATrainer(
        model=args.model_name_or_path,
        ref_model=reference,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[CheckpointMarker(None, run)],
    )
    refuse_pieces(trainer)
    train_to_the_end(trainer, checkpoint, config.resume_from_checkpoint)
    save_master_weights(trainer, Path(args.output_dir))
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()
    if args.save_16bit and trainer.is_world_process_zero():
        round_weights(Path(args.output_dir), torch.float16 if args.fp16 else torch.bfloat16)
    trainer.accelerator.print(f"Model saved to {args.output_dir}.")
    trainer.end()


def _load(auto_class: Any, path: str, trust_remote_code: bool, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"You set the model to {path!r}, but {why_not_loaded(path, error)}.") from error


if __name__ == "__main__":
    sys.exit(run(make_parser(), main, None, _KNOWN_AS))
