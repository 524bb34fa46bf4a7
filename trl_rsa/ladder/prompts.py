"""Which constraints hold on which prompts: prompts that several share are sampled once and scored for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.settings import SPLITS
from trl_rsa.storage.digests import prompt_key


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one set, and the names of the constraints that have exactly these.

    Args:
        prompts (`Sequence`):
            Texts or messages.
        names (`tuple[str, ...]`):
            Of the constraints.
        categories (`Mapping[str, str]`, *optional*):
            Category by key of the prompt, where there is one.
    """

    prompts: Sequence[Any]
    names: tuple[str, ...]
    categories: Mapping[str, str] = field(default_factory=dict)

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
    for split in SPLITS:
        names_of: dict[tuple[str, ...], list[str]] = {}
        for name in sets:
            names_of.setdefault(tuple(map(prompt_key, sets[name][split])), []).append(name)
        groups[split] = [PromptGroup(sets[names[0]][split], tuple(names), categories) for names in names_of.values()]
    return groups


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
