"""`trl-rsa sweep`: a plan at several settings, each point evaluated alike; reward against the tail on one page."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trl_rsa.scripts._command import add_plan
from trl_rsa.scripts._launch import HELP


if TYPE_CHECKING:
    from trl_rsa.evaluation.front_file import FrontFile
    from trl_rsa.evaluation.request import Evaluation
    from trl_rsa.sweep.files import SweepFile
    from trl_rsa.training.launcher import Launcher


INTERRUPTED = "Started again with the same arguments it goes on where it was."

_FOLDER = "runs/sweep"

_EPILOG = """\
example:

  trl-rsa sweep plan.yaml --over constraint_multiplier=0.5,1,2,4 --evaluation evaluate.yaml \\
      --output_dir runs/sacpo --name SACPO
  trl-rsa sweep ladder.yaml --over budget=0,1,2 --evaluation evaluate.yaml --output_dir runs/rsa --name RSA
  trl-rsa sweep --page runs/sacpo runs/rsa --output_dir runs/front

PLAN is what `trl-rsa align` takes. A field is stages.NAME.FIELD, constraints.NAME.FIELD, rungs.FIELD or a field of the
plan, and args.FIELD below any of them; a bare name means the only place that sets it. Several --over make a grid.

evaluate.yaml is what `trl-rsa evaluate --config` takes, without models: prompts, reward and cost at least. All points
answer the same prompts with the same noise.

Stages that points have in common are trained once. A point that fails is written down, and the others go on; started
again, it is tried again.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa sweep",
        description="Align a plan at several settings, evaluate each once, and show reward against the tail of cost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_plan(parser, "the plan")
    parser.add_argument(
        "--over", action="append", default=[], metavar="FIELD=VALUE,…", help="what is varied; several make a grid"
    )
    parser.add_argument("--evaluation", metavar="FILE.yaml", help="how each point is evaluated")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="a finished model, evaluated beside the points; may be given several times",
    )
    parser.add_argument("--output_dir", help=f"where to write (default: {_FOLDER}; with --page, none)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        help="name of the method on the page (default: the folder's); with --page, once per folder",
    )
    parser.add_argument(
        "--page", nargs="+", metavar="FOLDER", help="run nothing; one page of these sweeps, which were evaluated alike"
    )
    parser.add_argument(
        "--tail",
        type=float,
        help="tail of the CVaR of cost (default: that of the budgets if they share one, else 0.05)",
    )
    parser.add_argument(
        "--unsafe_above",
        type=float,
        metavar="COST",
        help="with --page: the cost above which a response is unsafe (default: as the sweeps were evaluated)",
    )
    parser.add_argument(
        "--limits",
        type=float,
        nargs="+",
        default=[],
        metavar="CVAR",
        help="read each method's reward at a CVaR of at most these (default: the budgets, or quarters of the range)",
    )
    parser.add_argument(
        "--reference",
        type=float,
        nargs=2,
        metavar=("CVAR", "REWARD"),
        help="reference point of the hypervolume (default: the worst of all points in each)",
    )
    parser.add_argument("--dry_run", action="store_true", help="check every point, say what it costs, and run nothing")
    parser.add_argument("--accelerate_config", metavar="NAME", help=HELP)
    return parser


def launch(args: argparse.Namespace, argv: list[str], launcher: "Launcher") -> int:
    return main(args, launcher)


def main(args: argparse.Namespace, launcher: "Launcher | None" = None) -> int:
    _check(args)
    if args.page:
        _show(_write(args, args.page, args.output_dir, names=args.name, unsafe_above=args.unsafe_above), args)
        return 0
    from trl_rsa.alignment.plan import Plan
    from trl_rsa.scripts._bars import Bars
    from trl_rsa.scripts.evaluate import named_models
    from trl_rsa.sweep.axes import Axis
    from trl_rsa.sweep.run import Sweep

    plan = Plan.from_yaml(args.plan)
    axes = [Axis.read(text, plan) for text in args.over]
    evaluation = _evaluation(args.evaluation, plan.model)
    args.output_dir = args.output_dir or _FOLDER
    sweep = Sweep(plan, axes, evaluation, args.output_dir, next(iter(args.name), None), named_models(args.model))
    if args.dry_run:
        for line in sweep.describe():
            print(line)
        return 0
    with Bars() as bars:
        state = sweep.run(bars.log, launcher, bars.progress)
    if any(point["status"] == "complete" for point in state["points"]):
        _show(_write(args, [args.output_dir], args.output_dir), args)
    return _report_failures(state, sweep.folder, {point.folder for point in sweep.points})


def _check(args: argparse.Namespace) -> None:
    from trl_rsa.sweep.page import check_reading

    if args.page:
        for name in ("plan", "over", "evaluation", "model", "dry_run"):
            if getattr(args, name):
                raise ValueError(f"You set page and {name}, but a page is made of sweeps that are run. Leave one out.")
        if args.output_dir is None:
            raise ValueError("You set page, but no output_dir, and a page needs a folder of its own. Set output_dir.")
    elif args.plan is None:
        raise ValueError("You gave no plan, but a sweep varies one. Give PLAN.yaml, or --page and folders of sweeps.")
    elif args.evaluation is None:
        raise ValueError(
            "You set no evaluation, but each point is measured by one. Set evaluation to a YAML file with prompts, "
            "reward and cost, as `trl-rsa evaluate --config` takes it."
        )
    elif len(args.name) > 1:
        raise ValueError(f"You set {len(args.name)} names, but one sweep is one method. Set name once.")
    elif args.unsafe_above is not None:
        raise ValueError(
            f"You set unsafe_above, but it is part of the evaluation. Set it in {args.evaluation}, or with --page."
        )
    check_reading(args.tail, args.limits, args.reference, args.unsafe_above)


def _evaluation(path: str, model: str) -> "Evaluation":
    """The evaluation of a file; its model, a stand-in, is replaced for every point."""
    from trl_rsa.scripts._command import parse_arguments
    from trl_rsa.scripts.evaluate import evaluation_of, make_parser

    given, *rest = parse_arguments(make_parser(), ["--config", path], "trl-rsa sweep --evaluation")
    if given.model or given.responses:
        raise ValueError(
            f"You set model or responses in {path}, but a sweep evaluates its own points. Remove it; finished models "
            "go to --model."
        )
    given.model = [f"start={model}"]
    return evaluation_of(given, *rest)


def _write(
    args: argparse.Namespace,
    sweeps: list[str],
    folder: str,
    names: Sequence[str] = (),
    unsafe_above: float | None = None,
) -> "FrontFile":
    from trl_rsa.report import write_report
    from trl_rsa.storage.names import FRONT
    from trl_rsa.storage.printable import printable
    from trl_rsa.sweep.page import write_front

    def write_page(folder: Path) -> None:
        tail = json.loads((folder / FRONT).read_text(encoding="utf-8"))["tail"]  # it may follow from the budgets
        write_report(folder, title="Reward against the worst answers", tail=tail)

    return write_front(
        sweeps,
        folder,
        args.tail,
        limits=args.limits,
        reference=None if args.reference is None else tuple(args.reference),
        unsafe_above=unsafe_above,
        write_page=write_page,
        names=names,
        log=lambda line: print(printable(line)),
    )


def _show(front: "FrontFile", args: argparse.Namespace) -> None:
    from trl_rsa.report import front_markdown
    from trl_rsa.storage.printable import printable

    print(printable(front_markdown(front)))
    print(f"Page: {Path(args.output_dir) / 'report.html'}")


def _report_failures(state: "SweepFile", folder: Path, asked: set[str]) -> int:
    """1 if a point that is asked for now failed. What another start left behind is no failure of this one."""
    failed = [point for point in state["points"] if point["status"] == "failed" and point["folder"] in asked]
    for point in failed:
        report = folder / point["folder"] / "problem.txt"
        # A point that could not be begun has only its sentence.
        where = f" The traceback is in {report}." if report.exists() else ""
        print(f"{point['name']} FAILED: {str(point.get('problem')).rstrip('.')}.{where}")
    return int(bool(failed))
