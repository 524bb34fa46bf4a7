"""Raw samples: datasets by the names of Safe RLHF's command line, and those that users write as a class."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar, TypedDict

import numpy as np
from torch.utils.data import Dataset, Subset

from trl_rsa.data import hh
from trl_rsa.data.build import Tally, read_each
from trl_rsa.data.load import open_named
from trl_rsa.data.schema import Row
from trl_rsa.data.spec import KNOWN_SPECS, split_spec


class RawSample(TypedDict, total=False):
    """
    A prompt with one answer, or with two and what was judged of them. Which keys are needed depends on the dataset
    that is made of them.

    Args:
        input (`str` or `list[str]`):
            What the user says; a list is a dialogue, which the user begins and ends.
        answer, other_answer (`str`):
            The answers.
        dialogue (`list[str]`):
            For supervised training: a whole dialogue, in place of `input` and `answer`.
        better, safer (`bool`):
            Whether `answer` is better, or safer, than `other_answer`.
        is_safe, is_other_safe (`bool`):
            Whether `answer`, or `other_answer`, is safe.
    """

    input: str | list[str]
    answer: str
    other_answer: str
    dialogue: list[str]
    better: bool
    safer: bool
    is_safe: bool
    is_other_safe: bool


def parse_dataset(string: str) -> tuple[str, dict[str, Any]]:
    """`NAME[:PROPORTION[:PATH]]` as Safe RLHF's datasets take it; `N/-1` becomes the fraction −N.

    ```python
    >>> parse_dataset("PKU-SafeRLHF/train:0.5")
    ('PKU-SafeRLHF/train', {'proportion': 0.5})
    ```
    """
    name, share, count, path = split_spec(string)
    attributes: dict[str, Any] = {"proportion": share if count is None else Fraction(count, -1)}
    return name, attributes if path is None else attributes | {"path": path}


class RawDataset(Dataset):
    """
    A dataset of one's own, known by its `NAME` as soon as the class is defined:

    ```python
    class MyDataset(RawDataset):
        NAME = "mine"
        ALIASES = ("mine/train",)

        def __init__(self, path=None): ...
        def __len__(self): ...
        def __getitem__(self, index) -> RawSample: ...
    ```
    """

    NAME: ClassVar[str]
    ALIASES: ClassVar[Collection[str]] = ()
    _classes: ClassVar[dict[str, type["RawDataset"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        names = [cls.__dict__["NAME"], *cls.__dict__.get("ALIASES", ())] if "NAME" in cls.__dict__ else []
        for name in names:
            if not isinstance(name, str) or not name:
                raise ValueError(f"You named a dataset {name!r}, but a name is a text. Set NAME and ALIASES to texts.")
            other = RawDataset._classes.get(name)
            if name in KNOWN_SPECS or (other is not None and other.__qualname__ != cls.__qualname__):
                raise ValueError(f"You named a dataset {name!r}, but that name is taken. Choose another NAME.")
            RawDataset._classes[name] = cls

    @staticmethod
    def load(name: str, /, *args: Any, **kwargs: Any) -> "RawDataset":
        """The dataset of that name: the user's, or a published one (with `path`: a local copy of it)."""
        if name in RawDataset._classes:
            return RawDataset._classes[name](*args, **kwargs)
        if name in KNOWN_SPECS:
            return PublishedDataset(name, *args, **kwargs)
        known = sorted(known for known in KNOWN_SPECS if not known.startswith("PKU-Alignment/"))
        raise ValueError(
            f"You set the dataset to {name!r}, but there is none of that name. Use one of "
            f"{', '.join([*RawDataset._classes, *known])}, or define a RawDataset with that NAME and import it first. "
            "A file goes behind a name: PKU-SafeRLHF/train:0.5:pairs.jsonl."
        )

    make = load

    @classmethod
    def is_defined(cls, name: str) -> bool:
        """Whether a user's class has that name."""
        return name in RawDataset._classes

    def __getitem__(self, index: int) -> RawSample:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[RawSample]:
        return (self[index] for index in range(len(self)))

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int = 42
    ) -> tuple[Subset, Subset]:
        """A share of the samples is held out. Prompts may be on both sides: see `trl_rsa.data.split_by_prompt`."""
        train, test = split_indices(len(self), split_ratio, shuffle, seed)
        return Subset(self, train), Subset(self, test)


class PublishedDataset(RawDataset):
    """PKU-SafeRLHF or HH-RLHF as raw samples. A row that is damaged is left out here; `left_out` counts them."""

    def __init__(self, name: str, path: str | None = None):
        self.NAME = name  # type: ignore[misc]
        spec = KNOWN_SPECS[name] if path is None else replace(KNOWN_SPECS[name], source=path)
        _, rows = open_named(spec, None, None, None)
        tally = Tally(rows.name, strict=False)
        read = _pku_sample if spec.format == "pku-safe-rlhf" else _hh_sample
        self.samples = read_each(rows, tally, lambda place, row: read(row))
        self.left_out = tally.skipped.total()

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)


def _pku_sample(row: Row) -> RawSample:
    """Whatever the row has; what it lacks shows when a dataset is made of the samples."""
    sample: dict[str, Any] = {"input": row.get("prompt")}
    sample |= {"answer": row.get("response_0"), "other_answer": row.get("response_1")}
    for key, column in (("better", "better_response_id"), ("safer", "safer_response_id")):
        if row.get(column) in (0, 1):
            sample[key] = row[column] == 0
    for key, column in (("is_safe", "is_response_0_safe"), ("is_other_safe", "is_response_1_safe")):
        if row.get(column) in (0, 1):
            sample[key] = bool(row[column])
    return {key: value for key, value in sample.items() if value is not None}  # type: ignore[return-value]


def _hh_sample(row: Row) -> RawSample:
    pair = hh.adapt(row)
    texts = [[message["content"] for message in part] for part in (pair.prompt, pair.chosen, pair.rejected)]  # type: ignore[index]
    return {"input": texts[0], "answer": texts[1][0], "other_answer": texts[2][0], "better": True}


def split_indices(size: int, split_ratio: float, shuffle: bool, seed: int) -> tuple[list[int], list[int]]:
    """Places to train with and to test with."""
    held_out = round(size * split_ratio)
    if not 0 < held_out < size:
        raise ValueError(
            f"You set split_ratio={split_ratio}, but of {size} samples this leaves {size - held_out} to train and "
            f"{held_out} to test. Set it in (0, 1), or give more samples."
        )
    places = np.arange(size)
    if shuffle:
        np.random.default_rng(seed).shuffle(places)
    return places[:-held_out].tolist(), places[-held_out:].tolist()
