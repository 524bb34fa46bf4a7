"""A policy's responses to a prompt set, with their costs: sampled, scored and recorded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.sampling.response import Response
from trl_rsa.scoring import Scorer, load_scorer, score
from trl_rsa.storage.records import RecordWriter, read_records


class ResponseRecord(TypedDict):
    """A line of `ladder/NN-SPLIT.jsonl`: one response of one policy, with its cost by constraint.

    `cost` repeats the only cost for other readers of records, and is null where there are several. `prompt_number` is
    the prompt's place in its set, `token_ids` are the tokens as sampled, the end of turn included if one was sampled.
    There are no rewards and no attacks here: other readers of records find null.
    """

    prompt: Any
    response: str
    reward: None
    cost: float | None
    costs: dict[str, float]
    category: str | None
    attack: None
    model: str
    seed: int
    split: str
    prompt_number: int
    draw: int
    finished: bool
    token_ids: list[int]


class ScoredResponses:
    """
    The responses of the ladder's policies.

    Args:
        folder (`Path`):
            Gets a file per observation and prompt set.
        groups (`Mapping[str, Sequence[PromptGroup]]`):
            From [`prompt_groups`].
        constraints (`Sequence[RiskConstraint]`):
            Their scorers are loaded here, each once.
        settings ([`RungSettings`]):
            How to sample, and how much at a time.
        sample (`Callable`):
            `sample(model, prompts, sampling, batch_size=..., skip=...)` gives batches of responses.
        seed (`int`):
            Of the draws.
        log ([`ProgressLog`]):
            Counts responses while they come.
    """

    def __init__(
        self,
        folder: Path,
        groups: Mapping[str, Sequence[PromptGroup]],
        constraints: Sequence[RiskConstraint],
        settings: RungSettings,
        sample: Callable[..., Iterator[list[Response]]],
        seed: int,
        log: ProgressLog,
    ):
        self.folder, self.groups, self.settings = folder, groups, settings
        self.sample, self.seed, self.log = sample, seed, log
        self.scorers = load_scorers(constraints)

    def collect(
        self, split: str, model: str, number: int, names: Sequence[str]
    ) -> list[tuple[PromptGroup, list[ResponseRecord]]]:
        """The responses of `model`, the ladder's observation `number`, to the prompts of the constraints `names`.

        Those recorded before are not made again. They come in the order of prompts and draws, however the batches
        came: what follows must not depend on a kill.
        """
        wanted = [group for group in self.groups[split] if set(group.names) & set(names)]
        return [(group, self._collect(group, split, model, number)) for group in wanted]

    def _collect(self, group: PromptGroup, split: str, model: str, number: int) -> list[ResponseRecord]:
        path = self.folder / self._file_name(group, split, number)
        sampling = self.settings.sampling_of(split, self.seed)
        records: list[Any] = [r for r in read_records(path, scores=()) if "costs" in r] if path.exists() else []
        done = {(record["prompt_number"], record["draw"]) for record in records}
        total = len(group.prompts) * sampling.draws
        if len(done) < total:
            batches = self.sample(model, group.prompts, sampling, batch_size=self.settings.batch_size, skip=done)
            what = f"[ladder {number}] {split} responses"
            with RecordWriter(path) as writer, self.log.counting(what, len(done), total) as advance:
                for batch in batches:
                    for record in self._scored(batch, group, split, model):
                        writer.write(record)
                        records.append(record)
                    advance(len(batch))
        kept = {(record["prompt_number"], record["draw"]): record for record in records}
        return [kept[key] for key in sorted(kept)]

    def _file_name(self, group: PromptGroup, split: str, number: int) -> str:
        which = "" if len(self.groups[split]) == 1 else f"-{group.names[0]}"
        return f"{number:02d}-{split}{which}.jsonl"

    def _scored(
        self, batch: Sequence[Response], group: PromptGroup, split: str, model: str
    ) -> Iterator[ResponseRecord]:
        prompts, texts = [group.prompts[response.prompt] for response in batch], [response.text for response in batch]
        by_scorer = {
            id(scorer): score(scorer, prompts, texts).require_all()
            for scorer in {id(self.scorers[name]): self.scorers[name] for name in group.names}.values()
        }
        costs = {name: by_scorer[id(self.scorers[name])] for name in group.names}
        for index, response in enumerate(batch):
            yield {
                "prompt": prompts[index],
                "response": response.text,
                "reward": None,
                "cost": costs[group.names[0]][index] if len(costs) == 1 else None,
                "costs": {name: several[index] for name, several in costs.items()},
                "category": group.category_of(response.prompt),
                "attack": None,
                "model": model,
                "seed": self.seed,
                "split": split,
                "prompt_number": response.prompt,
                "draw": response.draw,
                "finished": response.finished,
                "token_ids": list(response.token_ids),
            }


def load_scorers(constraints: Sequence[RiskConstraint]) -> dict[str, Scorer]:
    """The cost of each constraint, by name; two constraints on one cost share its model."""
    scorers: dict[str, Scorer] = {}
    for index, constraint in enumerate(constraints):
        given = constraint.scorer, constraint.scorer_options
        twin = next((c for c in constraints[:index] if (c.scorer, c.scorer_options) == given), None)
        scorers[constraint.name] = (
            load_scorer(constraint.scorer, **{"kind": "cost", **constraint.scorer_options})
            if twin is None
            else scorers[twin.name]
        )
    return scorers
