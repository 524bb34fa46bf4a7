"""A policy's answers to a prompt set, with their costs: sampled, scored and recorded once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.live import LiveReport
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.scoring import Scorer, load_scorer, score
from trl_rsa.storage.records import RecordWriter, read_records


Record = dict[str, Any]


class Answers:
    """
    The answers of the ladder's policies.

    Args:
        folder (`Path`):
            Gets a file per observation and prompt set, with the costs by constraint in `costs`.
        groups (`dict[str, list[PromptGroup]]`):
            From [`prompt_groups`].
        constraints (`Sequence[RiskConstraint]`):
            Their scorers are loaded here, each once.
        sample (`Callable`):
            `sample(model, prompts, sampling, batch_size=..., skip=...)` gives batches of responses.
        seed (`int`):
            Of the draws.
        live (`LiveReport`):
            Counts answers while they come.
    """

    def __init__(
        self,
        folder: Path,
        groups: dict[str, list[PromptGroup]],
        constraints: Sequence[RiskConstraint],
        sample: Callable[..., Any],
        seed: int,
        live: LiveReport,
    ):
        self.folder, self.groups, self.sample, self.seed, self.live = folder, groups, sample, seed, live
        self.settings = constraints[0]
        self.scorers = _load_scorers(constraints)

    def to(self, split: str, model: str, number: int, names: Sequence[str]) -> list[tuple[PromptGroup, list[Record]]]:
        """The answers of `model`, the ladder's observation `number`, where one of the constraints `names` holds.

        Those recorded before are not made again. They come in the order of prompts and draws, however the batches
        came: what follows must not depend on a kill.
        """
        wanted = [group for group in self.groups[split] if set(group.names) & set(names)]
        return [(group, self._answer(group, split, model, number)) for group in wanted]

    def _answer(self, group: PromptGroup, split: str, model: str, number: int) -> list[Record]:
        path = self.folder / self._file_name(group, split, number)
        sampling = self.settings.sampling_of(split, self.seed)
        records = [r for r in read_records(path, scores=()) if "costs" in r] if path.exists() else []
        done = {(record["prompt_number"], record["draw"]) for record in records}
        total = len(group.prompts) * sampling.draws
        if len(done) < total:
            batches = self.sample(model, group.prompts, sampling, batch_size=self.settings.batch_size, skip=done)
            with RecordWriter(path) as writer, self.live.counting(f"{split} answers", len(done), total) as advance:
                for batch in batches:
                    for record in self._scored(batch, group, model):
                        writer.write(record)
                        records.append(record)
                    advance(len(batch))
        kept = {(record["prompt_number"], record["draw"]): record for record in records}
        return [kept[key] for key in sorted(kept)]

    def _file_name(self, group: PromptGroup, split: str, number: int) -> str:
        which = "" if len(self.groups[split]) == 1 else f"-{group.names[0]}"
        return f"{number:02d}-{split}{which}.jsonl"

    def _scored(self, batch: Sequence[Any], group: PromptGroup, model: str) -> Iterator[Record]:
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
                # For other readers of records, where it is not ambiguous.
                "cost": costs[group.names[0]][index] if len(costs) == 1 else None,
                "costs": {name: several[index] for name, several in costs.items()},
                "model": model,
                "seed": self.seed,
                "prompt_number": response.prompt,
                "draw": response.draw,
                "finished": response.finished,
                "token_ids": list(response.token_ids),
            }


def _load_scorers(constraints: Sequence[RiskConstraint]) -> dict[str, Scorer]:
    """By constraint; two constraints on one cost share its model."""
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
