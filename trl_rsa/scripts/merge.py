"""`trl-rsa merge`: weighted averages of models, one folder for each weight."""

import argparse
from pathlib import Path


INTERRUPTED = "Finished merges stay; started again the command makes the others."

_EPILOG = """\
examples:
  trl-rsa merge runs/01-helpful runs/02-safe --weights 0.25 0.5 0.75 --output_dir merged
      three models, merged/0.25 to merged/0.75: 0.25 of the second model's weights and 0.75 of the first's, and so on
  trl-rsa merge A B C --weights 0.5 0.3 0.2 --output_dir merged
      one model, in merged
  trl-rsa merge --mergekit merge.yaml --output_dir merged
      what mergekit's file says; merge methods other than linear need mergekit itself

Adapters of one base give an adapter: their whole updates are averaged, never the factors A and B apart.
"""


def make_parser() -> argparse.ArgumentParser:
    from trl_rsa.merging.merge import COMBINATIONS

    parser = argparse.ArgumentParser(
        prog="trl-rsa merge",
        description="Average the weights of models, or the updates of adapters.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="folders or Hub ids of models, or of adapters")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="of two models: the share of the second, a merge for each; of more: one weight for each model, which sum "
        "to 1",
    )
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--combination",
        choices=[*COMBINATIONS],
        default="cat",
        help="for adapters; " + "; ".join(f"{k}: {v}" for k, v in COMBINATIONS.items()) + " (default: cat)",
    )
    parser.add_argument("--rank", type=int, help="rank of the result, for --combination svd")
    parser.add_argument("--dtype", help="type of full weights, such as bfloat16 (default: the models' own)")
    parser.add_argument("--max_shard_size", default="5GB", help="size of a file of full weights (default: 5GB)")
    parser.add_argument("--mergekit", metavar="FILE.yaml", help="a file of mergekit's, instead of models and weights")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the command. Raises `ValueError` or `FileNotFoundError` with one sentence for the user."""
    from trl_rsa.merging.merge import merge_models
    from trl_rsa.merging.mergekit import read_linear, run_mergekit

    dtype = args.dtype
    if args.mergekit is not None:
        if args.models or args.weights:
            raise ValueError("You set mergekit beside models or weights, but its file names both. Remove one of them.")
        linear = read_linear(args.mergekit)
        if linear is None:
            run_mergekit(args.mergekit, args.output_dir)
            return 0
        merges = [(linear.models, linear.weights, Path(args.output_dir))]
        dtype = dtype or linear.dtype
    else:
        merges = _merges(args.models, args.weights, Path(args.output_dir))
    for models, weights, folder in merges:
        merge = merge_models(
            models,
            weights,
            folder,
            combination=args.combination,
            rank=args.rank,
            dtype=dtype,
            max_shard_size=args.max_shard_size,
        )
        shown = " + ".join(f"{weight:g} × {Path(model).name}" for model, weight in zip(models, weights, strict=True))
        state = "" if merge.made else " (there already)"
        print(f"{folder}{state}: {shown}; {merge.content['dtype']}, off by {merge.content['error']:.2g} of the move")
    return 0


def _merges(models: list[str], weights: list[float] | None, folder: Path) -> list[tuple[list[str], list[float], Path]]:
    if not weights:
        raise ValueError("You gave no weights, but an average has some. Set --weights.")
    if len(models) != 2:
        return [(models, weights, folder)]
    if repeated := next((weight for weight in weights if weights.count(weight) > 1), None):
        raise ValueError(f"You set the weight {repeated:g} twice, but each makes a folder of its own. Remove one.")
    return [(models, [1.0 - weight, weight], folder / f"{weight:g}") for weight in weights]
