"""The condition under which a budget must hold."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trl_rsa.evaluation.pressure.condition import Condition


@dataclass(frozen=True)
class Under(Condition):
    """
    A [`~evaluation.pressure.condition.Condition`] of a [`RiskConstraint`]: its decide and certify prompts are answered
    under it, and its train prompts too. Without `beginnings`, forced ones are those of the model that the ladder
    starts from.

    Args:
        temperature, prefill, beginnings, attack:
            As in [`~evaluation.pressure.condition.Condition`].
        train (`bool`, *optional*, defaults to `True`):
            Whether the responses that the rungs are trained on are drawn under it too. What is forced or attacked
            then stands on the side of the prompt: it is seen, and not trained on.
    """

    train: bool = True

    def of(self, split: str) -> "Under | None":
        """The condition of one of the prompt sets."""
        return self if split != "train" or self.train else None


def read_under(given: "Under | Mapping[str, Any] | None") -> Under | None:
    """A condition from what a constraint was given.

    Raises:
        ValueError: if it is no condition.
    """
    if given is None or isinstance(given, Under):
        return given
    known = [f.name for f in fields(Under)]
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise ValueError(
            f"You set under={given!r}, but a condition has the keys {', '.join(known)}. Set under={{'temperature': "
            "1.6}, say."
        )
    return Under(**given)
