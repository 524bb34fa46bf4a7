"""Tokens in colour: drift risk and token harm, two views of one response that must not be mixed up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


LEVELS = 6
# A longer response is cut in the coloured views, and says so.
MOST_TOKENS = 768

# Name, label, and what a reader must know.
VIEWS = (
    (
        "drift",
        "drift risk",
        "How far, at this place, the model's habits have moved from those of its reference, in nats. The darker, the "
        "further. This is not harm.",
    ),
    (
        "harm",
        "token harm",
        "What the model's own safety training made of this token: orange makes the response worse, blue better. Its "
        "estimate in units of cost, not a measurement.",
    ),
)

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Scales:
    """The value that has the darkest colour, one for all responses on the page, so that they can be compared."""

    drift: float
    harm: float

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Scales":
        """From the 99th percentile: one token should not make all others pale."""
        lines = list(lines)
        drift, harm = (
            sorted(abs(v) for line in lines for v in line.get(name) or ()) or [0.0] for name in ("drift", "harm")
        )
        return cls(*(values[min(len(values) - 1, int(0.99 * len(values)))] or 1.0 for values in (drift, harm)))


def level(value: float, scale: float) -> int:
    """−LEVELS … LEVELS: 0 up to half a step, `scale` and beyond the darkest."""
    return max(-LEVELS, min(LEVELS, round(LEVELS * value / scale)))


def coloured(line: Line, scales: Scales) -> dict[str, Any]:
    """One response for the template: `views`, each of (class, token) `spans` and its `numbers` as text."""
    tokens = [str(token) for token in line["tokens"][:MOST_TOKENS]]
    views = {}
    for name, letter in (("drift", "d"), ("harm", "h")):
        values = line.get(name)
        if values is None:
            continue
        levels = [level(value, getattr(scales, name)) for value in values[:MOST_TOKENS]]
        views[name] = {
            "spans": [(_class(letter, step), token) for step, token in zip(levels, tokens, strict=True)],
            "numbers": " ".join(f"{value:.3g}" for value in values[:MOST_TOKENS]),
        }
    return {"views": views, "left_out": len(line["tokens"]) - len(tokens)}


def _class(letter: str, step: int) -> str:
    return f"{letter}{step}" if step >= 0 else f"{letter}m{-step}"


# The steps of each scale, in the order of the legend.
LEGENDS = {
    "drift": [_class("d", step) for step in range(LEVELS + 1)],
    "harm": [_class("h", step) for step in range(-LEVELS, LEVELS + 1)],
}
