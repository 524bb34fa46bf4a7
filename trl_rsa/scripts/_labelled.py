"""What `trl-rsa certify --labels` does with the files: records, people's labels, and the draw that asked for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trl_rsa.audits.certificate import AuditedCertificate, certify_labels, verify_labels
from trl_rsa.audits.label_files import costs_of_labels, draw_labels, labels_of, own_seed, read_draw, unique_names
from trl_rsa.audits.selection import Selection
from trl_rsa.data.harm import HarmScale
from trl_rsa.evaluation.costs import ModelCosts
from trl_rsa.scripts._claim import Claim
from trl_rsa.storage.records import Record


class LabelledArguments(Protocol):
    """Those arguments of `trl-rsa certify` that matter here."""

    records: str
    labels: str | None
    drawn: int | None
    uniform: float
    draw: str | None
    harm_scale: str
    bounds: list[float] | None
    scorer: str | None
    again: bool
    seed: int | None


def certify_file_of_labels(
    args: LabelledArguments, claim: Claim, found: ModelCosts, n_unreadable: int, ledger_path: Path
) -> AuditedCertificate:
    scale = HarmScale.parse(args.harm_scale)
    drawn, seed, own_seed = _draw(args, found)
    low, high = (scale.costs[0], scale.costs[-1]) if args.bounds is None else args.bounds
    return certify_labels(
        labels_of(found.responses, _labels(args, scale)),
        claim.budget,
        drawn=drawn,
        scores=found.costs,
        prompts=found.prompts,
        responses=unique_names(found),
        tail=claim.tail,
        confidence=claim.confidence,
        bounds=(low, high),
        seed=seed,
        own_seed=own_seed,
        combine=claim.combine,
        scorer="the learned cost" if args.scorer is None else args.scorer,
        model=found.model,
        n_unreadable=n_unreadable,
        n_cut=found.n_cut,
        notes=found.notes,
        under=found.under,
        ledger_path=ledger_path,
        again=args.again,
    )


def in_the_order_of_a_draw(records: Iterable[Record]) -> list[Record]:
    """A ladder's records by prompt and draw, which is the order of its draw's probabilities; they are written as they
    come. Records that name no places stay as they are."""
    several = list(records)
    if not all(type(record.get(name)) is int for record in several for name in ("prompt_number", "draw")):
        return several
    return sorted(several, key=lambda record: (record["prompt_number"], record["draw"]))


def verify_file_of_labels(
    args: LabelledArguments, certificate: Mapping[str, Any], found: ModelCosts, n_unreadable: int
) -> list[str]:
    drawn, _, _ = _draw(args, found, certificate.get("seed"))
    return verify_labels(
        certificate,
        labels_of(found.responses, _labels(args, HarmScale.parse(args.harm_scale))),
        drawn=drawn,
        scores=found.costs,
        prompts=found.prompts,
        responses=unique_names(found),
        model=found.model,
        under=found.under,
        n_unreadable=n_unreadable,
        n_cut=found.n_cut,
        notes=found.notes,
    )


def _labels(args: LabelledArguments, scale: HarmScale) -> dict[str, list[float]]:
    assert args.labels is not None
    return costs_of_labels(args.labels, scale)


def _draw(args: LabelledArguments, found: ModelCosts, seed: int | None = None) -> tuple[Selection, int, bool]:
    """The draw, its seed, and whether somebody chose the seed."""
    if (args.draw is None) == (args.drawn is None):
        raise ValueError(
            "You certify on labels, but a label counts one by the probability with which it was drawn. Set either "
            "--drawn to the number of labels that trl-rsa audit draw was asked for, or --draw to a ladder's draw."
        )
    if args.draw is not None:
        return (*read_draw(args.draw, found), True)
    assert args.drawn is not None
    of_prompts = own_seed(found)
    seed = next(each for each in (args.seed, seed, of_prompts) if each is not None)
    return draw_labels(found, args.drawn, args.uniform, seed), seed, seed != of_prompts
