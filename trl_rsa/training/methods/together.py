"""Reward functions that count together: a response that one of them cannot score counts for none.

TRL adds up what there is and takes what is missing for 0. A response without a cost would then escape its penalty, and
RL would learn to write such.
"""

from collections.abc import Callable, Sequence
from typing import Any


RewardFunction = Callable[..., Sequence[float | None]]


class Together:
    """All reward functions of a trainer. They are asked once for a batch, when the first of them is.

    Args:
        functions (`Sequence[Callable]`):
            In TRL's form, each with a `__name__`.
    """

    def __init__(self, functions: Sequence[RewardFunction]):
        self.asked = list(functions)
        self.functions = [_OneOf(self, place) for place in range(len(functions))]
        self._batch: Any = None
        self._scores: list[list[float | None]] = []

    def scores(self, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> Any:
        """Per function the scores of the responses, None for those that any function has none for."""
        if self._batch is not completions:
            every = [list(one(prompts, completions, **columns)) for one in self.asked]
            whole = [all(score is not None for score in row) for row in zip(*every, strict=True)]
            self._scores = [
                [score if is_whole else None for score, is_whole in zip(one, whole, strict=True)] for one in every
            ]
            self._batch = completions
            log = columns.get("log_metric")
            if log is not None and whole:  # TRL 1.16 hands it over
                log("rewards/not_scored", whole.count(False) / len(whole))
        return self._scores


class _OneOf:
    def __init__(self, together: Together, place: int):
        self._together, self._place = together, place
        self.__name__ = together.asked[place].__name__  # TRL logs it under this name

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return self._together.scores(prompts, completions, columns)[self._place]
