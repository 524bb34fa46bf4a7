"""`merge:` of a plan: averages of the models of two stages, as P-SACPO and RSA(P) make them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from trl_rsa.merging.merge import COMBINATIONS, merge_models


FOLDER = "merged"


class MergeEntry(TypedDict):
    """A merge in the manifest."""

    folder: str
    weight: float
    error: float


@dataclass
class MergeSettings:
    """
    Averages that a plan makes after its stages. What follows in the plan starts from its last stage all the same.

    Args:
        stages (`list[str]`):
            Names of two stages.
        weights (`list[float]`):
            Shares of the second one's model; each makes a folder `<output_dir>/merged/<weight>`.
        combination (`str`, *optional*, defaults to `"cat"`):
            Of adapters, as in [`~trl_rsa.merging.merge.merge_models`].
        rank (`int`, *optional*):
            As there.
    """

    stages: list[str]
    weights: list[float]
    combination: Literal["cat", "svd", "full"] = "cat"
    rank: int | None = None

    def __post_init__(self) -> None:
        if len(self.stages) != 2 or self.stages[0] == self.stages[1]:
            raise ValueError(
                f"You set the stages of `merge` to {', '.join(map(str, self.stages)) or 'none'}, but two models are "
                "averaged. Name two stages."
            )
        if not self.weights or any(isinstance(w, bool) or not 0.0 <= w <= 1.0 for w in self.weights):
            raise ValueError(
                f"You set the weights of `merge` to {self.weights}, but each is the second model's share. Set numbers "
                "in [0, 1]."
            )
        if len({f"{weight:g}" for weight in self.weights}) < len(self.weights):
            raise ValueError(f"You set the weights of `merge` to {self.weights}, but each makes a folder. Remove one.")
        if self.combination not in COMBINATIONS:
            raise ValueError(
                f"You set the combination of `merge` to {self.combination!r}, but there are {', '.join(COMBINATIONS)}."
            )


def check_stages(merge: MergeSettings, makes: Mapping[str, str]) -> None:
    """
    Args:
        merge ([`MergeSettings`]):
            Of the plan.
        makes (`Mapping[str, str]`):
            What the stages make, by name.

    Raises:
        ValueError: if there are no such stages, or they are no policies.
    """
    for name in merge.stages:
        if makes.get(name) != "policy":
            policies = ", ".join(name for name, made in makes.items() if made == "policy")
            raise ValueError(
                f"You set the stages of `merge` to {', '.join(merge.stages)}, but no stage {name!r} makes a policy; "
                f"these do: {policies}. Name two of them."
            )


def make_merges(
    merge: MergeSettings, folders: Mapping[str, Path], output_dir: Path, log: Callable[[str], None]
) -> list[MergeEntry]:
    """Makes those that are not there yet. Complete ones are left as they are, so that a killed run goes on."""
    first, second = (str(folders[name]) for name in merge.stages)
    entries: list[MergeEntry] = []
    for weight in merge.weights:
        folder = output_dir / FOLDER / f"{weight:g}"
        made = merge_models(
            [first, second], [1.0 - weight, weight], folder, combination=merge.combination, rank=merge.rank
        )
        error = made.content["error"]
        log(
            f"[merge] {1 - weight:g} of {merge.stages[0]} and {weight:g} of {merge.stages[1]}: {folder}"
            f"{'' if made.made else ', complete already'}; off by {error:.2g} of the move"
        )
        entries.append({"folder": f"{FOLDER}/{folder.name}", "weight": weight, "error": error})
    return entries
