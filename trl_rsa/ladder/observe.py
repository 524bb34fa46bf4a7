"""A policy's responses to a prompt set, with their costs: sampled, scored and recorded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from trl_rsa.evaluation.pressure.beginnings import first_tokens, read_beginnings, texts_of
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.same_scorers import check_scorers, fingerprint_of
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.scoring import Scorer, load_scorer, score
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.records import RecordWriter, read_records
from trl_rsa.training.methods.terms import RewardTerm


class ResponseRecord(TypedDict):
    """A line of `ladder/NN-SPLIT.jsonl`: one response of one policy, with its cost by constraint.

    `cost` repeats the only cost for other readers of records, and is null where there are several. `prompt_number` is
    the prompt's place in its set, `token_ids` are the tokens as sampled, the end of turn included if one was sampled.
    `reward` is that of [`RungSettings`], of the responses to train prompts, and null elsewhere. `under` says under
    which condition it was drawn, `base_prompt` is there where the prompt was attacked, and `n_forced` where the first
    tokens were forced.
    """

    prompt: Any
    response: str
    reward: float | None
    cost: float | None
    costs: dict[str, float]
    category: str | None
    attack: str | None
    model: str
    seed: int
    split: str
    prompt_number: int
    draw: int
    finished: bool
    token_ids: list[int]
    under: str | None
    base_prompt: NotRequired[Any]
    n_forced: NotRequired[int]


class BeginningLine(TypedDict):
    """A line of `ladder/beginnings-SPLIT.jsonl`: the first tokens of a response of the model that the ladder starts
    from, which are forced upon those of the others."""

    prompt_number: int
    response: str
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
        start (`str`, *optional*):
            The policy whose beginnings are forced upon others.
        encoder ([`ConversationEncoder`], *optional*):
            Writes given beginnings as tokens.

    Raises:
        ValueError: if a scorer is another one than at the ladder's first start.
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
        start: str = "",
        encoder: ConversationEncoder | None = None,
    ):
        self.folder, self.groups, self.settings = folder, groups, settings
        self.sample, self.seed, self.log = sample, seed, log
        self.start, self.encoder = start, encoder
        self.scorers, self.reward = load_scorers(constraints), load_reward(settings)
        costs = {one.name: fingerprint_of(one.scorer, self.scorers[one.name]) for one in constraints}
        check_scorers(folder, costs, fingerprint_of(getattr(settings.reward, "scorer", None), self.reward))

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
        sampling = sampling_under(group, self.settings.sampling_of(split, self.seed))
        records: list[Any] = [r for r in read_records(path, scores=()) if "costs" in r] if path.exists() else []
        done = {(record["prompt_number"], record["draw"]) for record in records}
        total = len(group.prompts) * sampling.draws
        if len(done) < total:
            options: dict[str, Any] = {"batch_size": self.settings.batch_size, "skip": done}
            if group.under is not None and group.under.prefill is not None:
                options["beginnings"] = self.beginnings(group, split)
            batches = self.sample(model, group.asked, sampling, **options)
            what = f"[ladder {number}] {split} responses"
            with RecordWriter(path) as writer, self.log.counting(what, len(done), total) as advance:
                for batch in batches:
                    for record in self._scored(batch, group, split, model):
                        writer.write(record)
                        records.append(record)
                    advance(len(batch))
        kept = {(record["prompt_number"], record["draw"]): record for record in records}
        return [kept[key] for key in sorted(kept)]

    def beginnings(self, group: PromptGroup, split: str) -> list[list[int]]:
        """The tokens that the responses to each prompt are made to begin with: given, or drawn once from the start."""
        under, encoder = group.under, self.encoder
        assert under is not None and under.prefill is not None and encoder is not None
        given = given_beginnings(group, encoder)
        if given is not None:
            return given
        path = self.folder / f"beginnings-{split}{self._which(group, split)}.jsonl"
        lines = {line["prompt_number"]: cast(BeginningLine, line) for line in read_lines(path)}
        done = {(number, 0) for number in lines}
        sampling = replace(self.settings.sampling_of(split, self.seed), draws=1, max_new_tokens=under.prefill)
        if len(done) < len(group.asked):
            options: dict[str, Any] = {"batch_size": self.settings.batch_size, "skip": done}
            with LineWriter(path) as writer:
                for batch in self.sample(self.start, group.asked, sampling, **options):
                    for response in batch:
                        line: BeginningLine = {
                            "prompt_number": response.prompt,
                            "response": response.text,
                            "token_ids": list(response.token_ids),
                        }
                        writer.write(line)
                        lines[response.prompt] = line
        several = [lines[number] for number in range(len(group.asked))]
        return [first_tokens(encoder, line["response"], under.prefill, line["token_ids"]) for line in several]

    def _file_name(self, group: PromptGroup, split: str, number: int) -> str:
        return f"{number:02d}-{split}{self._which(group, split)}.jsonl"

    def _which(self, group: PromptGroup, split: str) -> str:
        """What tells the group's file from those of others."""
        first, groups = group.names[0], self.groups[split]
        if len(groups) == 1:
            return ""
        # Whole lists, as they always were called.
        if all(sum(name in other.names for other in groups) == 1 for name in group.scored):
            return f"-{first}"
        return f"-{first}-of-{'+'.join(group.scored)}"  # parts of its list are shared with others

    def _scored(
        self, batch: Sequence[Response], group: PromptGroup, split: str, model: str
    ) -> Iterator[ResponseRecord]:
        prompts, texts = [group.prompts[response.prompt] for response in batch], [response.text for response in batch]
        by_scorer = {
            id(scorer): score(scorer, prompts, texts).require_all(scorer.name)
            for scorer in {id(self.scorers[name]): self.scorers[name] for name in group.scored}.values()
        }
        costs = {name: by_scorer[id(self.scorers[name])] for name in group.scored}
        rewards: list[Any] = [None] * len(batch)
        if self.reward is not None and split == "train":
            rewards = score(self.reward, prompts, texts).require_all(self.reward.name)
        under, attack = group.under, None if group.under is None else group.under.attack
        for index, response in enumerate(batch):
            record: ResponseRecord = {
                "prompt": group.asked[response.prompt],
                "response": response.text,
                "reward": rewards[index],
                "cost": costs[group.scored[0]][index] if len(costs) == 1 else None,
                "costs": {name: several[index] for name, several in costs.items()},
                "category": group.category_of(response.prompt),
                "attack": attack,
                "model": model,
                "seed": self.seed,
                "split": split,
                "prompt_number": response.prompt,
                "draw": response.draw,
                "finished": response.finished,
                "token_ids": list(response.token_ids),
                "under": None if under is None else under.in_words,
            }
            if attack is not None:
                record["base_prompt"] = prompts[index]
            if under is not None and under.prefill is not None:
                record["n_forced"] = response.n_forced
            yield record


def sampling_under(group: PromptGroup, sampling: Sampling) -> Sampling:
    """How the responses of a group are drawn."""
    return sampling if group.under is None else group.under.sampling(sampling)


def given_beginnings(group: PromptGroup, encoder: ConversationEncoder) -> list[list[int]] | None:
    """The tokens that are forced upon the responses to each prompt, where a file says which.

    Raises:
        ValueError, FileNotFoundError: if it has none for a prompt.
    """
    under = group.under
    if under is None or under.prefill is None or under.beginnings is None:
        return None
    texts = texts_of(group.prompts, read_beginnings(under.beginnings), under.beginnings)
    return [first_tokens(encoder, text, under.prefill) for text in texts]


def load_reward(settings: RungSettings) -> Scorer | None:
    """What makes responses helpful, where the labels of a rung ask for it."""
    term = cast(RewardTerm | None, settings.reward)
    return None if term is None else term.load()


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
