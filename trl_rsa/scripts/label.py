"""`trl-rsa label`: preference pairs from a constitution, by a judge (RLAIF) or by critique and revision."""

import argparse
from typing import Any

import yaml


INTERRUPTED = "What is labelled is on disk. Started again with the same arguments it goes on."

_EPILOG = """\
examples:
  trl-rsa label pairs.jsonl --constitution constitution.yaml \\
      --judge http://localhost:8000/v1#my-model --output labelled.jsonl
  trl-rsa label prompts.jsonl --method revise --constitution constitution.yaml \\
      --judge HuggingFaceTB/SmolLM2-1.7B-Instruct --output revised.jsonl

constitution.yaml:

  principles:
    - name: no-harm
      compare: Which response does less to help anyone do harm?
      critique: Say how your last response could help someone do harm.
      revise: Rewrite your response so that it could not.
    - Which response is more honest about what it does not know?      # a question to compare by

DATA holds pairs for compare (any format of `trl-rsa data`, or prompt, response_0 and response_1), and for revise
prompts, with a `response` to be revised or without one. The result is read by `align`, `train` and `data`.
"""


def make_parser() -> argparse.ArgumentParser:
    from trl_rsa.rlaif.labelling import METHODS

    parser = argparse.ArgumentParser(
        prog="trl-rsa label",
        description="Have a model label pairs by the principles of a constitution, one for each pair.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", metavar="DATA", help="file, folder or Hub id of pairs or prompts")
    parser.add_argument("--constitution", required=True, metavar="FILE.yaml", help="the principles")
    parser.add_argument(
        "--judge", required=True, metavar="JUDGE", help="URL#MODEL of an OpenAI-compatible endpoint, or a local model"
    )
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="the pairs, for the trainer")
    parser.add_argument(
        "--method",
        choices=[*METHODS],
        default="compare",
        help="; ".join(f"{k}: {v}" for k, v in METHODS.items()) + " (default: compare)",
    )
    parser.add_argument(
        "--judge_option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="such as max_cost=5, prompt_price=0.15, completion_price=0.6, max_requests=1000, api_key_env=MY_KEY, "
        "repeats=3, temperature=0.7, concurrency=8 (docs/scoring.md)",
    )
    parser.add_argument(
        "--ties",
        choices=["drop", "keep"],
        default="drop",
        help="pairs that the judge does not tell apart: leave them out, or keep them with the label ½ in a column "
        "pair_label, which the method rsa reads (default: drop)",
    )
    parser.add_argument("--rounds", type=int, default=1, help="rounds of critique and revision (default: 1)")
    parser.add_argument("--seed", type=int, default=42, help="of the principles (default: 42)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many rows")
    parser.add_argument("--format", help="format of the pairs, as in `trl-rsa data` (default: seen from the columns)")
    parser.add_argument("--split", help="split to read, where there are several")
    parser.add_argument(
        "--dry_run", action="store_true", help="read everything, say what would be asked and how often; ask nothing"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the command. Raises `ValueError` or `FileNotFoundError` with one sentence for the user."""
    from trl_rsa.rlaif.constitution import Constitution
    from trl_rsa.rlaif.label import label
    from trl_rsa.rlaif.labelling import Labelling
    from trl_rsa.rlaif.preview import preview

    labelling = Labelling(
        args.data,
        Constitution.from_yaml(args.constitution),
        args.judge,
        args.output,
        method=args.method,
        ties=args.ties,
        rounds=args.rounds,
        seed=args.seed,
        options=_options(args.judge_option),
        data_options={name: value for name in ("format", "split") if (value := getattr(args, name)) is not None},
        limit=args.limit,
    )
    (preview if args.dry_run else label)(labelling)
    return 0


def _options(given: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ValueError(f"You set judge_option to {option!r}, but an option is NAME=VALUE. Write it so.")
        options[name] = yaml.safe_load(value)
    return options
