"""`trl-rsa data`: shows what an adapter makes of a source, counts every row, and writes the pairs if asked to."""

import argparse
import json
from pathlib import Path
from typing import Any

from trl_rsa.storage.files import refuse_existing
from trl_rsa.storage.printable import printable


EPILOG = """\
example:
  trl-rsa data PKU-Alignment/PKU-SafeRLHF-30K --split train --preferred_by safer --show 3 --output safer.jsonl

SOURCE is a .jsonl, .json, .csv or .parquet file (all but the last may be gzipped), a folder, a Hub id, or Safe RLHF's
NAME[:PROPORTION[:PATH]].
"""


def make_parser() -> argparse.ArgumentParser:
    from trl_rsa.data import FORMATS, PAIR_RULES, TEMPLATES

    parser = argparse.ArgumentParser(
        prog="trl-rsa data",
        description="Preview a preference dataset as the trainer will see it, and count the rows that are skipped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="what to read")
    parser.add_argument("--format", choices=[*FORMATS], help="format of the rows (default: seen from the columns)")
    parser.add_argument(
        "--preferred_by",
        default="better",
        help="PKU-SafeRLHF: the judgement that makes a response chosen, better or safer (default: better)",
    )
    parser.add_argument(
        "--pair_rule",
        choices=[*PAIR_RULES],
        help="PKU-SafeRLHF: keep and choose by the safety labels; "
        + "; ".join(f"{k}: {v}" for k, v in PAIR_RULES.items()),
    )
    parser.add_argument("--template", choices=TEMPLATES, help="messages, or text in Safe RLHF's template")
    parser.add_argument("--eos_token", help="the tokenizer's end-of-sequence token, for --template safe-rlhf")
    parser.add_argument("--split", help="split to read, where there are several")
    parser.add_argument("--revision", help="branch or commit on the Hub, such as v0 for PKU-SafeRLHF before June 2024")
    parser.add_argument("--name", help="configuration of the dataset")
    parser.add_argument("--max_pairs_per_prompt", type=int, help="BeaverTails: pairs built per prompt (default: 4)")
    parser.add_argument("--limit", type=int, help="keep only the first so many pairs")
    parser.add_argument("--seed", type=int, default=42, help="for pairing and drawing (default: 42)")
    parser.add_argument("--strict", action="store_true", help="stop at the first row that would be skipped")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="pairs to print (default: 3)")
    parser.add_argument("--output", metavar="FILE", help="write the pairs to a .jsonl or .parquet file")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the command. Raises `ValueError` or `FileNotFoundError` with one sentence for the user."""
    from trl_rsa.data import load_preferences

    if args.output is not None:
        _check_output(Path(args.output))
    data = load_preferences(
        args.source,
        format=args.format,
        preferred_by=args.preferred_by,
        pair_rule=args.pair_rule,
        split=args.split,
        revision=args.revision,
        name=args.name,
        template=args.template,
        eos_token=args.eos_token,
        strict=args.strict,
        seed=args.seed,
        max_pairs_per_prompt=args.max_pairs_per_prompt,
        limit=args.limit,
    )
    shown = min(max(0, args.show), len(data.dataset))
    _print_pairs([data.dataset[i] for i in range(shown)])
    print(printable(str(data.counts)))
    if args.output is not None:
        _write(data.dataset, Path(args.output))
        print(f"written to {args.output}")
    return 0


def _print_pairs(rows: list[dict[str, Any]]) -> None:
    """One panel per pair; plain lines where the output is not a terminal."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    colours = {"chosen": "green", "rejected": "red"}
    for index, row in enumerate(rows):
        lines = [(printable(f"{column}: {_as_text(value)}"), colours.get(column, "")) for column, value in row.items()]
        if console.is_terminal:
            # Text, not markup: square brackets in the data are data.
            body = Text("\n").join(Text(line, style=colour) for line, colour in lines)
            console.print(Panel(body, title=f"pair {index}", title_align="left"))
        else:
            print("\n".join([f"pair {index}", *(line for line, _ in lines), ""]))


def _as_text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return "\n".join(f"[{message['role']}] {message['content']}" for message in value)


def _check_output(path: Path) -> None:
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"You set output to {path}, but only .jsonl and .parquet can be written. Use one.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"You set output to {path}, but there is no folder {path.parent}. Make it first.")
    refuse_existing(path, "would be overwritten")


def _write(dataset: Any, path: Path) -> None:
    if path.suffix == ".parquet":
        dataset.to_parquet(path)
        return
    with path.open("w", encoding="utf-8") as file:
        for row in dataset:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
