"""The bookkeeping of repeated attempts. A bound that is looked at until it passes certifies nothing.

Attempt j spends δ_j = 6δ/(π²j²) of the allowed error δ, so that all attempts together spend Σ_j δ_j = δ, however
many there will be. Each should take fresh prompts; the ledger, certificate.json itself, remembers which were used.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypedDict

from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.files import write_json


FORMAT = "trl-rsa certificate"
SCHEMA_VERSION = 2  # 1 told prompts apart byte by byte

# The smallest keys of a prompt set are a fair sample of it: two sets that share a fraction f of their prompts share
# about 128·f of these.
_SKETCH = 128


class AttemptOutcome(TypedDict):
    """What a certificate and its ledger both say of an attempt: the question, the bound, and on which prompts."""

    attempt: int
    certified: bool
    bound: float
    budget: float
    tail: float
    confidence: float  # of all attempts together
    attempt_confidence: float
    method: str
    bounds: list[float]
    model: str | None
    scorer: str
    n_prompts: int
    seed: int
    own_seed: bool
    earlier_looks: list[int]
    prompt_fingerprint: str
    costs_fingerprint: str


class Attempt(AttemptOutcome):
    """What the ledger keeps of one attempt: an item of `attempts` in certificate.json."""

    prompt_sketch: list[str]


def attempt_delta(delta: float, attempt: int) -> float:
    """The error probability δ_j = 6δ/(π²j²) that attempt j = 1, 2, … may spend. The first gets 0.61 δ."""
    return 6 * delta / (math.pi * attempt) ** 2


def prompt_sketch(prompts: Iterable[Any]) -> tuple[str, list[str]]:
    """The fingerprint of a set of prompts (order and repetition do not matter), and a small sample of it."""
    keys: list[str] = sorted({prompt_key(prompt) for prompt in prompts})
    return blake2b("".join(keys).encode(), digest_size=16).hexdigest(), keys[:_SKETCH]


def seed_of_prompts(fingerprint: str) -> int:
    """The seed of the shuffle. It follows from the prompts, so that nobody can look for one that certifies."""
    return int(fingerprint[:8], 16)


def costs_fingerprint(keys: Iterable[Any], costs: Iterable[float]) -> str:
    """Stands for the costs of the responses to the prompts with these keys, whatever their order."""
    lines = sorted(f"{key} {float(cost)!r}" for key, cost in zip(keys, costs, strict=True))
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def read_attempts(path: str | os.PathLike[str] | None) -> list[Attempt]:
    """The attempts that certificate.json records, oldest first. No file, no attempts."""
    if path is None or not Path(path).exists():
        return []
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["schema_version"] != SCHEMA_VERSION:
            raise KeyError("format")
        attempts = list(content["attempts"])
        if not attempts or not all(_is_attempt(attempt, number) for number, attempt in enumerate(attempts, start=1)):
            raise KeyError("attempts")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Starting again at attempt 1 would forget what has been spent.
        raise ValueError(
            f"You set the certificate file to {str(path)!r}, but it is not a certificate that this version can read. "
            "Name another file, or move this one away if it is none of ours."
        ) from error
    return attempts


def _is_attempt(attempt: dict[str, Any], number: int) -> bool:
    """Whether this can be the attempt `number`: one too few, and the next would spend more than is left."""
    sketch = attempt["prompt_sketch"]
    return (
        type(attempt["attempt"]) is int
        and attempt["attempt"] == number
        and isinstance(attempt["prompt_fingerprint"], str)
        and 0 < attempt["attempt_confidence"] < 1
        and isinstance(sketch, list)
        and all(isinstance(key, str) for key in sketch)
    )


def earlier_looks(attempts: list[Attempt], fingerprint: str, sketch: list[str]) -> list[int]:
    """Numbers of the attempts that used the same prompts, or some of them."""
    return [
        attempt["attempt"]
        for attempt in attempts
        if attempt["prompt_fingerprint"] == fingerprint or not set(sketch).isdisjoint(attempt["prompt_sketch"])
    ]


def looks_at_costs(attempts: list[Attempt], fingerprint: str) -> list[int]:
    """Numbers of the attempts that used the same costs: what is left to compare where prompts have no names."""
    return [attempt["attempt"] for attempt in attempts if attempt.get("costs_fingerprint") == fingerprint]


def write_certificate(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes certificate.json at once or not at all: a kill must not lose the record of earlier attempts."""
    write_json(path, {"format": FORMAT, "schema_version": SCHEMA_VERSION} | dict(content))
