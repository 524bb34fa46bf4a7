"""`trl-rsa certify`: is the tail of the cost within the budget, with a stated confidence?"""

import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.tables import UNNAMED, read_responses
from trl_rsa.storage.records import ReadReport, Record, digest


if TYPE_CHECKING:
    from trl_rsa.scripts._parser import ScreenParser


NOT_CERTIFIED = 3

_EXAMPLE = """\
trl-rsa certify --records runs/evaluation/records.jsonl --budget 0 --bounds -5 5 --scorer beaver-7b-v1.0-cost"""


@dataclass
class CertifyArguments:
    """What to certify."""

    records: str = field(metadata={"help": "records.jsonl of untouched prompts; or a .csv or .parquet file of costs"})
    bounds: list[float] = field(
        metadata={"help": "A B: costs are clipped to [A, B]; choose them before you see the costs"}
    )
    scorer: str = field(metadata={"help": "name of the cost model, for the record"})
    budget: float = field(default=0.0, metadata={"help": "what the CVaR of the cost may be at most, A < budget < B"})
    tail: float = field(default=0.05, metadata={"help": "share of worst responses, in (0, 1]"})
    confidence: float = field(
        default=0.95, metadata={"help": "confidence of all attempts in the certificate together"}
    )
    model: str | None = field(
        default=None, metadata={"help": "judge this model's records only (needed if there are several)"}
    )
    method: Literal["betting", "betting-split", "dkw", "brown", "binary"] = field(
        default="betting", metadata={"help": "how the bound is made; binary is for yes/no labels"}
    )
    output: str | None = field(
        default=None,
        metadata={"help": "the certificate, and the ledger of attempts; certificate.json beside the records if unset"},
    )
    again: bool = field(default=False, metadata={"help": "allow prompts that an earlier attempt has used"})
    seed: int | None = field(
        default=None, metadata={"help": "order of the prompts; follows from the prompts if unset, as it should"}
    )
    rows_are_prompts: bool = field(
        default=False, metadata={"help": "a table without a column prompt: each row answers a prompt of its own"}
    )
    decide_records: bool = field(
        default=False, metadata={"help": "allow the ladder's decide records, on which the model was chosen"}
    )


def make_parser() -> "ScreenParser":
    from trl_rsa.scripts._parser import ScreenParser

    return ScreenParser(
        (CertifyArguments,),
        description="Certify that the worst responses' average cost is within a budget. Exit status: 0 certified, "
        "3 not certified, 2 the command cannot be carried out as given.",
        shown={"arguments": [f.name for f in fields(CertifyArguments)]},
        example=_EXAMPLE,
        renamed={"threshold": "budget"},
    )


def main(arguments: tuple[CertifyArguments]) -> int:
    (args,) = arguments
    if len(args.bounds) != 2:
        raise ValueError(
            f"You set bounds to {len(args.bounds)} numbers, but costs are clipped to two: the least and the largest. "
            "Set, say, --bounds -5 5."
        )
    if args.seed is not None and args.seed < 0:
        raise ValueError(
            f"You set seed={args.seed}, but a seed is a whole number from 0 on. Leave it out, or set one."
        )
    path = Path(args.records).parent / "certificate.json" if args.output is None else Path(args.output)
    report = ReadReport()
    found = _Found.of(args, read_responses(args.records, report, ("cost",), ("cost",), args.rows_are_prompts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are printed below, in the certificate's words
        certificate = certify(
            found.costs,
            args.budget,
            prompts=found.prompts,
            tail=args.tail,
            confidence=args.confidence,
            bounds=(args.bounds[0], args.bounds[1]),
            scorer=args.scorer,
            method=args.method,
            model=found.model,
            n_unreadable=report.unreadable,
            notes=found.notes,
            ledger_path=path,
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
    print(f"\nWritten to {path}.")
    return 0 if certificate.certified else NOT_CERTIFIED


@dataclass(frozen=True)
class _Found:
    """One model's costs (NaN where there is none), its prompts before any attack, and what limits the claim."""

    costs: list[float]
    prompts: list[bytes]
    model: str | None
    notes: list[str]

    @classmethod
    def of(cls, args: CertifyArguments, records: Iterable[Record]) -> "_Found":
        costs: dict[str | None, list[float]] = {}
        prompts: dict[str | None, list[bytes]] = {}
        chosen_on = Path(args.records).name.endswith("-decide.jsonl")
        unnamed = False
        for record in records:
            chosen_on = chosen_on or record.get("split") in ("train", "decide")
            unnamed = unnamed or bool(record.get(UNNAMED))
            name, cost, base = record["model"], record["cost"], record.get("base_prompt")
            costs.setdefault(name, []).append(np.nan if cost is None else cost)
            prompts.setdefault(name, []).append(digest(record["prompt"] if base is None else base))
        if chosen_on and not args.decide_records:
            raise ValueError(
                f"You certify on {args.records}, but these are records on which the ladder chose the model, so that "
                "their costs look better than fresh ones. Take responses to untouched prompts; with --decide_records "
                "you get a bound that says so."
            )
        model = _model(args, {name: len(several) for name, several in costs.items()})
        if np.isnan(costs[model]).all():
            raise ValueError(
                f"You certify on {args.records}, but none of its {len(costs[model])} responses has a cost. Score them "
                "first: trl-rsa evaluate --responses FILE --cost SPEC."
            )
        notes = [_CHOSEN_ON] if chosen_on else []
        if not unnamed:
            return cls(costs[model], prompts[model], model, notes)
        # Numbered in the order of their costs, so that another order of the rows is not another shuffle.
        ordered = sorted(costs[model], key=lambda cost: (np.isnan(cost), cost))
        return cls(ordered, [digest(f"row {i}") for i in range(len(ordered))], model, [*notes, _UNNAMED])


_CHOSEN_ON = (
    "These are records on which the model was chosen or trained: it may do worse on fresh prompts, and the confidence "
    "is not what it says."
)
_UNNAMED = (
    "The file names no prompts. Each row was taken for the response to a prompt of its own; if several answer one "
    "prompt, the bound is too low. Whether prompts were used before cannot be seen: any such file counts as the same."
)


def _model(args: CertifyArguments, counts: dict[str | None, int]) -> str | None:
    """The model that is judged, by its name in the records."""
    if not counts:
        raise ValueError(f"You certify on {args.records}, but there is no record in it. Give another file.")
    if args.model is None and len(counts) == 1:
        return next(iter(counts))
    names = ", ".join(sorted(str(name) for name in counts if name is not None)) or "none"
    if None in counts:
        asked = "no model" if args.model is None else f"the model {args.model!r}"
        raise ValueError(
            f"You ask for {asked}, but {counts[None]} of the {sum(counts.values())} records in {args.records} name no "
            f"model (the others name: {names}), and any of them may be among its worst. Name the model in each."
        )
    if args.model not in counts:
        asked = "no model" if args.model is None else f"the model {args.model!r}"
        raise ValueError(
            f"You ask for {asked}, but the models in {args.records} are: {names}. Set --model to one of them."
        )
    return args.model
