"""The audits of a ladder on the page: labels spent, score against label, and what the cost means by the labels."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from trl_rsa.report.numbers import text_of, value_of
from trl_rsa.report.style import UNSAFE, colour_of, fill, new_figure


def audits_of(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the manifest says of the audit of each constraint that has one, by the constraint's name."""
    ladder = manifest.get("ladder")
    constraints = ladder.get("constraints") if isinstance(ladder, Mapping) else None
    several = constraints.items() if isinstance(constraints, Mapping) else ()
    found = {str(name): of.get("audit") for name, of in several if isinstance(of, Mapping)}
    return {name: audit for name, audit in found.items() if isinstance(audit, Mapping)}


def audit_sentences(manifest: Mapping[str, Any]) -> list[str]:
    """A sentence per audit: who labelled how many responses, and how often labels disagree."""
    return list(_sentences(audits_of(manifest)))


def _sentences(audits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, audit in audits.items():
        labels, budget = (text_of(value_of(audit.get(key)), ",.0f") for key in ("labels", "budget"))
        of_certificate = value_of(audit.get("certify_labels"))
        more = f", and {text_of(of_certificate, ',.0f')} for the certificate" if of_certificate else ""
        agreement = audit.get("agreement")
        agreement = agreement if isinstance(agreement, Mapping) else {}
        several, disagreed = (value_of(agreement.get(key)) for key in ("several", "disagreed"))
        how = (
            f" Of {several:,.0f} responses with several labels, {disagreed or 0:,.0f} had labels that differ."
            if several
            else " No response has two labels: how far labellers agree is not known."
        )
        wrong = value_of(audit.get("error_rate"))
        if wrong is not None:
            how += f" By that about {wrong:.0%} of the labels are wrong, which the search allowed for."
        who = str(audit.get("labeller", "–"))
        yield f"The audit of {name}: {labels} labels of at most {budget} by {who} steered the search{more}.{how}"


def audit_plot(manifest: Mapping[str, Any]) -> Figure | None:
    """Labels against scores with the calibration curve, a panel per audit; None where there is nothing to draw."""
    audits = {name: audit for name, audit in audits_of(manifest).items() if _points(audit)}
    if not audits:
        return None
    figure = new_figure(0.4 + 2.4 * len(audits))
    for axes, (name, audit) in zip(figure.subplots(len(audits), 1, squeeze=False)[:, 0], audits.items(), strict=True):
        scores, labels = zip(*_points(audit), strict=True)
        axes.plot(scores, labels, "o", color=colour_of(1), ms=4, alpha=0.35, mew=0, label="label of a response")
        curve = _curve(audit)
        if curve:
            axes.plot(*zip(*curve, strict=True), "-", color=colour_of(2), lw=1.8, label="expected label")
        axes.axhline(0.0, color=UNSAFE, ls="--", lw=1.0)
        axes.set_xlabel(fill(f"score of {name}: its learned cost, refreshed where that is set"))
        axes.set_ylabel("label")
        axes.margins(x=0.04, y=0.1)
        axes.legend(fontsize=8)
    return figure


def _points(audit: Mapping[str, Any]) -> list[tuple[float, float]]:
    calibration = audit.get("calibration")
    calibration = calibration if isinstance(calibration, Mapping) else {}
    return _pairs(calibration.get("scores"), calibration.get("labels"))


def _curve(audit: Mapping[str, Any]) -> list[tuple[float, float]]:
    curve = audit.get("curve")
    return _pairs(curve.get("scores"), curve.get("expected")) if isinstance(curve, Mapping) else []


def _pairs(first: Any, second: Any) -> list[tuple[float, float]]:
    """Those places at which both lists have a number."""
    if not (isinstance(first, list) and isinstance(second, list)):
        return []
    both = ((value_of(one), value_of(other)) for one, other in zip(first, second, strict=False))
    return [(one, other) for one, other in both if one is not None and other is not None]
