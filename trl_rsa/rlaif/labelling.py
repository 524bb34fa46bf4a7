"""Labelling: what is labelled, by what and by whom, checked before anybody is asked."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from trl_rsa.rlaif.chat import LocalChat, open_chat
from trl_rsa.rlaif.constitution import Constitution, Principle, draw_principle
from trl_rsa.rlaif.pairs import Source, Unlabelled, read_pairs, read_prompts
from trl_rsa.scoring.endpoint import ChatEndpoint
from trl_rsa.scoring.judge import PairwiseJudge
from trl_rsa.scoring.scorer import keyword_only


METHODS = {
    "compare": "the judge compares two responses by one principle, in both orders",
    "revise": "the judge criticises a response by one principle and rewrites it: (revised, original)",
}


@dataclass
class Labelling:
    """
    What to label, and how.

    Args:
        source (`str` or `list`):
            Where the rows are.
        constitution ([`~rlaif.constitution.Constitution`]):
            By what.
        judge (`str`, or a chat endpoint):
            `URL#MODEL`, the folder or Hub id of a model, or one that is open.
        output (`Path`):
            The .jsonl file for the trainer. What is done lies beside it, in `<output>.lines.jsonl`.
        method (`str`, *optional*, defaults to `"compare"`):
            One of [`METHODS`].
        ties (`str`, *optional*, defaults to `"drop"`):
            `"keep"` writes pairs that the judge does not tell apart too, and a column `pair_label`: the probability
            that `chosen` is better, ½ for these.
        rounds (`int`, *optional*, defaults to 1):
            Of critique and revision, each by a principle of its own.
        seed (`int`, *optional*, defaults to 42):
            Of the principles.
        options (`Mapping`, *optional*):
            Of the judge and its endpoint.
        data_options (`Mapping`, *optional*):
            Of [`~trl_rsa.data.load_preferences`]: `format`, `split`, …
        limit (`int`, *optional*):
            The first so many rows.
    """

    source: Any
    constitution: Constitution
    judge: Any
    output: Path
    method: Literal["compare", "revise"] = "compare"
    ties: Literal["drop", "keep"] = "drop"
    rounds: int = 1
    seed: int = 42
    options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        self.output = Path(self.output)
        for name, known in (("method", METHODS), ("ties", ("drop", "keep"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"You set {name}={getattr(self, name)!r}, but it is one of {', '.join(known)}. Set it."
                )
        for name, value in (("rounds", self.rounds), ("limit", self.limit)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"You set {name}={value!r}, but it is a whole number from 1 on. Set such a one.")
        if self.output.suffix != ".jsonl":
            raise ValueError(f"You set output to {self.output}, but only .jsonl can be written. Use such a name.")
        if not self.output.parent.is_dir():
            raise FileNotFoundError(
                f"You set output to {self.output}, but there is no folder {self.output.parent}. Make it first."
            )
        takes = [*keyword_only(ChatEndpoint if self._is_remote() else LocalChat), *keyword_only(PairwiseJudge)]
        if self.method == "revise":
            takes.remove("repeats")  # a revision is no verdict, of which there could be several
        if not self._is_remote():
            takes.remove("extra_body")
        for name in self.options:
            if name == "extra_body" and not self._is_remote():
                raise ValueError(
                    f"You set the judge's option 'extra_body', but {getattr(self.judge, 'model', self.judge)} is a "
                    "model in this process, to which no request is sent that could have further fields. Remove it."
                )
            if name not in takes:
                raise ValueError(
                    f"You set the judge's option {name!r}, but {self.method} takes {', '.join(takes)}. Remove it."
                )
        self.principles = self.constitution.for_task(self.method)

    def _is_remote(self) -> bool:
        return "://" in self.judge if isinstance(self.judge, str) else not isinstance(self.judge, LocalChat)

    def read(self) -> Source:
        """The rows."""
        read = read_pairs if self.method == "compare" else read_prompts
        return read(self.source, self.data_options, self.limit)

    def open(self) -> Any:
        return open_chat(self.judge, self.options) if isinstance(self.judge, str) else self.judge

    def key(self, row: Unlabelled, chat: Any) -> str:
        """What a line on disk answers: other settings, another constitution or another text have another key."""
        return self._digest(row, chat.model, chat.url)

    def early_key(self, row: Unlabelled, chat: Any) -> str:
        """The key of versions that left out where the judge answers."""
        return self._digest(row, chat.model)

    def _digest(self, row: Unlabelled, *judge: str) -> str:
        settings = {name: self.options[name] for name in sorted(self.options) if name in keyword_only(PairwiseJudge)}
        content = [asdict(row), self.constitution.digest, self.method, self.rounds, self.seed, settings, *judge]
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def principle(self, row: Unlabelled, turn: int = 0) -> Principle:
        return draw_principle(self.principles, self.seed, json.dumps([row.prompt, row.first, row.second]), turn)
