"""The sets of the track, which share no prompt: made once from the sources, and kept as files beside the runs.

A prompt belongs to the first role that has it, in the order of `ROLES`: what judges is taken out of what trains.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.real.settings import DATA_SEED, Sizes
from benchmarks.real.sources import Source, Sources
from trl_rsa.data.schema import Row, Text
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.files import write_json


ROLES = ("safety", "harmless", "helpful", "a", "b", "r", "safe")
SAFETY = ("train", "decide", "certify")
RESPONSES = ("response", "completion", "answer", "response_0", "response_1")
VERDICTS = ("score", "grade", "severity", "is_safe", "is_unsafe", "unsafe", "safe")
# Answers that are trained on may be longer than what is sampled: they must not be cut.
LONGEST_ANSWER = 2  # horizons


@dataclass
class Sets:
    """
    Args:
        folder (`Path`):
            Where the files are.
        files (`dict[str, list[str]]`):
            Names of the files, by set: `train`, `decide`, `certify`, `harmless`, `helpful_train`, `helpful_test`,
            `sft`, and the rows of the score models `a`, `b`, `h` and `r`.
        counts (`dict[str, dict[str, int]]`):
            Rows and prompts, by set. These may go into the repository.
    """

    folder: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def rows(self, name: str) -> list[Row]:
        return [
            json.loads(line)
            for file in self.files[name]
            for line in (self.folder / file).read_text(encoding="utf-8").splitlines()
        ]

    def prompts(self, name: str) -> list[Text]:
        return [row["prompt"] for row in self.rows(name)]

    def paths(self, name: str) -> list[str]:
        return [str(self.folder / file) for file in self.files[name]]

    def add(self, name: str, rows: Sequence[Row]) -> None:
        file = f"{name}-{len(self.files.get(name, ()))}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.folder / file).write_text(text, encoding="utf-8")
        self.files.setdefault(name, []).append(file)
        several = self.rows(name)
        keys = {prompt_key(row["prompt"]) for row in several}
        self.counts[name] = {"rows": len(several), "prompts": len(keys)}


def make_sets(folder: Path, sources: Sources, sizes: Sizes, tokenizer: Any) -> Sets:
    """
    Reads the sources and writes the sets, or reads the sets of an earlier start.

    Args:
        folder (`Path`):
            Outside the repository: the texts are in it.
        sources ([`Sources`]):
            By role.
        sizes ([`Sizes`]):
            How much of each.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Of the model: lengths count its tokens.

    Raises:
        ValueError: if the sources hold too little for one of the sets.
    """
    index = folder / "sets.json"
    if index.exists():
        return Sets(folder, **json.loads(index.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    sets, maker = Sets(folder), _Maker(sizes, tokenizer)
    safety = maker.claim([row for source in sources["safety"] for row in source.prompts()])
    for name in SAFETY:
        sets.add(name, maker.take(safety, getattr(sizes, name), name))
    harmless = [row for source in sources["harmless"] for row in source.prompts() if row["benign"] is not False]
    sets.add("harmless", maker.take(maker.claim(harmless), sizes.refusal, "harmless"))
    every = maker.claim([row for source in sources["helpful"] for row in source.pairs()])
    helpful = [row for row in every if maker.short(row, "chosen", "rejected")]
    by_prompt = _by_prompt(helpful)
    test = maker.take(list(by_prompt), max(sizes.helpful, sizes.texts), "helpful_test")
    sets.add("helpful_test", [by_prompt[key][0] for key in test])
    held_out = set(test)
    unseen = [row for row in helpful if prompt_key(row["prompt"]) not in held_out]
    sets.add("helpful_train", maker.take(unseen, sizes.helpful_steps * sizes.batch_size, "helpful_train", most=True))
    for role in ("a", "b", "r"):
        read = [maker.judged(source) for source in sources[role]]
        maker.close()
        shares = [source.share for source in sources[role]]
        for rows, share in zip(read, shares, strict=True):
            sets.add(role, maker.choose(rows, round(sizes.scored_rows * share / sum(shares))))
    safe = [row for source in sources["safe"] for row in source.safe()]
    safe = [row for row in maker.claim(safe) if maker.short(row, "completion")]
    sets.add("sft", maker.take(safe, sizes.sft_steps * sizes.sft_batch, "sft", most=True))
    # What a user has: the reward model learns from the helpful stage's own data, long answers too.
    seen = [maker.shortened(row) for row in every if prompt_key(row["prompt"]) not in held_out]
    sets.add("h", maker.choose(seen, sizes.scored_rows))
    write_json(index, {"files": sets.files, "counts": sets.counts})
    return sets


class _Maker:
    """Takes rows for one role after the other; a prompt that an earlier role has is left out."""

    def __init__(self, sizes: Sizes, tokenizer: Any):
        self.sizes, self.tokenizer = sizes, tokenizer
        self.taken: set[str] = set()
        self.own: set[str] = set()

    def claim(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of one role whose prompts are new and short enough, in random order."""
        found = self._new(rows)
        self.close()
        random.Random(DATA_SEED).shuffle(found)
        return found

    def close(self) -> None:
        """The role is complete: its prompts are not for the next."""
        self.taken |= self.own
        self.own = set()

    def _new(self, rows: Iterable[Row]) -> list[Row]:
        found = []
        for row in rows:
            key = prompt_key(row["prompt"])
            if key not in self.taken and self._tokens(row["prompt"]) <= self.sizes.longest_prompt:
                self.own.add(key)
                found.append(dict(row))
        return found

    def take(self, rows: list[Any], count: int, name: str, most: bool = False) -> list[Any]:
        """Removes so many rows from the list, and returns them; as many as there are, with `most`."""
        taken, rest = rows[:count], rows[count:]
        if not taken or (len(taken) < count and not most):
            raise ValueError(
                f"The data have {len(taken)} rows for the set {name!r}, but {count} are needed. Give more data, or "
                "smaller sizes in benchmarks/real/settings.py."
            )
        rows[:] = rest
        return taken

    def judged(self, source: Source) -> list[Row]:
        """Rows for a score model: with responses no longer than those that it will score."""
        rows = self._new(source.pairs() if source.kind == "pairs" else source.judged())
        return [self.shortened(row) for row in rows]

    def choose(self, rows: list[Row], count: int) -> list[Row]:
        """Some rows, whole prompts at a time; those with different verdicts first where a prompt has many."""
        draws = random.Random(DATA_SEED)
        by_prompt = list(_by_prompt(rows).values())
        draws.shuffle(by_prompt)
        chosen: list[Row] = []
        for several in by_prompt:
            draws.shuffle(several)
            chosen += _different_first(several)[: self.sizes.rows_per_prompt]
            if len(chosen) >= count:
                break
        return chosen

    def short(self, row: Row, *answers: str) -> bool:
        longest = LONGEST_ANSWER * self.sizes.horizon
        return all(self._tokens(row[answer]) <= longest for answer in answers)

    def _tokens(self, text: Text) -> int:
        turns = [text] if isinstance(text, str) else [message["content"] for message in text]
        return sum(len(ids) for ids in self.tokenizer(turns, add_special_tokens=False)["input_ids"])

    def shortened(self, row: Row) -> Row:
        changed = {name: self._cut(row[name]) for name in RESPONSES if isinstance(row.get(name), str)}
        for side in ("chosen", "rejected"):
            if side in row:
                changed[side] = [{"role": "assistant", "content": self._cut(row[side][0]["content"])}]
        return {**row, **changed}

    def _cut(self, text: str) -> str:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= self.sizes.horizon:
            return text
        return self.tokenizer.decode(ids[: self.sizes.horizon], skip_special_tokens=True)


def _by_prompt(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(prompt_key(row["prompt"]), []).append(row)
    return groups


def _different_first(rows: Sequence[Row]) -> list[Row]:
    seen: set[str] = set()
    first, others = [], []
    for row in rows:
        verdict = str([row.get(name) for name in VERDICTS])
        (others if verdict in seen else first).append(row)
        seen.add(verdict)
    return first + others
