"""What Safe RLHF's two value trainers share: their flags, and the way to `train_score_model`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trl_rsa.compat.safe_rlhf.command_line import KNOWN_AS, add_switch, add_training_flags, run
from trl_rsa.compat.safe_rlhf.pairs import import_datasets, write_rows
from trl_rsa.compat.safe_rlhf.training import start, training_arguments


_KNOWN_AS = KNOWN_AS | {
    "--use_peft": "this module trains all weights, as Safe RLHF did: use trl-rsa score-model --use_peft",
}


def make_parser(objective: str) -> argparse.ArgumentParser:
    """The flags of `safe_rlhf.values.<objective>`, with its defaults."""
    parser = argparse.ArgumentParser(
        prog=f"trl_rsa.compat.safe_rlhf.values.{objective}",
        description=f"Train a {objective} model with the arguments of safe_rlhf.values.{objective}.",
    )
    add_training_flags(parser)
    group = parser.add_argument_group("score model")
    group.add_argument("--loss_type", default="sequence-wise", choices=["token-wise", "sequence-wise"])
    group.add_argument("--regularization", type=float, default=0.0, help="weight of the squared scores")
    add_switch(group, "--normalize_score_during_training", "divide the scores by their spread")
    group.add_argument("--normalizer_type", choices=["RunningMeanStd", "ExponentialMovingAverage"])
    group.add_argument("--normalizer_momentum", type=float)
    return parser


def train(objective: str, argv: Sequence[str] | None = None) -> int:
    """Runs the module and returns its exit status: 2, with one sentence, after an error that the user can mend."""
    return run(make_parser(objective), partial(_train, objective), argv, _KNOWN_AS)


def _train(objective: str, args: argparse.Namespace) -> None:
    arguments = training_arguments(args)
    score_model = score_model_arguments(objective, args)
    if args.dataset_module:
        import_datasets(args.dataset_module)

    from trl import RewardConfig

    from trl_rsa.score_models.train import train_score_model

    notes = []
    if score_model.eval_data:
        notes.append(
            "rows to train on whose prompt is in the eval data are left out, and counted; Safe RLHF trains on them."
        )
    settings = {name: value for name, value in asdict(score_model).items() if name not in ("data", "eval_data")}
    training_args = start(make_parser(objective).prog, args, RewardConfig, arguments, {"score_model": settings}, notes)
    if training_args is None:
        return
    is_main = training_args.process_index == 0
    with TemporaryDirectory() as folder:
        data, eval_data = (
            [write_rows(spec, args.seed, Path(folder)) for spec in specs or ()]
            for specs in (score_model.data, score_model.eval_data)
        )
        result = train_score_model(
            replace(score_model, data=data, eval_data=eval_data or None),
            training_args,
            args.model_name_or_path,
            log=print if is_main else lambda text: None,
        )
    if not is_main:
        return
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for key, score in (result.measures or {}).items():
        if key in ("pair_accuracy", "auc", "right_side_of_zero") and isinstance(score, float):
            print(f"{key}: {score:.3f}")
    print(f"Saved to {args.output_dir}: load it as beaver:{args.output_dir}.")


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
        eval_data=args.eval_datasets if args.need_eval else None,
        held_out=(args.eval_split_ratio or 0.0) if args.need_eval else 0.0,  # as in Safe RLHF: all is trained on
        loss_type=args.loss_type,
        regularization=args.regularization,
        layout="beaver",
        truncation="left",
        normalizer=normalizer,
        normalizer_momentum=0.9 if momentum is None else momentum,
        save_16bit=args.save_16bit,
        dry_run=args.dry_run,
    )
