"""`trl-rsa demo`: the methods side by side in the sandbox, from nothing to a report."""

import argparse
import time
from pathlib import Path


IMPORTS = ("trl_rsa.alignment.run", "trl_rsa.demo.run", "trl_rsa.sandbox", "trl_rsa.trainer")

INTERRUPTED = "Started again with the same arguments it goes on where it was."

_EPILOG = """\
example:

  trl-rsa demo --world tail --seed 1

Offline, on a CPU. It makes a language model of a million parameters in a small world whose true reward and harm are
known, aligns it with DPO, with SACPO at several multipliers λ, and with RSA, and compares the tails of harm. RSA is
given budgets on that tail, and adds rungs on its own answers until each is kept. One picture shows the reward of all
against that tail. The model and its data are cached; the second start is faster.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa demo",
        description="Align a small model in the sandbox with DPO, SACPO and RSA, and compare the tails of harm.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--world", default="tail", help="world of the sandbox (default: tail); an unknown name lists them"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument("--output_dir", help="where to write (default: runs/demo-WORLD-SEED)")
    parser.add_argument(
        "--steps", type=int, default=120, help="optimizer steps per stage, half as many per rung (default: 120)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        nargs="+",
        help="largest CVaR(0.05) of RSA's cost, of a model each (default: two thirds and one third "
        "of that of the world's own answers)",
    )
    parser.add_argument("--prompts", type=int, default=600, help="test prompts (default: 600, at most 1200)")
    parser.add_argument("--draws", type=int, default=2, help="answers per prompt (default: 2)")
    return parser


def main(args: argparse.Namespace) -> int:
    for name in ("steps", "prompts", "draws"):
        if getattr(args, name) < 1:
            raise ValueError(f"You set {name} to {getattr(args, name)}, but at least 1 is needed. Raise it.")

    from trl_rsa.demo.run import run_demo
    from trl_rsa.sandbox import build_sandbox

    began = time.monotonic()
    sandbox = build_sandbox(args.world, args.seed)
    output_dir = Path(args.output_dir or f"runs/demo-{args.world}-{args.seed}")
    run_demo(sandbox, output_dir, args.steps, args.prompts, args.draws, args.budget)
    print(f"{time.monotonic() - began:.0f} s in all. Report: {output_dir / 'report.html'}")
    print("Beside it: the tables, the pictures, some answers, the models and their logs.")
    return 0
