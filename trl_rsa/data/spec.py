"""Safe RLHF's names for its datasets, as written on its command line: `NAME[:PROPORTION[:PATH]]`."""

import math
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetSpec:
    """A parsed dataset specification.

    Args:
        source (`str`):
            Hub id, or the local file or folder that replaces it.
        format (`str`):
            One of [`FORMATS`].
        split (`str`):
            Split to read; a single local file has none and is read whole.
        revision (`str`, *optional*):
            Branch or commit on the Hub. `PKU-Alignment/PKU-SafeRLHF` holds its data from before June 2024 on `v0`.
        data_dir (`str`, *optional*):
            Subfolder of the source, used where it exists.
        proportion (`float`, *optional*, defaults to 1):
            Share of the pairs to draw; above 1 pairs are repeated.
        num_samples (`int`, *optional*):
            Exact number of pairs to draw, instead of a proportion.
    """

    source: str
    format: str
    split: str
    revision: str | None = None
    data_dir: str | None = None
    proportion: float = 1.0
    num_samples: int | None = None


def _known_specs() -> dict[str, DatasetSpec]:
    """Safe RLHF's names and aliases. Its HH-RLHF is the processed copy, with the context split into turns."""
    specs = {}
    for name, splits in {"": ("train", "test"), "-30K": ("train", "test"), "-10K": ("train",)}.items():
        for split in splits:
            source = f"PKU-Alignment/PKU-SafeRLHF{name}"
            for spelling in (f"PKU-SafeRLHF{name}/{split}", f"{source}/{split}"):
                specs[spelling] = DatasetSpec(source, "pku-safe-rlhf", split)
    for part in ("harmless", "helpful"):
        for split in ("train", "test"):
            spec = DatasetSpec("PKU-Alignment/processed-hh-rlhf", "hh-rlhf", split, data_dir=f"{part}-base")
            for spelling in (
                f"hh-rlhf-{part}-preference/{split}",
                f"PKU-Alignment/hh-rlhf-{part}-preference/{split}",
                f"hh-rlhf-preference/{part}-base/{split}",
                f"hh-{part}-preference/{split}",
                f"hh-preference/{part}-base/{split}",
            ):
                specs[spelling] = spec
    return specs


KNOWN_SPECS = _known_specs()


def is_dataset_spec(text: str) -> bool:
    """Whether `text` begins with one of Safe RLHF's dataset names."""
    return text.split(":", 1)[0] in KNOWN_SPECS


def parse_dataset_spec(spec: str) -> DatasetSpec:
    """Parses `NAME[:PROPORTION[:PATH]]`; PROPORTION is a float, `a/b`, or `N/-1` for exactly N pairs.

    ```python
    >>> parse_dataset_spec("PKU-SafeRLHF-30K/train:0.5").proportion
    0.5
    >>> parse_dataset_spec("PKU-SafeRLHF/train:100/-1:pairs.jsonl").num_samples
    100
    ```
    """
    name, share, count, path = split_spec(spec)
    if name not in KNOWN_SPECS:
        raise ValueError(
            f"You set the dataset to {spec!r}, but {name!r} is not a name that Safe RLHF knows. Use one of "
            f"{', '.join(sorted(known for known in KNOWN_SPECS if not known.startswith('PKU-Alignment/')))}."
        )
    known = KNOWN_SPECS[name]
    return DatasetSpec(
        source=known.source if path is None else path,
        format=known.format,
        split=known.split,
        data_dir=known.data_dir,
        proportion=share,
        num_samples=count,
    )


def split_spec(spec: str) -> tuple[str, float, int | None, str | None]:
    """Name, share, number of pairs and path of `NAME[:PROPORTION[:PATH]]`, whatever the name; `~` is written out."""
    name, _, rest = spec.partition(":")
    proportion, has_path, path = rest.partition(":")
    if has_path and not path:
        raise ValueError(
            f"You set the dataset to {spec!r}, but nothing follows its second colon. Give a path, or drop the colon."
        )
    share, count = _parse_proportion(proportion.strip(), spec)
    return name, share, count, os.path.expanduser(path) if has_path else None


def _parse_proportion(text: str, spec: str) -> tuple[float, int | None]:
    """The share and, for `N/-1`, the exact number of pairs."""
    try:
        if not text:
            return 1.0, None
        numerator, slash, denominator = text.partition("/")
        if slash and denominator.strip() == "-1":
            count = int(numerator)
            if count > 0:
                return 1.0, count
        else:
            share = float(numerator) / float(denominator) if slash else float(numerator)
            if share > 0 and math.isfinite(share):
                return share, None
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(
        f"You set the proportion {text!r} in {spec!r}, but it is neither a share above 0 nor a number of pairs. "
        "Write a float (0.5), a fraction (1/2), or N/-1 for exactly N pairs."
    )
