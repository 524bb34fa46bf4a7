"""`trl-rsa certify`: is the tail of the cost within the budget, with a stated confidence?"""

import sys
import warnings
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trl_rsa.audits.selection import UNIFORM
from trl_rsa.data.harm import DEFAULT_SCALE
from trl_rsa.evaluation.certificate import Certificate, certify, percent, rounded
from trl_rsa.evaluation.costs import ModelCosts, costs_of_model
from trl_rsa.evaluation.tables import read_responses
from trl_rsa.scripts._claim import Claim, refuse_another_claim
from trl_rsa.scripts._labelled import certify_file_of_labels, in_the_order_of_a_draw, verify_file_of_labels
from trl_rsa.storage.names import CERTIFICATE
from trl_rsa.storage.printable import printable
from trl_rsa.storage.records import ReadReport, Record


if TYPE_CHECKING:
    from trl_rsa.scripts._parser import ScreenParser


NOT_CERTIFIED = 3  # and, with --verify: it does not follow from the records

_EXAMPLE = """\
trl-rsa certify --records runs/evaluation/records.jsonl --budget 0 --bounds -5 5 --scorer beaver-7b-v1.0-cost"""


@dataclass
class CertifyArguments:
    """What to certify."""

    records: str = field(metadata={"help": "records.jsonl of untouched prompts; or a .csv or .parquet file of costs"})
    bounds: list[float] | None = field(
        default=None, metadata={"help": "A B: costs are clipped to [A, B]; choose them before you see the costs"}
    )
    scorer: str | None = field(default=None, metadata={"help": "name of the cost model, for the record"})
    budget: float | None = field(
        default=None, metadata={"help": "what the CVaR of the cost may be at most, A < budget < B; 0 if unset"}
    )
    tail: float | None = field(default=None, metadata={"help": "share of worst responses, in (0, 1]; 0.05 if unset"})
    confidence: float | None = field(
        default=None, metadata={"help": "confidence of all attempts in the certificate together; 0.95 if unset"}
    )
    model: str | None = field(
        default=None, metadata={"help": "judge this model's records only (needed if there are several)"}
    )
    method: Literal["betting", "betting-split", "dkw", "brown", "binary"] | None = field(
        default=None, metadata={"help": "how the bound is made; binary is for yes/no labels; betting if unset"}
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
    verify: str | None = field(
        default=None,
        metadata={"help": "check that this certificate.json follows from the records; nothing is written"},
    )
    labels: str | None = field(
        default=None,
        metadata={"help": "people's labels (.jsonl or .csv with id, grade, labeller): certify these, not the cost"},
    )
    drawn: int | None = field(
        default=None, metadata={"help": "with labels: how many labels were to be drawn, as in trl-rsa audit draw"}
    )
    uniform: float = field(
        default=UNIFORM, metadata={"help": "with labels: share of them that was drawn from all responses alike"}
    )
    draw: str | None = field(
        default=None, metadata={"help": "with labels: the draw as a ladder has written it, instead of drawn"}
    )
    harm_scale: str = field(
        default=DEFAULT_SCALE, metadata={"help": "with labels: names and costs of the grades; bounds follow from it"}
    )
    combine: Literal["mean", "median"] | None = field(
        default=None, metadata={"help": "with labels: what counts where a response has several; mean if unset"}
    )
    constraint: str | None = field(
        default=None, metadata={"help": "with a ladder's records of several constraints: the one that is meant"}
    )
    decide_records: bool = field(
        default=False, metadata={"help": "allow the ladder's decide records, on which the model was chosen"}
    )


_DEFAULT = {argument.name: argument.default for argument in fields(CertifyArguments)}


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
    if args.verify is not None:
        return _verify(args)
    if args.labels is not None:
        return _say(*_certify_labels(args))
    if args.scorer is None or args.bounds is None:
        missing = " and ".join(f"--{name}" for name in ("scorer", "bounds") if getattr(args, name) is None)
        raise ValueError(
            f"You certify without {missing}, but a certificate is about the cost of a scorer, clipped to bounds that "
            "were chosen before. Set, say, --scorer beaver-7b-v1.0-cost --bounds -5 5."
        )
    _check(args)
    path, report, claim = _path(args), ReadReport(), Claim.of(args)
    found = _costs(args, report, args.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are printed below, in the certificate's words
        certificate = certify(
            found.costs,
            claim.budget,
            prompts=found.prompts,
            tail=claim.tail,
            confidence=claim.confidence,
            bounds=(args.bounds[0], args.bounds[1]),
            scorer=args.scorer,
            method=claim.method,
            model=found.model,
            n_unreadable=report.unreadable,
            n_cut=found.n_cut,
            notes=found.notes,
            under=found.under,
            ledger_path=path,
            again=args.again,
            seed=found.seed if args.seed is None else args.seed,
            own_seed=args.seed is not None,
            unnamed=found.unnamed,
        )
    return _say(certificate, report, path)


def _costs(args: CertifyArguments, report: ReadReport, model: str | None) -> ModelCosts:
    if args.constraint is None:
        records = read_responses(args.records, report, ("cost",), ("cost",), args.rows_are_prompts)
    else:
        records = map(partial(_of_constraint, args.constraint), read_responses(args.records, report, (), ()))
    if args.draw is not None:
        records = iter(in_the_order_of_a_draw(records))
    return costs_of_model(records, args.records, model, args.decide_records, report)


def _of_constraint(name: str, record: Record) -> Record:
    """The record of a ladder, with the cost of one of its constraints."""
    costs = record.get("costs")
    if not isinstance(costs, dict) or name not in costs:
        known = f"those of {', '.join(costs)}" if isinstance(costs, dict) and costs else "none by a constraint's name"
        raise ValueError(f"You set constraint={name!r}, but the records have costs, {known}. Correct the name.")
    return record | {"cost": costs[name]}


def _check(args: CertifyArguments) -> None:
    if args.bounds is not None and len(args.bounds) != 2:
        raise ValueError(
            f"You set bounds to {len(args.bounds)} numbers, but costs are clipped to two: the least and the largest. "
            "Set, say, --bounds -5 5."
        )
    if args.labels is not None and args.rows_are_prompts:
        raise ValueError(
            "You set rows_are_prompts with labels, but a label belongs to a response to a prompt. Leave it out, and "
            "give the prompts a column."
        )
    if args.labels is None:
        given = [name for name in ("drawn", "draw") if getattr(args, name) is not None]
        given += [name for name in ("uniform", "harm_scale", "combine") if getattr(args, name) != _DEFAULT[name]]
        if given:
            raise ValueError(
                f"You set {' and '.join(given)} without labels, but the certificate would be about the scorer's cost. "
                "Set --labels to the file of people's labels, or leave it out."
            )
    elif args.method not in (None, "betting"):
        raise ValueError(
            f"You set method={args.method} with labels, but a bound on labels is made by betting. Leave it out."
        )
    if args.seed is not None and args.seed < 0:
        raise ValueError(
            f"You set seed={args.seed}, but a seed is a whole number from 0 on. Leave it out, or set one."
        )


def _path(args: CertifyArguments) -> Path:
    return Path(args.records).parent / CERTIFICATE if args.output is None else Path(args.output)


def _certify_labels(args: CertifyArguments) -> tuple[Certificate, ReadReport, Path]:
    _check(args)
    path, report = _path(args), ReadReport()
    found = _costs(args, report, args.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are printed below, in the certificate's words
        return certify_file_of_labels(args, Claim.of(args), found, report.unreadable, path), report, path


def _say(certificate: Certificate, report: ReadReport, path: Path) -> int:
    if report.problems:
        print(f"warning: {printable(str(report))}", file=sys.stderr)
    for note in certificate.warnings:
        print(f"warning: {printable(note)}", file=sys.stderr)
    print(printable(certificate.statement))
    print("\nWhat it does not say:")
    for line in certificate.limits:
        print(f"- {printable(line)}")
    print(f"\nWritten to {path}.")
    return 0 if certificate.certified else NOT_CERTIFIED


def _verify(args: CertifyArguments) -> int:
    from trl_rsa.evaluation.verify import read_certificate, verify

    assert args.verify is not None
    _check(args)
    certificate, report = read_certificate(args.verify), ReadReport()
    refuse_another_claim(args, certificate)
    found = _costs(args, report, certificate.get("model") if args.model is None else args.model)
    if args.labels is None:
        wrong = verify(certificate, found, report.unreadable)
    else:
        wrong = verify_file_of_labels(args, certificate, found, report.unreadable)
    if wrong:
        print(f"{args.verify} does NOT follow from {args.records}:")
        for line in wrong:
            print(f"- {printable(line)}")
        return NOT_CERTIFIED
    said = "certified" if certificate["certified"] else "not certified"
    confidence = percent(certificate["attempt_confidence"], 4)
    n_cut, what = certificate["n_clipped"], "cost" if args.labels is None else "label"
    clipped = f" {n_cut} {what}s outside the bounds count as these." if n_cut else ""
    print(
        f"{args.verify} follows from {args.records}: {len(found.costs)} responses, tail {certificate['tail']:g}, "
        f"bound {rounded(certificate['bound'])} with a confidence of {confidence}, budget {certificate['budget']:g}, "
        f"{said}.{clipped} Where the prompts come from, and what other ledgers hold, cannot be seen."
    )
    return 0
