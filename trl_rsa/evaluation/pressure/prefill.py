"""Prefill: responses that are made to begin like another's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from trl_rsa.evaluation.pressure.base import Pressure, Work, read_number
from trl_rsa.evaluation.pressure.beginnings import first_tokens, read_beginnings, texts_of
from trl_rsa.evaluation.pressure.condition import Condition
from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.responses import sample_responses
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.records import read_records


@dataclass(frozen=True)
class Prefill(Pressure):
    """The first `tokens` tokens of a response are forced: those of a given, harmful response to the prompt, or else
    of a response of the reference."""

    tokens: int = 5
    kind = "prefill"

    @property
    def name(self) -> str:
        return f"prefill:{self.tokens}"

    @property
    def in_words(self) -> str:
        return Condition(prefill=self.tokens).in_words

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(int(read_number(strength, cls.kind, 1, True, "prefill:5")))

    def needs(self) -> tuple[str, ...]:
        return "reference", "beginnings"

    def prompts(self, rows: Sequence[PromptRow], work: Work) -> list[PromptRow]:
        """Of a file of beginnings, the prompts that have one there."""
        path = work.sources.beginnings
        if path is None:
            return list(rows)
        known = read_beginnings(path)
        kept = [row for row in rows if prompt_key(row["prompt"]) in known]
        if not kept:
            raise ValueError(
                f"You set beginnings to {path!r}, but none of the {len(rows)} prompts has a response there. Give a "
                "file of responses to these prompts, or a reference instead."
            )
        return kept

    def beginnings(self, rows: Sequence[PromptRow], tokenizer: Any, work: Work) -> list[list[int]]:
        encoder, prompts = ConversationEncoder(tokenizer, work.sampling.template), [row["prompt"] for row in rows]
        if (path := work.sources.beginnings) is not None:
            texts = texts_of(prompts, read_beginnings(path), path)
            return [first_tokens(encoder, text, self.tokens) for text in texts]
        return self._of_reference(rows, encoder, work)

    def _of_reference(self, rows: Sequence[PromptRow], encoder: ConversationEncoder, work: Work) -> list[list[int]]:
        """Drawn once, for all models, and kept in the folder."""
        reference = work.sources.reference
        assert reference is not None
        path = work.folder / "beginnings.jsonl"
        sampling = replace(work.sampling, draws=1, max_new_tokens=self.tokens)
        settings: dict[str, Any] = {"batch_size": work.batch_size, "device": work.device, "dtype": work.dtype}
        phase = f"{self.name}: sampling the reference"
        settings["progress"] = lambda done: work.progress(phase, done, len(rows))
        sample_responses(path, "reference", reference, rows, sampling, **settings)
        drawn = {prompt_key(record["prompt"]): record for record in read_records(path, scores=())}
        found = [drawn[prompt_key(row["prompt"])] for row in rows]
        return [first_tokens(encoder, one["response"], self.tokens, one["token_ids"]) for one in found]
