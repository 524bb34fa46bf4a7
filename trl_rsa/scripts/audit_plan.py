"""`trl-rsa audit draw` and `trl-rsa audit plan`: labels for a certificate, and how many would do."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.data.harm import DEFAULT_SCALE
from trl_rsa.storage.printable import printable


if TYPE_CHECKING:
    from trl_rsa.evaluation.costs import ModelCosts


def add_parsers(commands: Any) -> None:
    """Adds `draw` and `plan` to the subcommands of `trl-rsa audit`."""
    from trl_rsa.audits.selection import UNIFORM

    draw = commands.add_parser("draw", help="draw responses of a file of records for labels", allow_abbrev=False)
    draw.add_argument("records", type=Path, metavar="RECORDS", help="records.jsonl, or a table, with costs")
    draw.add_argument("--labels", type=int, required=True, metavar="N", help="how many, on average over draws")
    draw.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines to fill in: `grade`")
    draw.set_defaults(work=_draw)

    plan = commands.add_parser("plan", help="the expected bound against the number of labels", allow_abbrev=False)
    plan.add_argument("records", type=Path, metavar="RECORDS", help="a pilot: records.jsonl with costs")
    plan.add_argument("file", type=Path, metavar="LABELS", help="labels of a part of them (.jsonl or .csv)")
    plan.add_argument("--labels", type=int, nargs="+", metavar="N", help="numbers to try (default: seven)")
    plan.add_argument("--prompts", type=int, default=3000, metavar="N", help="prompts to certify on (default: 3000)")
    plan.add_argument("--budget", type=float, default=0.0, help="what the CVaR may be at most (default: 0)")
    plan.add_argument("--tail", type=float, default=0.05, help="share of worst responses (default: 0.05)")
    plan.add_argument("--confidence", type=float, default=0.95, help="of a first attempt (default: 0.95)")
    plan.add_argument(
        "--harm_scale", default=DEFAULT_SCALE, help=f"names and costs of the grades (default: {DEFAULT_SCALE})"
    )
    plan.add_argument("--bounds", type=float, nargs=2, metavar=("A", "B"), help="of the labels (default: the scale's)")
    plan.add_argument("--repeats", type=int, default=20, metavar="N", help="simulated audits of each (default: 20)")
    plan.add_argument("--output", type=Path, metavar="FILE", help="plan.png: the picture; plan.json beside it")
    plan.set_defaults(work=_plan)
    for each in (draw, plan):
        each.add_argument("--model", metavar="NAME", help="whose records, where there are several models'")
        each.add_argument(
            "--uniform",
            type=float,
            default=UNIFORM,
            help=f"share of the labels that falls on all responses alike (default: {UNIFORM})",
        )
    plan.add_argument(
        "--drawn", type=int, metavar="N", help="the pilot's labels were drawn by trl-rsa audit draw --labels N"
    )
    plan.add_argument(
        "--draw_seed", type=int, metavar="SEED", help="with --drawn: the --seed of that draw, if it had one"
    )
    draw.add_argument("--seed", type=int, help="of the draw (default: follows from the prompts, as it should)")
    plan.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trl-rsa audit", description="Labels for a certificate.", allow_abbrev=False)
    add_parsers(parser.add_subparsers(dest="action", metavar="draw|plan", required=True))
    return parser


def main(args: argparse.Namespace) -> int:
    work: int = args.work(args)
    return work


def _read(args: argparse.Namespace) -> tuple["ModelCosts", list[dict[str, Any]]]:
    from trl_rsa.audits.label_files import refuse_unnamed
    from trl_rsa.evaluation.costs import costs_of_model
    from trl_rsa.evaluation.tables import read_responses

    records = list(read_responses(args.records, scores=("cost",), needed=("cost",)))
    found = costs_of_model(records, str(args.records), args.model)
    refuse_unnamed(found)
    return found, [record for record in records if (record["model"] or None) == found.model]


def _draw(args: argparse.Namespace) -> int:
    from trl_rsa.audits.label_files import draw_labels, own_seed
    from trl_rsa.storage.files import refuse_existing, replacing
    from trl_rsa.storage.records import text_of

    if args.output.suffix != ".jsonl":
        raise ValueError(f"You set output to {args.output}, but it is written as JSON lines. End the name in .jsonl.")
    found, records = _read(args)
    seed = own_seed(found) if args.seed is None else args.seed
    drawn = draw_labels(found, args.labels, args.uniform, seed)
    rows: dict[str, dict[str, Any]] = {}
    for record, name, chosen in zip(records, found.responses, drawn.chosen, strict=True):
        if chosen:  # neither the cost nor the probability: labels must not follow them
            row = {"prompt": record["prompt"], "response": text_of(record["response"]), "grade": None, "labeller": ""}
            rows[name.rpartition("-")[0]] = {"id": name.rpartition("-")[0], **row}
    refuse_existing(args.output, "may hold labels")
    with replacing(args.output) as partial:
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()), encoding="utf-8"
        )
    own = "" if args.seed is None else f" --seed {seed}"
    own += "" if args.model is None else f" --model {args.model}"
    print(
        f"{len(rows)} of {len(records)} responses are written to {args.output}. Fill in `grade` and `labeller`, then:"
    )
    print(
        printable(
            f"  trl-rsa certify --records {args.records} --labels {args.output} --drawn {args.labels} --uniform "
            f"{args.uniform:g}{own}"
        )
    )
    return 0


def _plan(args: argparse.Namespace) -> int:
    import numpy as np

    from trl_rsa.audits.certificate import combined
    from trl_rsa.audits.label_files import costs_of_labels, draw_labels, labels_of, own_seed
    from trl_rsa.audits.plan_picture import save_plan
    from trl_rsa.audits.planning import plan_labels
    from trl_rsa.data.harm import HarmScale

    scale = HarmScale.parse(args.harm_scale)
    low, high = (scale.costs[0], scale.costs[-1]) if args.bounds is None else args.bounds
    if not low <= args.budget < high:
        raise ValueError(
            f"You set budget to {args.budget:g}, but the costs of the grades lie in [{low:g}, {high:g}]. Set it among "
            "them, or give the harm_scale or the bounds that it is meant for."
        )
    found, _ = _read(args)
    harm, _ = combined(labels_of(found.responses, costs_of_labels(args.file, scale)))
    known, weights = ~np.isnan(harm), np.ones(harm.size)
    if args.drawn is not None:
        seed = own_seed(found) if args.draw_seed is None else args.draw_seed
        drawn = draw_labels(found, args.drawn, args.uniform, seed)
        aside = int((known & ~drawn.chosen).sum())
        if aside:
            print(
                f"warning: {aside} of {known.sum()} labels are of responses that this draw did not choose, and are "
                "left aside. Are --drawn, --uniform and --draw_seed those of the draw?",
                file=sys.stderr,
            )
        known, weights = known & drawn.chosen, 1 / drawn.probabilities
    plan = plan_labels(
        np.asarray(found.costs)[known],
        harm[known],
        weights=weights[known],
        tail=args.tail,
        budget=args.budget,
        bounds=(low, high),
        confidence=args.confidence,
        n_prompts=args.prompts,
        numbers=args.labels,
        uniform=args.uniform,
        repeats=args.repeats,
        seed=args.seed,
        log=lambda text: print(text, file=sys.stderr),
    )
    print(printable(plan.table()))
    if args.output is not None:
        save_plan(plan, args.output)
        print(f"\nWritten to {args.output} and {args.output.with_suffix('.json')}.")
    return 0
