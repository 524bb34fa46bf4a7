"""The prompts of what stands behind `--datasets`."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset
from trl_rsa.compat.safe_rlhf.datasets.tokenized import draw
from trl_rsa.data.spec import KNOWN_SPECS, split_spec
from trl_rsa.evaluation.prompt_sets import PromptRow, load_prompts
from trl_rsa.storage.digests import prompt_key


def read_prompts(specs: Sequence[str], seed: int) -> list[PromptRow]:
    """The distinct prompts of all datasets, in their order.

    A name is that of a [`RawDataset`] that a user has defined, one of Safe RLHF's, or a file or folder.
    """
    rows: dict[str, PromptRow] = {}
    for spec in specs:
        for row in _read(spec, seed):
            rows.setdefault(prompt_key(row["prompt"]), row)
    return list(rows.values())


def _read(spec: str, seed: int) -> list[PromptRow]:
    name, share, count, path = split_spec(spec)
    if RawDataset.is_defined(name):
        raw = RawDataset.load(name, **({} if path is None else {"path": path}))
        places = draw(len(raw), share if count is None else Fraction(count, -1), name, seed)
        return [{"prompt": _prompt(raw[int(i)]), "category": None, "benign": None} for i in sorted(places)]
    if name in KNOWN_SPECS:
        return load_prompts(spec, seed=seed).rows
    if (share, count, path) == (1.0, None, None) and Path(name).exists():
        return load_prompts(name, seed=seed).rows
    RawDataset.load(name)  # raises, and names the datasets that there are
    return []


def _prompt(sample: Any) -> Any:
    turns = sample["input"]
    if isinstance(turns, str):
        return turns
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
