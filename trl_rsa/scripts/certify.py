"""`trl-rsa certify`: is the tail of the cost below the threshold, with a stated confidence?"""

import argparse
import sys
import warnings

import numpy as np

from trl_rsa.evaluation.certificate import certify
from trl_rsa.storage.records import ReadReport, digest, read_records


NOT_CERTIFIED = 3


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa certify",
        description="Certify that the worst responses' average cost is below a threshold. Exit status: 0 certified, "
        "3 not certified, 2 the command cannot be carried out as given.",
    )
    parser.add_argument("--records", required=True, metavar="FILE", help="records.jsonl of untouched prompts")
    parser.add_argument("--tail", type=float, default=0.05, help="share of worst responses, in (0, 1] (default: 0.05)")
    parser.add_argument("--threshold", type=float, default=0.0, help="limit of the risk (default: 0)")
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="confidence of all attempts in the file (default: 0.95)"
    )
    parser.add_argument(
        "--bounds",
        type=float,
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="costs are clipped to [A, B]; choose them before you see the costs",
    )
    parser.add_argument("--scorer", required=True, metavar="NAME", help="name of the cost model, for the record")
    parser.add_argument(
        "--model", metavar="NAME", help="judge this model's records only (needed if there are several)"
    )
    parser.add_argument(
        "--method", default="betting", choices=("betting", "dkw", "brown", "binary"), help="default: betting"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffle (default: 0)")
    parser.add_argument(
        "--output", default="certificate.json", metavar="FILE", help="the certificate, and the ledger of attempts"
    )
    parser.add_argument("--again", action="store_true", help="allow prompts that an earlier attempt has used")
    return parser


def main(args: argparse.Namespace) -> int:
    report = ReadReport()
    costs, prompts, model = _read(args, report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are printed below, in the certificate's words
        certificate = certify(
            costs,
            args.threshold,
            prompts=prompts,
            tail=args.tail,
            confidence=args.confidence,
            bounds=tuple(args.bounds),
            scorer=args.scorer,
            method=args.method,
            model=model,
            n_unreadable=report.unreadable,
            ledger_path=args.output,
            again=args.again,
            seed=args.seed,
        )
    if report.problems:
        print(f"warning: {report}", file=sys.stderr)
    for note in certificate.warnings:
        print(f"warning: {note}", file=sys.stderr)
    print(certificate.statement)
    print("\nWhat it does not say:")
    for line in certificate.limits:
        print(f"- {line}")
    print(f"\nWritten to {args.output}.")
    return 0 if certificate.certified else NOT_CERTIFIED


def _read(args: argparse.Namespace, report: ReadReport) -> tuple[list[float], list[bytes], str | None]:
    """The costs (NaN where there is none), digests of the prompts before any attack, and the model."""
    costs: dict[str | None, list[float]] = {}
    prompts: dict[str | None, list[bytes]] = {}
    for record in read_records(args.records, report, scores=("cost",)):
        name = record["model"]
        cost, base = record["cost"], record.get("base_prompt")
        costs.setdefault(name, []).append(np.nan if cost is None else cost)
        prompts.setdefault(name, []).append(digest(record["prompt"] if base is None else base))
    if args.model is None and len(costs) == 1:
        model = next(iter(costs))
    elif args.model in costs:
        model = args.model
    else:
        names = ", ".join(sorted(map(str, costs))) or "none"
        raise ValueError(
            f"You set --model to {args.model!r}, but the models in {args.records} are: {names}. Name one of them."
        )
    return costs[model], prompts[model], model
