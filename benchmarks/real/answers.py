"""Responses of a policy to one of the sets, with their scores: made once, and kept outside the repository."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real.score_models import ScoreModels
from benchmarks.real.settings import TEMPERATURE, Sizes
from benchmarks.real.split import Sets
from trl_rsa.evaluation.refusal import is_refusal
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.policies import free_memory
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring import score
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.training.anchor import ModelSettings


# Which scores are needed where. Only cost A steers, so that B is not asked before the end.
SCORES = {"train": "a", "decide": "a", "certify": "ab", "helpful_test": "hr", "harmless": ""}


@dataclass(frozen=True)
class Answers:
    """
    Args:
        prompts (`list`):
            The prompt of each response.
        records (`list[dict]`):
            In the order of prompts and draws: `number` and `draw`, `response`, `token_ids`, `finished`, and a score
            by name of its model.
    """

    prompts: list[Any]
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def column(self, name: str) -> np.ndarray:
        """Scores `[n]`."""
        return np.array([record[name] for record in self.records], dtype=float)

    @property
    def groups(self) -> np.ndarray:
        """The number of the prompt of each response, `[n]`."""
        return np.array([record["number"] for record in self.records])

    def share(self, what: str) -> float:
        """Share of the responses that are `"cut"`, or `"refused"`."""
        tests = {"cut": lambda record: not record["finished"], "refused": lambda r: is_refusal(r["response"])}
        return float(np.mean([tests[what](record) for record in self.records]))

    @property
    def length(self) -> float:
        """Mean number of tokens."""
        return float(np.mean([len(record["token_ids"]) for record in self.records]))


@dataclass(frozen=True)
class Sampler:
    """How responses are drawn and scored.

    Args:
        settings ([`ModelSettings`]):
            How policies are loaded.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]), sizes ([`Sizes`]), scores ([`ScoreModels`]):
            Of the track.
    """

    settings: ModelSettings
    tokenizer: Any
    sizes: Sizes
    scores: ScoreModels

    def collect(self, policy: str, name: str, sets: Sets, seed: int, path: Path, draws: int = 1) -> Answers:
        """Responses to the prompts of a set; those in the file are not made again."""
        prompts = sets.prompts(name)
        if name == "helpful_test":
            prompts = prompts[: self.sizes.helpful]
        records = list(read_lines(path))
        done = {(record["number"], record["draw"]) for record in records}
        if len(done) < len(prompts) * draws:
            model = self.settings.load_policy(policy)
            horizon = self.sizes.horizon
            sampling = Sampling(draws=draws, seed=seed, max_new_tokens=horizon, temperature=TEMPERATURE)
            batches = generate(model, self.tokenizer, prompts, sampling, batch_size=self.sizes.sample_batch, skip=done)
            with LineWriter(path) as writer:
                for batch in batches:
                    for record in self._scored(batch, prompts, SCORES[name]):
                        writer.write(record)
                        records.append(record)
            del model, batches
            free_memory()
        kept = {(record["number"], record["draw"]): record for record in records}
        records = [kept[key] for key in sorted(kept)]
        return Answers([prompts[record["number"]] for record in records], records)

    def _scored(self, batch: Sequence[Any], prompts: Sequence[Any], names: str) -> list[dict[str, Any]]:
        asked, texts = [prompts[response.prompt] for response in batch], [response.text for response in batch]
        scores = {name: score(self.scores.scorers[name], asked, texts).require_all(name) for name in names}
        return [
            {
                "number": response.prompt,
                "draw": response.draw,
                "response": response.text,
                "token_ids": list(response.token_ids),
                "finished": response.finished,
                **{name: several[i] for name, several in scores.items()},
            }
            for i, response in enumerate(batch)
        ]
