"""What a scheduler has seen, and what it decides: `Trial` and `Decision`."""

from dataclasses import dataclass
from typing import Literal


Action = Literal["next_rung", "walk_back", "stop"]


@dataclass(frozen=True)
class Trial:
    """One model that was observed.

    Args:
        number (`int`):
            Number of the observation, from 0.
        rung (`int`):
            Trained rungs up to this model; 0 is the model that the ladder starts from.
        fraction (`float`):
            Share of the last rung's weight update that the model keeps: 1 if it was not walked back.
        multiplier (`float`):
            Lagrange multiplier λ of the model, in units of reward per cost.
        estimate (`float`), upper_bound (`float`):
            What was observed, in units of cost.
    """

    number: int
    rung: int
    fraction: float
    multiplier: float
    estimate: float
    upper_bound: float


@dataclass(frozen=True)
class Decision:
    """What to do next.

    Args:
        action (`str`):
            `"next_rung"`: re-anchor at the model of `start` and train a rung at temperature β/`delta_multiplier`.
            `"walk_back"`: set the weights to `fraction` of the way from the model before the last rung to the model
            after it. Either way, observe the model that comes of it. `"stop"`: hand out the model of `start`.
        delta_multiplier (`float`):
            Change of λ from the model of `start`: positive for a rung, negative for a walk-back, 0 at the stop.
        multiplier (`float`):
            λ of the model that comes of the action.
        rung (`int`), fraction (`float`):
            Which model that is, as in [`Trial`].
        start ([`Trial`]):
            The model from which the action starts.
        restore (`bool`):
            Whether `start` is not the model observed last, which is discarded then.
        best ([`Trial`]):
            The model judged best so far: the least λ whose bound holds; if none holds, the least estimate.
        met (`bool`):
            Whether the bound of `best` holds.
        reason (`str`):
            Why, in a sentence.
    """

    action: Action
    delta_multiplier: float
    multiplier: float
    rung: int
    fraction: float
    start: Trial
    restore: bool
    best: Trial
    met: bool
    reason: str
