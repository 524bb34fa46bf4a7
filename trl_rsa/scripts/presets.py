"""`trl-rsa presets`: the plans of papers, and what differs from the papers."""

import argparse


_EPILOG = """\
examples:
  trl-rsa presets sacpo > plan.yaml

or, in a plan, only what is yours; `trl-rsa align --config plan.yaml --dry_run` says what comes of it:

  preset: sacpo
  model: my-org/my-sft-model
  output_dir: runs/mine
  dataset: pairs.jsonl                      # for all stages
  dataset_options: {template: chat}         # for all stages
  args: {num_train_epochs: 1}               # mappings change the preset's key by key; null removes a key
  stages: {safe: {constraint_multiplier: 10}}
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa presets",
        description="Show the plans of papers, with what differs from each paper and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one as a plan in YAML (default: list all)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the command. Raises `ValueError` with one sentence for the user."""
    from trl_rsa.alignment.presets import PRESETS, find_preset

    if args.name is not None:
        print(find_preset(args.name).text, end="")
        return 0
    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        print(f"{name:<{width}}  {preset.summary}")
    print("\n`trl-rsa presets NAME` prints one as a plan. docs/papers.md says what our measurements say of each.")
    return 0
