"""Random numbers that belong to a key and a seed. They depend on no other key, on no order and on no batch."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def uniforms(keys: Sequence[str], seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each key `[n]`. Another `purpose` gives other numbers, independent of the first."""
    digests = b"".join(blake2b(f"{purpose} {seed} {key}".encode(), digest_size=8).digest() for key in keys)
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def prompt_places(prompts: Sequence[str], seed: int) -> NDArray[np.intp]:
    """The place of each record's prompt `[n]`, from 0 on, when the prompts are shuffled by the seed."""
    unique, codes = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    ranks = np.empty(unique.size, dtype=np.intp)
    ranks[np.lexsort((unique, uniforms(unique.tolist(), seed, "order")))] = np.arange(unique.size)
    return ranks[codes.reshape(-1)]
