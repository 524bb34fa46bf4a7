"""The rows of a score model: read from all sources, and held out by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from trl_rsa.data.judged import JudgedData, JudgedRow, count_judgements, load_judged
from trl_rsa.data.load import has_no_splits
from trl_rsa.data.spec import is_dataset_spec
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.storage.digests import prompt_key


@dataclass(frozen=True)
class Rows:
    """Rows to train on and rows to measure on, which share no prompt."""

    train: list[JudgedRow]
    held_out: list[JudgedRow]
    sources: list[JudgedData]
    evaluated: list[JudgedData] = field(default_factory=list)  # of `eval_data`
    shared: int = 0  # rows to train on that were left out, because their prompt is measured on

    def __str__(self) -> str:
        lines = [str(source) for source in (*self.sources, *self.evaluated)]
        for name, rows in (("to train on", self.train), ("held out", self.held_out)):
            said = ", ".join(f"{count:,} {what}" for what, count in count_judgements(rows).items())
            lines.append(f"{name}: {len(rows):,} rows of {len(prompts_of(rows)):,} prompts; {said}")
        if self.shared:
            share = self.shared / (self.shared + len(self.train))
            lines.append(
                f"{self.shared:>9,}  rows not trained on, {share:.1%} of all, because their prompt is measured on"
            )
        return "\n".join(lines)


def read_rows(arguments: ScoreModelArguments, seed: int) -> Rows:
    """
    Reads `data` and `eval_data`, and holds prompts out if there is no `eval_data`.

    Which prompts are held out depends on the prompt and the seed alone: two models trained on different judgements of
    the same data are measured on the same prompts.
    """
    preferred_by = arguments.preferred_by or {"reward": "better", "cost": "safer"}[str(arguments.objective)]

    def read(sources: Sequence[str], split: str | None) -> list[JudgedData]:
        return [
            load_judged(source, arguments.scale, preferred_by=preferred_by, split=_split_of(source, split), seed=seed)
            for source in sources
        ]

    sources = read(arguments.data or [], arguments.split)
    rows = [row for source in sources for row in source.rows]
    evaluated = read(arguments.eval_data or [], arguments.eval_split)
    if arguments.eval_data:
        held_out = [row for source in evaluated for row in source.rows]
        taken = prompts_of(held_out)
        train = [row for row in rows if prompt_key(row.prompt) not in taken]
        shared = len(rows) - len(train)
    else:
        train, held_out = hold_out(rows, arguments.held_out, seed)
        shared = 0
    if not train:
        raise ValueError(
            f"Of {len(rows)} rows none is left to train on, because their prompts are all measured on. Give more "
            "data, or a smaller held_out."
        )
    return Rows(train, _first_prompts(held_out, arguments.held_out_prompts, seed), sources, evaluated, shared)


def _split_of(source: str, split: str | None) -> str | None:
    """A single file has no splits; Safe RLHF's names say theirs."""
    return None if has_no_splits(source) or is_dataset_spec(source) else split


def hold_out(rows: Sequence[JudgedRow], share: float, seed: int) -> tuple[list[JudgedRow], list[JudgedRow]]:
    """Train and held out. At least one prompt is held out, unless the share is 0 or there is only one."""
    places = {key: _place(key, seed) for key in prompts_of(rows)}
    chosen = {key for key, place in places.items() if place < share}
    if share and not chosen and len(places) > 1:
        chosen = {min(places, key=lambda key: places[key])}
    return (
        [row for row in rows if prompt_key(row.prompt) not in chosen],
        [row for row in rows if prompt_key(row.prompt) in chosen],
    )


def _first_prompts(rows: list[JudgedRow], most: int | None, seed: int) -> list[JudgedRow]:
    if most is None:
        return rows
    kept = set(sorted(prompts_of(rows), key=lambda key: _place(f"{key} measured", seed))[:most])
    return [row for row in rows if prompt_key(row.prompt) in kept]


def prompts_of(rows: Sequence[JudgedRow]) -> set[str]:
    return {prompt_key(row.prompt) for row in rows}


def _place(key: str, seed: int) -> float:
    """A number in [0, 1) that stands for the prompt."""
    return int.from_bytes(sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
