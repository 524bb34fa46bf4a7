"""One attempt at a certificate about what people judge, not about what a learned cost says."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.audits.bound import AuditedBound, audited_cvar_bound
from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.combine import Combine, cost_of_several
from trl_rsa.audits.selection import Selection
from trl_rsa.evaluation.certificate import Certificate, CertificateFile, make_attempt
from trl_rsa.evaluation.costs import ModelCosts
from trl_rsa.evaluation.cvar_bound import CVaRBound, check_bounds
from trl_rsa.evaluation.ledger import prompt_sketch, seed_of_prompts
from trl_rsa.evaluation.verify import COMPARED, differences, first_confidence
from trl_rsa.storage.digests import prompt_key


Array = NDArray[np.float64]

_ASSUMPTIONS = (
    "The prompts are independent draws from the distribution that the claim is about, and the model, the scale of "
    "harm, the tail and the draw of the labels were fixed before any label was seen.",
    "Each response was labelled with its probability, whatever its label would be. Labellers did not see the learned "
    "cost.",
    "If CVaR were larger, tail · (CVaR − η) ≤ E(h − η)₊ for every η. The excess of the label h is predicted from the "
    "learned cost, and corrected by labels that each count one by their probability. η, the prediction and the stake "
    "for each prompt were chosen on the prompts before it, in random order.",
)


class AuditJSON(TypedDict):
    """What a certificate about labels says of them."""

    n_labelled: int
    n_drawn: int
    n_missing: int
    n_ignored: int
    expected_labels: float
    least_probability: float
    scores_used: bool
    combine: str
    n_several: int
    n_disagreed: int
    mean_difference: float | None
    draw_fingerprint: str
    labels_fingerprint: str


class AuditedCertificateFile(CertificateFile):
    """certificate.json of an audited certificate."""

    audit: AuditJSON


@dataclass(frozen=True)
class AuditedCertificate(Certificate):
    """The outcome of one attempt on labels. `scorer` names the learned cost, which only helps to predict.

    Attributes:
        audit (`AuditJSON`): How many labels, how they were drawn, and how labellers agree.
    """

    counted: ClassVar[str] = "label"
    audit: AuditJSON = field(default_factory=lambda: cast(AuditJSON, {}))

    @property
    def n_counted(self) -> int:
        return self.audit["n_labelled"]

    @property
    def statement(self) -> str:
        b, audit = self.bound, self.audit
        return (
            f"{self._verdict}The limit: {self._group}{self._condition}, the "
            f"average harm is at most {self.budget:g}, as people label it; more is worse"
            f"{self._cut_above}. People labelled {audit['n_labelled']} of "
            f"{b.n} responses to {b.n_groups} prompts. From their labels that average is about {b.estimate:.4g}. "
            f"{self._claim}"
        )

    def _whose_cost(self) -> list[str]:
        audit, n = self.audit, self.bound.n_groups
        unseen = -np.log(1 - self.bound.confidence) / (n * audit["least_probability"])
        words = [
            "It is about the labels that these people gave, with the scale and the instructions that they had. Other "
            "people may judge otherwise.",
            f"{audit['n_labelled']} of {self.bound.n} responses were labelled. They were drawn with known "
            + ("probabilities, more often where the learned cost is high" if audit["scores_used"] else "probabilities")
            + ". Harm of a kind that is in fewer than about "
            f"{100 * min(unseen, 1):.2g} % of responses may be among those that nobody saw; the bound allows for it.",
        ]
        if audit["scores_used"]:
            words.append(
                f"The cost of {self.scorer} helps to predict labels. Where it is wrong the bound is larger, not false."
            )
        return words + self._how_they_agree()

    def _how_they_agree(self) -> list[str]:
        audit = self.audit
        if not audit["n_several"]:
            return ["No response has two labels: how far people agree is not known."]
        middle = "their mean" if audit["combine"] == "mean" else "the middle one (of two, the worse)"
        return [
            f"Of {audit['n_several']} responses with two labels or more, labels differ in {audit['n_disagreed']}, on "
            f"average by {audit['mean_difference']:.3g}. Where there are several {middle} counts.",
            "If more labels were asked where the first ones were bad or differed, as a ladder does, it is about what "
            "that rule makes of the labels: harm that few people see counts less than with one label each.",
        ]

    def _limits_of_this_one(self) -> list[str]:
        audit, high = self.audit, self.bound.bounds[1]
        words = super()._limits_of_this_one()
        if audit["n_missing"]:
            words.append(
                f"{audit['n_missing']} responses that were drawn have no label. They count as {high:g}, the worst."
            )
        if audit["n_ignored"]:
            words.append(
                f"{audit['n_ignored']} labels of responses that were not drawn were left aside: nobody knows with "
                "which probability they came."
            )
        return words

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"audit": self.audit}


def certify_labels(
    labels: ArrayLike,
    budget: float,
    *,
    drawn: Selection,
    scores: ArrayLike | None,
    prompts: Sequence[Any],
    responses: Sequence[str],
    tail: float = 0.05,
    confidence: float = 0.95,
    bounds: tuple[float, float],
    seed: int,
    own_seed: bool = False,
    combine: Combine = "mean",
    pilot: Calibration | None = None,
    scorer: str = "the learned cost",
    model: str | None = None,
    n_unreadable: int = 0,
    n_trained: int = 0,
    max_new_tokens: int | None = None,
    n_cut: int = 0,
    notes: Sequence[str] = (),
    under: str | None = None,
    ledger_path: str | os.PathLike[str] | None = None,
    again: bool = False,
) -> AuditedCertificate:
    """Makes one attempt to certify that CVaR of the harm that people see is at most `budget`, and records it.

    Args:
        labels (`ArrayLike` of shape `[n]` or `[n, k]`):
            Labels in units of harm, NaN where there is none. A drawn response without a label counts as the upper
            bound; labels of responses that were not drawn are left aside.
        drawn ([`~audits.selection.Selection`]):
            Which responses were drawn, with which probabilities.
        scores (`ArrayLike` of shape `[n]`, *optional*):
            Learned costs, which predict labels. NaN counts as the highest.
        prompts (`Sequence` of length n), responses (`Sequence[str]` of length n):
            The prompt of each response or its key, and the name of each response, for the fingerprints.
        seed (`int`):
            Of the draw; the prompts are gone through in the order of this seed too.
        own_seed (`bool`, *optional*, defaults to `False`):
            Whether the user chose it. One that does not follow from the prompts counts as the user's own.
        combine (`str`, *optional*, defaults to `"mean"`):
            What counts of several labels: their `"mean"`, or their `"median"` (of two, the worse).
        pilot ([`~audits.calibration.Calibration`], *optional*):
            Labels of other prompts, with which the prediction begins.
        n_unreadable (`int`, *optional*, defaults to 0):
            Lines of the records that could not be read. Each enters as a prompt of its own with the upper bound.

    The others are those of [`~evaluation.certificate.certify`].

    Returns:
        [`AuditedCertificate`].
    """
    low, high = check_bounds(bounds)
    harm, several = combined(labels, combine)
    _check(harm, drawn, responses, len(prompts))
    keys = [prompt_key(prompt) for prompt in prompts]
    own_seed = own_seed or seed != seed_of_prompts(prompt_sketch(keys)[0])
    known = ~np.isnan(harm)
    missing = drawn.chosen & ~known
    seen = seen_harm(harm, drawn, high)
    learned = np.full(harm.size, np.nan) if scores is None else np.asarray(scores, dtype=np.float64)

    def bound_of(confidence: float, seed: int) -> CVaRBound:
        found = audited_cvar_bound(
            None if scores is None else np.append(learned, np.full(n_unreadable, np.inf)),
            np.append(seen, np.full(n_unreadable, high)),
            np.append(drawn.probabilities, np.ones(n_unreadable)),
            tail=tail,
            bounds=(low, high),
            confidence=confidence,
            keys=[*keys, *(f"unreadable {i}" for i in range(n_unreadable))],
            seed=seed,
            least=drawn.least,
            pilot=pilot,
        )
        return _as_bound(found)

    differ, own = _differences(several[drawn.chosen]), fingerprints(seen, drawn, responses)
    audit: AuditJSON = {
        "n_labelled": int((drawn.chosen & known).sum()),
        "n_drawn": int(drawn.chosen.sum()),
        "n_missing": int(missing.sum()),
        "n_ignored": int((known & ~drawn.chosen).sum()),
        "expected_labels": round(float(drawn.probabilities.sum()), 6),
        "least_probability": drawn.least,
        "scores_used": scores is not None,
        "combine": combine,
        "n_several": len(differ),
        "n_disagreed": sum(each > 0 for each in differ),
        "mean_difference": round(float(np.mean(differ)), 6) if differ else None,
        "draw_fingerprint": own["draw_fingerprint"],
        "labels_fingerprint": own["labels_fingerprint"],
    }
    return make_attempt(
        AuditedCertificate,
        bound_of,
        learned,
        budget,
        prompts=keys,
        tail=tail,
        confidence=confidence,
        bounds=(low, high),
        n_unscored=int(missing.sum()) + n_unreadable,
        ledger_path=ledger_path,
        again=again,
        seed=seed,
        own_seed=own_seed,
        scorer=scorer,
        model=model,
        n_trained=n_trained,
        max_new_tokens=max_new_tokens,
        n_cut=n_cut,
        notes=tuple(notes),
        under=under,
        audit=audit,
    )


def verify_labels(
    certificate: Mapping[str, Any],
    labels: ArrayLike,
    *,
    drawn: Selection,
    scores: ArrayLike | None,
    prompts: Sequence[Any],
    responses: Sequence[str],
    model: str | None,
    under: str | None = None,
    n_unreadable: int = 0,
    n_cut: int = 0,
    notes: Sequence[str] = (),
    pilot: Calibration | None = None,
) -> list[str]:
    """Does an audited certificate follow from these records, labels and this draw?

    Args:
        n_cut (`int`, *optional*, defaults to 0), notes (`Sequence[str]`, *optional*):
            How many responses did not end by themselves, and sentences that must be among the limits.

    The others are those of [`certify_labels`].

    Returns:
        `list[str]`: what differs, a sentence each; empty if it does.
    """
    if "audit" not in certificate:
        raise ValueError(
            "You verify a certificate about a learned cost with people's labels, but it does not rest on them. Leave "
            "the labels out."
        )

    def again() -> AuditedCertificate:
        return certify_labels(
            labels,
            certificate["budget"],
            drawn=drawn,
            scores=scores,
            prompts=prompts,
            responses=responses,
            tail=certificate["tail"],
            confidence=first_confidence(certificate),
            bounds=(certificate["bounds"][0], certificate["bounds"][1]),
            seed=certificate["seed"],
            combine=certificate["audit"]["combine"],
            pilot=pilot,
            scorer=certificate["scorer"],
            model=certificate["model"],
            n_unreadable=n_unreadable,
        )

    found = ModelCosts(model, under=under, n_cut=n_cut, notes=list(notes))
    return differences(certificate, again, found, compared=(*COMPARED, "audit"))


def seen_harm(harm: Array, drawn: Selection, high: float) -> Array:
    """The label of each response that was drawn, the upper bound where it did not come; NaN of the others `[n]`."""
    return np.where(drawn.chosen, np.where(np.isnan(harm), high, harm), np.nan)


def fingerprints(seen: Array, drawn: Selection, responses: Sequence[str]) -> dict[str, str]:
    """What stands for the draw and for the labels in a certificate."""
    return {
        "draw_fingerprint": _fingerprint(responses, drawn.probabilities, drawn.chosen),
        "labels_fingerprint": _fingerprint(responses, seen),
    }


def combined(labels: ArrayLike, combine: Combine = "mean") -> tuple[Array, Array]:
    """The label that counts of each response `[n]`, NaN where there is none, and all of them `[n, k]`."""
    several = np.asarray(labels, dtype=np.float64)
    several = several.reshape(several.shape[0], -1)
    result = np.full(several.shape[0], np.nan)
    for i in np.flatnonzero((~np.isnan(several)).any(axis=1)):
        result[i] = cost_of_several(several[i][~np.isnan(several[i])].tolist(), combine)
    return result, several


def _differences(several: Array) -> list[float]:
    """Of each response with two labels or more, the largest less the least."""
    own = [row[~np.isnan(row)] for row in several]
    return [float(np.ptp(row)) for row in own if row.size > 1]


def _as_bound(found: AuditedBound) -> CVaRBound:
    """With the fields that every certificate has."""
    return CVaRBound(
        bound=found.upper_bound,
        estimate=found.estimate,
        tail=found.tail,
        confidence=found.confidence,
        method=found.method,
        bounds=found.bounds,
        n=found.n,
        n_groups=found.n_groups,
        n_eta=0,
        n_bound=found.n_groups,
        eta=found.eta,
        excess_bound=None,
        n_clipped_above=found.n_clipped_above,
        n_clipped_below=found.n_clipped_below,
        unclipped_estimate=None,  # what the labels are above the bounds enters nowhere
        seed=found.seed,
        assumptions=_ASSUMPTIONS,
    )


def _fingerprint(names: Sequence[str], *values: ArrayLike) -> str:
    """Stands for the numbers that belong to each response, whatever their order. Another machine's last digits are not
    a difference."""
    columns = [np.asarray(each, dtype=np.float64).tolist() for each in values]
    lines = sorted(" ".join([name, *(f"{x:.9g}" for x in row)]) for name, *row in zip(names, *columns, strict=True))
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _check(harm: Array, drawn: Selection, responses: Sequence[str], n_prompts: int) -> None:
    if not harm.size == drawn.chosen.size == len(responses) == n_prompts:
        raise ValueError(
            f"You gave labels of {harm.size} responses, a draw of {drawn.chosen.size}, {len(responses)} names and "
            f"{n_prompts} prompts, but each response needs one of each. Give the draw of these records."
        )
    if not (drawn.chosen & ~np.isnan(harm)).any():
        raise ValueError(
            "You certify on labels, but none of the responses that were drawn has one. Label them first, and give the "
            "draw as it was made."
        )
