"""Rows to pairs, with every row tallied: used, skipped or unpaired."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from trl_rsa.data import beavertails, hh, pku, preference
from trl_rsa.data.files import PlacedRow
from trl_rsa.data.pair_rules import LeftOut
from trl_rsa.data.schema import Pair, Row, RowError, check_pair
from trl_rsa.data.templates import render


_T = TypeVar("_T")


@dataclass
class Tally:
    """Counts rows as they pass; with `strict`, the first one that has to be skipped is an error. A row that the pair
    rule leaves out is sound, and never one."""

    source: str
    strict: bool
    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unpaired: Counter[str] = field(default_factory=Counter)
    by_rule: Counter[str] = field(default_factory=Counter)

    def skip(self, place: str, error: RowError) -> None:
        if isinstance(error, LeftOut):
            self.by_rule[str(error)] += 1
            return
        if self.strict:
            raise ValueError(
                f"You set strict=True, but {place} of {self.source} cannot be used: {error}. Repair the row, or set "
                "strict=False to skip and count such rows."
            )
        self.skipped[str(error)] += 1


def read_each(rows: Iterable[PlacedRow], tally: Tally, read: Callable[[str, Row], _T]) -> list[_T]:
    """What `read` makes of each row and its place; a row that it refuses with a [`RowError`] is tallied."""
    found = []
    for place, row in rows:
        tally.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            found.append(read(place, row))
        except RowError as error:
            tally.skip(place, error)
    return found


def has_prompts(rows: Iterable[PlacedRow]) -> bool:
    """Whether any row has a prompt: if so, one without it is damaged. Data without any are gone through once."""
    return any(not isinstance(row, RowError) and row.get("prompt") is not None for _, row in rows)


def choose_adapter(
    format: str, preferred_by: str, template: str | None, implicit: bool, rule: str | None = None
) -> Callable[[Row], Pair]:
    adapters: dict[str, Callable[[Row], Pair]] = {
        "pku-safe-rlhf": lambda row: pku.adapt(row, preferred_by, rule),
        "hh-rlhf": hh.adapt,
        "preference": lambda row: preference.adapt(row, template, implicit),
    }
    return adapters.get(format, adapters["preference"])


def build_from_pairs(
    rows: Iterable[PlacedRow],
    tally: Tally,
    adapt: Callable[[Row], Pair],
    template: str | None,
    eos_token: str | None,
) -> list[Pair]:
    """One pair per row, all of one kind: TRL takes a dataset either as text or as messages."""
    first: Pair | None = None

    def read(place: str, row: Row) -> Pair:
        nonlocal first
        pair = render(check_pair(adapt(row)), template, eos_token)
        first = first or pair
        if isinstance(pair.prompt, str) != isinstance(first.prompt, str):
            raise RowError('text among messages, or the reverse (set template="chat")')
        return pair

    pairs = read_each(rows, tally, read)
    tally.used = len(pairs)
    return pairs


def build_from_answers(
    rows: Iterable[PlacedRow],
    tally: Tally,
    template: str | None,
    eos_token: str | None,
    max_pairs_per_prompt: int | None,
    seed: int,
) -> list[Pair]:
    answers = read_each(rows, tally, lambda place, row: beavertails.read_answer(row, place))
    most = max_pairs_per_prompt or beavertails.DEFAULT_MAX_PAIRS_PER_PROMPT
    pairs, tally.used, tally.unpaired = beavertails.pair_answers(answers, most, seed, tally.skip)
    return [render(pair, template, eos_token) for pair in pairs]
