"""`trl-rsa report`: the page about the worst responses, from the files of an evaluation."""

import argparse


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa report",
        description="Make the report from the files in a folder: records.jsonl and metrics.json, and where they exist "
        "certificate.json, manifest.json and tokens.jsonl. Nothing is sampled or scored.",
    )
    parser.add_argument("folder", help="what `trl-rsa evaluate` or `trl-rsa demo` wrote")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: the same folder)")
    parser.add_argument("--title", help="title of the page")
    parser.add_argument(
        "--budget",
        type=float,
        help="what the CVaR may be at most (default: the certificate's or the constraint's at this tail, else where "
        "unsafe begins)",
    )
    parser.add_argument(
        "--tail", type=float, help="the tail the page is about (default: the front's, the certificate's, or 0.05)"
    )
    parser.renamed = {"threshold": "budget"}  # type: ignore[attr-defined]
    return parser


def main(args: argparse.Namespace) -> int:
    from trl_rsa.report import write_report

    written = write_report(args.folder, args.output, args.title, args.budget, args.tail)
    print(f"{written['html']}\n{written['markdown']}\n{written['plots']}/")
    return 0
