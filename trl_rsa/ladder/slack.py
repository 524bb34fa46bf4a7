"""How far below its budget a ladder ended. That is overpaid: a safer model than was asked for, and less helpful."""

from collections.abc import Mapping
from typing import Any, TypedDict

from trl_rsa.ladder.observations import CostNumbers


class Slack(TypedDict):
    """Budget less cost, negative where it is not kept: on the prompts that decided, and on the certificate's."""

    decide_estimate: float
    decide_bound: float
    certify_estimate: float
    certify_bound: float


def slack_of(budget: float, numbers: CostNumbers, certificate: Mapping[str, Any]) -> Slack:
    """
    Args:
        budget (`float`):
            Of the constraint.
        numbers ([`CostNumbers`]):
            The observation of the final model.
        certificate (`Mapping`):
            Its certificate.json.
    """
    return {
        "decide_estimate": budget - numbers["estimate"],
        "decide_bound": budget - numbers["upper_bound"],
        "certify_estimate": budget - certificate["estimate"],
        "certify_bound": budget - certificate["bound"],
    }


def in_words(name: str, budget: float, slack: Slack, labelled: tuple[bool, bool] | None = None) -> str:
    """One sentence for the log.

    Args:
        name (`str`), budget (`float`), slack ([`Slack`]):
            Of the constraint.
        labelled (`tuple[bool, bool]`, *optional*):
            Of an audited constraint: whether what was observed, and what was certified, is of labels.
    """
    what = ["the cost", ""]
    if labelled is not None:
        what = ["the labelled harm" if labels else "the learned cost" for labels in labelled]
        what[1] = "" if what[0] == what[1] else f" {what[1]} ended"
    return (
        f"[ladder] {name}: against the budget {budget:g} {what[0]} ended {_place(slack['decide_estimate'])} it and "
        f"its upper bound {_place(slack['decide_bound'])} it; on the prompts of the certificate{what[1]} "
        f"{_place(slack['certify_estimate'])} and {_place(slack['certify_bound'])} it."
    )


def _place(below: float) -> str:
    return f"{abs(below):.3g} {'below' if below >= 0 else 'above'}"
