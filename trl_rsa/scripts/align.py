"""`trl-rsa align`: runs a plan of stages from a YAML file."""

import argparse
from typing import TYPE_CHECKING

from trl_rsa.scripts._launch import HELP
from trl_rsa.storage.printable import printable


if TYPE_CHECKING:
    from trl_rsa.training.launcher import Launcher


IMPORTS = ("trl_rsa.alignment.preview", "trl_rsa.alignment.run", "trl_rsa.trainer")

WAITING = 4  # exit status: the run stopped in good order, for people to label

INTERRUPTED = "Started again with the same plan it resumes."

_EPILOG = """\
example plan.yaml:

  model: my-org/my-sft-model
  output_dir: runs/aligned
  args: {learning_rate: 2.0e-5, num_train_epochs: 1}
  stages:
    - name: helpful
      dataset: PKU-Alignment/PKU-SafeRLHF
      held_out: 0.05
    - name: safe
      dataset: PKU-Alignment/PKU-SafeRLHF
      preferred_by: safer
      constraint_multiplier: 4
      risk_measure: cvar
      args: {risk_tail: 0.1}

Instead of a multiplier, a budget: `stages:` may then be left out or end before the safe stage.

  constraint:                  # or a list of them, each with a `name`
    scorer: hf:my-org/cost     # above 0 is unsafe
    prompts: prompts.jsonl
    budget: 0.0                # CVaR of cost at most 0 ...
    tail: 0.05                 # ... over the worst 5 % of responses
    bounds: [-5, 15]           # costs outside count as these
  rungs:                       # optional: how the policy is sampled and trained for it
    sampling: {max_new_tokens: 128}
    max_rungs: 6

A stage may have another method (`method: dpo`, kto, sft, orpo, cpo, rloo), or train a scorer (`method: reward` or
cost) that later ones name as `stage:NAME`. docs/stages.md has a table.
With `audit:` in a constraint people label a part of the responses: the command stops with exit status 4 and says how
to go on (docs/audits.md).

Each stage's reference is the policy of the stage before. Killed and started again, the command resumes.

The exit status is 0 also where a budget is not met or not certified: the last lines say so, and `ladder` in
manifest.json (`met`, `certified`).

  trl-rsa align --config plan.yaml --accelerate_config zero3

trains every stage in processes of its own, one per accelerator; further arguments of accelerate launch, such as
--num_processes 2, work too.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa align",
        description="Align a model step by step (helpful, then safe, …) as a YAML plan says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="PLAN.yaml", help="the plan: arguments of Plan and Stage")
    parser.add_argument("--model", help="start from this Hub id or folder instead of the plan's")
    parser.add_argument("--output_dir", help="write here instead of to the plan's output_dir")
    parser.add_argument("--seed", type=int, help="seed of every stage instead of the plan's")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the plan, its data and scorers, say what would run and where the budget lies; train nothing",
    )
    parser.add_argument(
        "--samples",
        type=_count,
        default=32,
        metavar="N",
        help="with --dry_run: score N responses of the starting model (default: 32; 0 loads no model)",
    )
    parser.add_argument("--accelerate_config", metavar="NAME", help=HELP)
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of responses, from 0 on")
    return int(text)


def launch(args: argparse.Namespace, argv: list[str], launcher: "Launcher") -> int:
    return main(args, launcher)


def main(args: argparse.Namespace, launcher: "Launcher | None" = None) -> int:
    from trl_rsa.alignment.plan import Plan
    from trl_rsa.alignment.preview import preview
    from trl_rsa.alignment.run import align
    from trl_rsa.ladder.audit import WaitingForLabels

    plan = Plan.from_yaml(args.config, model=args.model, output_dir=args.output_dir, seed=args.seed)
    if args.dry_run:
        preview(plan, samples=args.samples)
        return 0
    try:
        align(plan, launcher=launcher)
    except WaitingForLabels as waiting:
        print(printable(str(waiting)))
        return WAITING
    return 0
