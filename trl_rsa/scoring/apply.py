"""Applying a scorer to many responses, so that one that fails costs one score and not the run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.scoring.scorer import NotScored, Scorer, ScorerContractError


@dataclass(frozen=True)
class Score:
    """One response's score: `value`, or None and the `reason` why there is none. `index` counts from 0."""

    index: int
    value: float | None
    reason: str | None = None

    def __str__(self) -> str:
        return f"prompt {self.index}: {self.reason or self.value}"


@dataclass
class Scores:
    """
    What [`score`] returns.

    Args:
        values (`list[float | None]`):
            One per response, in order.
        failures (`list[Score]`):
            Those without a score, each with its index and a reason.
    """

    values: list[float | None] = field(default_factory=list)
    failures: list[Score] = field(default_factory=list)

    def add(self, score: Score) -> None:
        self.values.append(score.value)
        if score.reason is not None:
            self.failures.append(score)

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        if not self.failures:
            return f"{len(self)} responses scored."
        first = "; ".join(map(str, self.failures[:3]))
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        scored = len(self) - len(self.failures)
        return f"{scored} of {len(self)} responses scored. Not scored: {first}{more}."

    def require_all(self, scorer: str | None = None) -> list[float]:
        """The values, if every response has one. `scorer` is the name of who gave them, for the message.

        Raises:
            ScoringError: otherwise; `error.scores` is this object.
        """
        if self.failures:
            asked = "You asked for every score" if scorer is None else f"You set the scorer {scorer!r}"
            raise ScoringError(
                f"{asked}, but some responses have none, and all are needed here. {self} Mend the scorer, or let it "
                "give a number for these too.",
                self,
            )
        return [value for value in self.values if value is not None]


class ScoringError(ValueError):
    """Scoring cannot go on. `scores` ([`Scores`]) is what was scored until then."""

    def __init__(self, message: str, scores: Scores):
        super().__init__(message)
        self.scores = scores


def score(
    scorer: Scorer,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    batch_size: int = 256,
    **columns: Sequence[object],
) -> Scores:
    """
    Scores every completion. A response on which the scorer raises, or for which it gives None, NaN or an infinity, is
    reported with its index and a reason; the others keep their scores.

    Args:
        scorer ([`Scorer`]):
            From [`load_scorer`].
        prompts, completions (`Sequence`):
            Strings or lists of messages, n of each.
        batch_size (`int`, *optional*, defaults to 256):
            Responses handed to the scorer at once. A model behind it has its own, smaller batch.
        columns (`Sequence`):
            Further columns of the dataset, n of each, handed on as TRL does.

    Returns:
        [`Scores`]

    Raises:
        ScoringError: if the scorer does not return one score per completion; `error.scores` has the batches before.
        ValueError: if the columns differ in length.
    """
    lengths = {"prompts": len(prompts), "completions": len(completions)}
    lengths |= {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"You gave columns of different lengths ({lengths}). Give one entry per response in each.")
    scores = Scores()
    try:
        for item in iter_scores(scorer, prompts, completions, batch_size, **columns):
            scores.add(item)
    except ScorerContractError as error:
        raise ScoringError(f"{error} {len(scores)} responses before were scored.", scores) from error
    return scores


def iter_scores(
    scorer: Scorer,
    prompts: Iterable[Text],
    completions: Iterable[Text],
    batch_size: int = 256,
    **columns: Iterable[object],
) -> Iterator[Score]:
    """
    As [`score`], one [`Score`] after the other, in order, each batch as soon as it is scored: what has been yielded
    can be written down before the next batch begins. The columns may be iterators and are read batch by batch, so
    that memory does not grow with their length.

    Raises:
        ScorerContractError: if the scorer does not return one score per completion.
        ValueError: if the columns differ in length; those read so far have been scored.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"You set batch_size={batch_size!r}, but a batch has at least one response. Set 1 or more.")
    names = ["prompts", "completions", *columns]
    iterators = [iter(column) for column in (prompts, completions, *columns.values())]
    start = 0
    while True:
        batch = {name: list(islice(column, batch_size)) for name, column in zip(names, iterators, strict=True)}
        length = len(batch["prompts"])
        if any(len(values) != length for values in batch.values()):
            counts = {name: start + len(values) for name, values in batch.items()}
            raise ValueError(
                f"You gave columns of different lengths (they end after {counts}). Give one entry per response in "
                "each."
            )
        for offset, value in enumerate(_attempt(scorer, batch) if length else ()):
            reason = value.reason if isinstance(value, NotScored) else None
            yield Score(start + offset, value if not isinstance(value, NotScored) else None, reason)
        if length < batch_size:
            return
        start += length


def _attempt(scorer: Scorer, batch: Mapping[str, Sequence[Any]]) -> list[float | NotScored]:
    """Scores a batch; where the scorer raises, its halves, until the responses that make it raise stand alone."""
    try:
        return scorer.attempt(**batch)
    except ScorerContractError:
        raise
    except Exception as error:
        length = len(batch["prompts"])
        if length == 1:
            return [NotScored(f"the scorer raised {type(error).__name__}: {error}")]
        half = length // 2
        first = {name: values[:half] for name, values in batch.items()}
        second = {name: values[half:] for name, values in batch.items()}
        return _attempt(scorer, first) + _attempt(scorer, second)
