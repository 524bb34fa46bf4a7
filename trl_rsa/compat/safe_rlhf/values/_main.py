"""What Safe RLHF's two value trainers share: their flags, and the way to `train_score_model`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from trl_rsa.compat.safe_rlhf.values._flags import add_common_flags, training_arguments, truth
from trl_rsa.scripts._command import explain, parse_arguments


def make_parser(objective: str) -> argparse.ArgumentParser:
    """The flags of `safe_rlhf.values.<objective>`, with its defaults."""
    parser = argparse.ArgumentParser(
        prog=f"trl_rsa.compat.safe_rlhf.values.{objective}",
        description=f"Train a {objective} model with the arguments of safe_rlhf.values.{objective}.",
    )
    add_common_flags(parser)
    values = parser.add_argument_group("score model")
    values.add_argument("--loss_type", default="sequence-wise", choices=["token-wise", "sequence-wise"])
    values.add_argument("--regularization", type=float, default=0.0, help="weight of the squared scores")
    values.add_argument("--normalize_score_during_training", type=truth, default=False, metavar="BOOL")
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
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _train(objective: str, args: argparse.Namespace) -> None:
    from trl import RewardConfig

    from trl_rsa.score_models.train import train_score_model

    training_args = RewardConfig(**training_arguments(args))
    is_main = training_args.process_index == 0
    result = train_score_model(
        score_model_arguments(objective, args),
        training_args,
        args.model_name_or_path,
        log=print if is_main else lambda text: None,
    )
    if not is_main:
        return
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name in ("pair_accuracy", "auc", "right_side_of_zero"):
        if result.measures is not None and result.measures.get(name) is not None:
            print(f"{name}: {result.measures[name]:.3f}")
    print(f"Saved to {args.output_dir}: load it as beaver:{args.output_dir}, or with transformers' own loaders.")


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
