"""Which constraints hold on which prompts, under which condition: what several share is sampled once for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.settings import SPLITS
from trl_rsa.ladder.under import Under
from trl_rsa.storage.digests import prompt_key


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one set, and the names of the constraints that have exactly these, under one condition.

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
    groups: dict[str, list[PromptGroup]] = {}
    conditions = {constraint.name: constraint.condition for constraint in constraints}
    _refuse_partly_shared(sets, conditions)
    for split in SPLITS:
        names_of: dict[Any, list[str]] = {}
        context_of: dict[Any, list[str]] = {}
        for name in sets:
            keys, under = tuple(map(prompt_key, sets[name][split])), _of(conditions[name], split)
            names_of.setdefault((keys, under), []).append(name)
            context_of.setdefault((keys, _conversation(under)), []).append(name)
        groups[split] = []
        for (keys, under), names in names_of.items():
            prompts, scored = sets[names[0]][split], context_of[keys, _conversation(under)]
            asked = prompts if under is None else [row["prompt"] for row in under.prompts(_rows(prompts), seed)]
            groups[split].append(
                PromptGroup(prompts, tuple(names), categories, under, asked, tuple(scored if split == "train" else ()))
            )
    return groups


def _of(under: Under | None, split: str) -> Under | None:
    return None if under is None else under.of(split)


def _conversation(under: Under | None) -> Under | None:
    """What of a condition changes the conversation, and not only how it goes on; None if nothing does."""
    if under is None or (under.prefill is None and under.attack is None):
        return None
    return replace(under, temperature=None)


def _refuse_partly_shared(sets: dict[str, dict[str, list[Any]]], conditions: Mapping[str, Under | None]) -> None:
    """A pair has one label, with the costs of all constraints whose prompt it is. What only some of a list share would
    be asked twice, and each half labelled by a part of the costs."""
    train = {name: tuple(map(prompt_key, sets[name]["train"])) for name in sets}
    for name, other in combinations(train, 2):
        shared = set(train[name]) & set(train[other])
        same = _conversation(_of(conditions[name], "train")) == _conversation(_of(conditions[other], "train"))
        if same and shared and train[name] != train[other]:
            raise ValueError(
                f"You gave {name!r} and {other!r} train prompts of which {len(shared)} are the same, but the lists "
                "are not, and a pair has one label, by the costs of both. Give them the same list, or lists that have "
                "nothing in common."
            )


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
