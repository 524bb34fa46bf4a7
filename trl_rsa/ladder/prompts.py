"""Which constraints hold on which prompts, under which condition: what several share is sampled once for all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.settings import SPLITS
from trl_rsa.ladder.under import Under
from trl_rsa.storage.digests import prompt_key


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one set, and the names of the constraints that have these, under one condition.

    Args:
        prompts (`Sequence`):
            Texts or messages.
        names (`tuple[str, ...]`):
            Of the constraints.
        categories (`Mapping[str, str]`, *optional*):
            Category by key of the prompt, where there is one.
        under ([`Under`], *optional*):
            The condition.
        asked (`Sequence`, *optional*):
            The prompts as the policy gets them, where they are attacked.
        scored (`tuple[str, ...]`, *optional*):
            The constraints whose costs the responses get. By default `names`; of train prompts those of other
            temperatures too: a pair of one conversation has one label.
    """

    prompts: Sequence[Any]
    names: tuple[str, ...]
    categories: Mapping[str, str] = field(default_factory=dict)
    under: Under | None = None
    asked: Sequence[Any] = ()
    scored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", self.asked or self.prompts)
        object.__setattr__(self, "scored", self.scored or self.names)

    def category_of(self, number: int) -> str | None:
        """The category of a prompt, by its place in the set."""
        return self.categories.get(prompt_key(self.prompts[number]))


def prompt_groups(constraints: Sequence[RiskConstraint], seed: int) -> dict[str, list[PromptGroup]]:
    """The groups of each of the sets *train*, *decide* and *certify*.

    Raises:
        ValueError: as [`RiskConstraint.split_prompts`], or if one constraint's prompts judge what another's train.
    """
    sets = {constraint.name: constraint.split_prompts(seed) for constraint in constraints}
    categories = {key: category for constraint in constraints for key, category in constraint.categories().items()}
    _refuse_overlap(sets)
    conditions = {constraint.name: constraint.condition for constraint in constraints}
    groups: dict[str, list[PromptGroup]] = {}
    for split in SPLITS:
        under_of = {name: _of(conditions[name], split) for name in sets}
        prompts_of = {name: sets[name][split] for name in sets}
        shared = _shared_in_part if split == "train" else _shared_whole
        groups[split] = []
        for names, under, prompts, scored in shared(prompts_of, under_of):
            asked = prompts if under is None else [row["prompt"] for row in under.prompts(_rows(prompts), seed)]
            groups[split].append(PromptGroup(prompts, names, categories, under, asked, scored))
    return groups


# Names of constraints, their condition, their prompts, and all constraints whose costs the responses get.
_Shared = Iterator[tuple[tuple[str, ...], Under | None, list[Any], tuple[str, ...]]]


def _shared_whole(prompts_of: Mapping[str, Sequence[Any]], under_of: Mapping[str, Under | None]) -> _Shared:
    """Constraints with the same list of prompts, each estimated on its own list."""
    names_of: dict[Any, list[str]] = {}
    for name, prompts in prompts_of.items():
        names_of.setdefault((tuple(map(prompt_key, prompts)), under_of[name]), []).append(name)
    for (_, under), names in names_of.items():
        yield tuple(names), under, list(prompts_of[names[0]]), ()


def _shared_in_part(prompts_of: Mapping[str, Sequence[Any]], under_of: Mapping[str, Under | None]) -> _Shared:
    """Prompts that the same constraints have. A pair has one label, by the costs of all constraints whose prompt it
    is: what only a part of two lists shares is a group by itself.
    """
    holders: dict[Any, list[str]] = {}  # by prompt and conversation
    for name, prompts in prompts_of.items():
        for prompt in prompts:
            holders.setdefault((prompt_key(prompt), _conversation(under_of[name])), []).append(name)
    parts: dict[Any, tuple[dict[str, None], dict[str, Any]]] = {}
    for name, prompts in prompts_of.items():
        under = under_of[name]
        for prompt in prompts:
            key = prompt_key(prompt)
            names, found = parts.setdefault((tuple(holders[key, _conversation(under)]), under), ({}, {}))
            names[name] = None
            found[key] = prompt
    for (scored, under), (names, found) in parts.items():
        yield tuple(names), under, list(found.values()), scored


def _of(under: Under | None, split: str) -> Under | None:
    return None if under is None else under.of(split)


def _conversation(under: Under | None) -> Under | None:
    """What of a condition changes the conversation, and not only how it goes on; None if nothing does."""
    if under is None or (under.prefill is None and under.attack is None):
        return None
    return replace(under, temperature=None)


def _rows(prompts: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in prompts]


def _refuse_overlap(sets: dict[str, dict[str, list[Any]]]) -> None:
    """Between constraints; within one, `split_prompts` has looked."""
    keys = {(name, split): set(map(prompt_key, sets[name][split])) for name in sets for split in SPLITS}
    for (name, split), (other, other_split) in product(keys, keys):
        shared = keys[name, split] & keys[other, other_split]
        if SPLITS.index(split) < SPLITS.index(other_split) and shared:
            raise ValueError(
                f"You gave {name!r} prompts for {split!r} of which {len(shared)} are among those of {other!r} for "
                f"{other_split!r}, but what is trained or decided on must not judge the result. Give all constraints "
                "the same prompts, or each the three sets, disjoint from the others'."
            )
