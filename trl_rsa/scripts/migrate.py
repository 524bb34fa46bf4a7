"""`trl-rsa migrate`: a script of Safe RLHF, SACPO or align-anything as a plan for `trl-rsa align`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


_EPILOG = """\
  trl-rsa migrate scripts/ppo-lag.sh --output plan.yaml
  trl-rsa align --config plan.yaml --dry_run

A script that takes flags of its own is given them behind two dashes:

  trl-rsa migrate scripts/dpo.sh -- --model_name_or_path my/model --offload=optimizer

Nothing is run. What has no equivalent is named on standard error and in the plan's comments, with the reason.
"""


class _Parser(argparse.ArgumentParser):
    """Words behind two dashes are the script's."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        at = words.index("--") if "--" in words else len(words)
        parsed = super().parse_args(words[:at], namespace)
        parsed.arguments = words[at + 1 :]
        return parsed


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trl-rsa migrate",
        description="Print the plan that does the job of a script, and name every flag that has no equivalent.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("script", metavar="SCRIPT", help="shell script, or a YAML file of align-anything or mergekit")
    parser.add_argument("--output", metavar="FILE", help="write the plan here (default: to standard output)")
    parser.add_argument(
        "--command", type=int, metavar="N", help="end with the N-th known command of the script (default: the last)"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    from trl_rsa.migration.migrate import migrate

    if args.output is not None and Path(args.output).exists():
        raise ValueError(
            f"You set --output to {args.output}, but that file is there, and someone may have edited it. Remove it, "
            "or name another."
        )
    migration = migrate(args.script, args.arguments, args.command)
    if args.output is None:
        print(migration.text, end="")
    else:
        Path(args.output).write_text(migration.text, encoding="utf-8")
        print(f"Written to {args.output}.")
    for title, lines in (("no equivalent", migration.without), ("note", migration.notes)):
        for line in lines:
            print(f"{title}: {line}", file=sys.stderr)
    return 0
