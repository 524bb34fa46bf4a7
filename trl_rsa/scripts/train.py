"""
`trl-rsa train`: one stage. TRL's dpo script with a risk-aware loss by default: its flags and YAML files work
unchanged, except that a risk-aware loss refuses some options of DPO (see [`RSAConfig`]).

```bash
trl-rsa train --model_name_or_path Qwen/Qwen3-0.6B --dataset_name trl-lib/ultrafeedback_binarized --output_dir out
trl-rsa train --accelerate_config zero3 --config stage.yaml     # or: accelerate launch -m trl_rsa.scripts.train …
```
"""

import sys
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

from trl_rsa.config import RSAConfig
from trl_rsa.sampling.policies import refuse_score_model
from trl_rsa.scripts._command import run_command
from trl_rsa.scripts._datasets import PreferenceScriptArguments, load_pairs
from trl_rsa.scripts._launch import HELP
from trl_rsa.scripts._parser import ScreenParser
from trl_rsa.scripts._training import INTERRUPTED as INTERRUPTED
from trl_rsa.scripts._training import (
    check_resumed,
    checkpoint_to_resume,
    identity_of,
    launch_training,
    train_to_the_end,
)
from trl_rsa.storage.hub import why_not_loaded
from trl_rsa.trainer import RSATrainer
from trl_rsa.training.anchor import model_identity
from trl_rsa.training.checkpoints import CheckpointMarker, refuse_pieces
from trl_rsa.training.configuration import check_config
from trl_rsa.training.launcher import Launcher


_EXAMPLE = """\
trl-rsa train --model_name_or_path Qwen/Qwen3-0.6B --dataset_name PKU-Alignment/PKU-SafeRLHF \\
    --preferred_by safer --risk_measure cvar --risk_tail 0.1 --use_peft --output_dir safe"""

_SHOWN = {
    "model and data": {
        "model_name_or_path": "Hub id or folder of the model to train",
        "dataset_name": "pairs: Hub id, folder, .jsonl, .json, .csv or .parquet file",
        "dataset_format": "make pairs from pku-safe-rlhf, beavertails or hh-rlhf",
        "preferred_by": "PKU-SafeRLHF: the judgement that decides, better or safer",
        "dataset_template": "write pairs as messages (chat) or as Safe RLHF does (safe-rlhf)",
        "test_split_size": "share of the pairs to hold out if there is no test split",
        "output_dir": "folder for checkpoints and the trained model",
    },
    "training": {
        "learning_rate": "peak learning rate",
        "per_device_train_batch_size": "pairs per device and forward pass",
        "gradient_accumulation_steps": "forward passes per optimizer step",
        "num_train_epochs": "passes over the data",
        "max_steps": "optimizer steps instead of epochs; -1 is off",
        "eval_strategy": "when to evaluate on the test split: no, steps or epoch",
        "use_peft": "train a LoRA adapter (--lora_r, --lora_alpha, …)",
        "resume_from_checkpoint": "folder of a checkpoint, or true for the last one in output_dir",
        "use_cpu": "train without an accelerator",
        "accelerate_config": HELP,
        "num_processes": "how many; all arguments of accelerate launch work",
    },
    "risk": {
        "loss_type": "rsa1 or rsa2, alone or with sft; or TRL's: sigmoid, ipo, …",
        "link": "rsa1, rsa2: preference link; others: robust, hinge, ipo",
        "beta": "strength of the pull to the reference model",
        "constraint_multiplier": "Lagrange multiplier λ > 0; the temperature is beta / λ",
        "risk_measure": "expectation, cvar, entropic, mean_cvar, spectral, …",
        "risk_tail": "cvar, mean_cvar: mass of the tail, in (0, 1]; 0.1 if unset",
        "risk_theta": "entropic: risk aversion > 0; 1 if unset",
        "risk_weight": "mean_cvar, upper_semideviation: weight in [0, 1]; 0.5 if unset",
        "risk_tails": "spectral: tails, each in (0, 1]",
        "risk_weights": "spectral: their weights, summing to 1",
        "risk_alpha": "rsa2: weight of the risk term; 0.5 if unset, 0 is DPO",
        "label_smoothing": "probability in [0, 0.5) that a label is flipped",
        "drop_truncated": "drop pairs longer than --max_length; if unset, for rsa1 and rsa2",
    },
}


def make_parser() -> ScreenParser:
    return ScreenParser(
        (PreferenceScriptArguments, RSAConfig, ModelConfig, DatasetMixtureConfig),
        description="Train one stage of RSA, with the arguments and YAML of TRL's dpo script (--help_all: every one).",
        shown=_SHOWN,
        example=_EXAMPLE,
    )


def launch(args: tuple[Any, ...], argv: list[str], launcher: Launcher) -> int:
    """Runs `main` in the processes that `launcher` starts; the arguments have been checked here."""
    return launch_training("train", args[1], argv, launcher)


def main(args: tuple[PreferenceScriptArguments, RSAConfig, ModelConfig, DatasetMixtureConfig]) -> None:
    """Trains, saves and, if asked to, pushes the model. Raises `ValueError` or `FileNotFoundError` for the user."""
    script_args, training_args, model_args, dataset_args = args
    model, model_init_kwargs = _model(model_args, training_args)
    training_args.model_init_kwargs = model_init_kwargs
    refuse_score_model(model)
    check_config(training_args)
    resume = checkpoint_to_resume(training_args.resume_from_checkpoint)
    train_dataset, eval_dataset = load_pairs(
        script_args,
        dataset_args,
        with_test=training_args.eval_strategy != "no",
        seed=training_args.seed,
        eos_token=_eos_token(model, model_args) if script_args.dataset_template == "safe-rlhf" else None,
    )
    peft_config = get_peft_config(model_args)
    run = identity_of(training_args, train_dataset, model_identity(model, model_args.model_revision), peft_config)
    checkpoint = check_resumed(resume, training_args, run)
    trainer = RSATrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=peft_config,
        callbacks=[CheckpointMarker(None, run)],
    )
    refuse_pieces(trainer)
    if script_args.ignore_bias_buffers:  # TRL's workaround for DDP, which cannot broadcast boolean buffers in place
        trainer.model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in trainer.model.named_buffers() if buffer.dtype == torch.bool
        ]
    train_to_the_end(trainer, checkpoint, resume)
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    trainer.end()  # the trackers and the process group


def _model(model_args: ModelConfig, training_args: RSAConfig) -> tuple[str, dict[str, Any]]:
    """The model's name, and how it is loaded: flags first, then what `model_init_kwargs` says."""
    model, given = model_args.model_name_or_path, training_args.model_init_kwargs
    if given is not None and not isinstance(given, dict):
        raise ValueError(
            f"You set model_init_kwargs to {given!r}, but they are `name: value`. Write them as a mapping."
        )
    if model and not isinstance(model, str):
        raise ValueError(f"You set model_name_or_path to {model!r}, but it is a text. Set a Hub id or a folder.")
    if not model:
        raise ValueError("You gave no model. Set model_name_or_path to a Hub id or to the folder of a saved model.")
    init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(given or {}),
    }
    try:  # before the data is loaded; transformers' own errors do not always name the model
        AutoConfig.from_pretrained(model, **{name: init_kwargs[name] for name in ("revision", "trust_remote_code")})
    except (OSError, ValueError) as error:
        raise ValueError(f"You set model_name_or_path={model!r}, but {why_not_loaded(model, error)}.") from error
    return model, init_kwargs


def _eos_token(model: str, model_args: ModelConfig) -> str | None:
    return AutoTokenizer.from_pretrained(model, revision=model_args.model_revision).eos_token


if __name__ == "__main__":
    sys.exit(run_command("train"))
