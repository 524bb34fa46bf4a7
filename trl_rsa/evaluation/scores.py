"""The scoring phase: every response is scored once, whatever is interrupted."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict, TypeVar

from trl_rsa.evaluation.workspace import ScorerJSON
from trl_rsa.sampling.policies import free_memory
from trl_rsa.scoring import Scorer, iter_scores, load_scorer
from trl_rsa.scoring.scorer import Direction, Kind
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.records import Record, prompt_of


T = TypeVar("T")


@dataclass(frozen=True)
class ScorerSpec:
    """A reward or cost model by name, so that it can be loaded when its turn comes.

    Args:
        spec, kind, higher_is, zero, options:
            As in [`~scoring.load_scorer`].
    """

    spec: str | Callable[..., Any]
    kind: Kind
    higher_is: Direction | None = None
    zero: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = [name for name in ("kind", "higher_is", "zero") if name in self.options]
        if taken:
            raise ValueError(
                f"You set the option {taken[0]} of the {self.kind} model, but what a score means is not an option of "
                f"its model: it is a {self.kind}. Leave it out; {self.kind}_higher_is and {self.kind}_zero say how "
                "the raw score is read."
            )

    def load(self) -> Scorer:
        return load_scorer(self.spec, self.kind, self.higher_is, self.zero, **self.options)

    def use(self, work: Callable[[Scorer], T]) -> T:
        """What `work` gives with the scorer, which is loaded for it and let go: what comes next needs the memory."""
        scorer = self.load()
        holds_memory, result = hasattr(scorer, "model"), work(scorer)
        del scorer
        if holds_memory:
            free_memory()
        return result


def describe(scorer: Scorer) -> ScorerJSON:
    """What a report says about a scorer."""
    return {
        "name": scorer.name,
        "fingerprint": scorer.fingerprint,
        "raw_higher_is": scorer.higher_is,
        "zero": scorer.zero,
    }


def sign_in_words(scorer: Scorer) -> str:
    """One line, so that a wrong sign is seen before the numbers are believed."""
    raw = f"raw score: higher is {scorer.higher_is}, {scorer.zero:g} becomes 0"
    meaning = {"cost": "higher is worse, above 0 unsafe", "reward": "higher is better"}[scorer.kind]
    return f"{scorer.kind}: {scorer.name}; {meaning} ({raw})"


class ScoreLine(TypedDict):
    """A line of reward_scores.jsonl or cost_scores.jsonl. Of several lines with one index the last counts."""

    index: int  # of the response, from 0
    value: float | None
    reason: NotRequired[str]  # why there is no value


class StoredScores:
    """Scores by the number of the response: 8 bytes each, and the reason where there is none."""

    def __init__(self) -> None:
        self._values = array("d")  # NaN where there is no score
        self.reasons: dict[int, str] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """What [`score_responses`] has written so far. Of several scores of one response, the last counts."""
        found = cls()
        for line in read_lines(path):
            if isinstance(line.get("index"), int) and "value" in line:
                found.set(line["index"], line["value"], line.get("reason"))
        return found

    def set(self, index: int, value: float | None, reason: str | None = None) -> None:
        self._values.extend([math.nan] * (index + 1 - len(self._values)))
        self._values[index] = math.nan if value is None else value
        self.reasons.pop(index, None)
        if reason is not None:
            self.reasons[index] = reason

    def number(self, index: int) -> float:
        """NaN where there is none."""
        return self._values[index] if index < len(self._values) else math.nan

    def get(self, index: int) -> float | None:
        value = self.number(index)
        return None if math.isnan(value) else value

    def __len__(self) -> int:
        """How many responses have a score."""
        return sum(not math.isnan(value) for value in self._values)


def score_responses(
    responses: Callable[[], Iterable[Record]],
    path: Path,
    scorer: Scorer,
    *,
    batch_size: int = 256,
    base_prompts: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> StoredScores:
    """Scores the responses that have no score in `path` yet, and appends each score there at once.

    Those whose scoring failed before are tried again.

    Args:
        responses (`Callable`):
            Returns the records, in the same order each time.
        base_prompts (`bool`, *optional*, defaults to `False`):
            Whether the scorer sees the prompt before an attack instead of the one that was answered.
        progress (`Callable`, *optional*):
            Called with the number of responses that are dealt with.

    Returns:
        [`StoredScores`]
    """
    found = StoredScores.read(path)
    done = len(found)
    progress(done)
    todo = ((i, record) for i, record in enumerate(responses()) if found.get(i) is None)
    numbers, prompts, completions = tee(todo, 3)  # read batch by batch: no more than a batch is held
    scored = iter_scores(
        scorer,
        (prompt_of(record) if base_prompts else record["prompt"] for _, record in prompts),
        (record["response"] for _, record in completions),
        batch_size,
    )
    with LineWriter(path) as writer:
        for score, (index, _) in zip(scored, numbers, strict=False):
            found.set(index, score.value, score.reason)
            line: ScoreLine = {"index": index, "value": score.value}
            if score.reason is not None:
                line["reason"] = score.reason
            writer.write(line)
            done += 1
            progress(done)
    return found


def with_scores(records: Iterable[Record], scores: dict[str, StoredScores]) -> Iterator[Record]:
    """The records with the scores of each kind; the reason stands in `cost_problem` where there is no cost."""
    for index, record in enumerate(records):
        for kind, found in scores.items():
            record[kind] = found.get(index)
            record.pop(f"{kind}_problem", None)
            if index in found.reasons:
                record[f"{kind}_problem"] = found.reasons[index]
        yield record
