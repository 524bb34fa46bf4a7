"""One attempt at a certificate: the bound against a budget, the ledger, and the result in plain words."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trl_rsa.evaluation.cvar_bound import CVaRBound, Method, cvar_upper_bound
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.ledger import attempt_delta, earlier_looks, prompt_sketch, read_attempts, write_certificate
from trl_rsa.storage.records import digest


@dataclass(frozen=True)
class Certificate:
    """The outcome of one attempt.

    Attributes:
        bound (`CVaRBound`): The bound at this attempt's confidence.
        budget (`float`): What the risk must not exceed.
        confidence (`float`): Of all recorded attempts together; this one's is `bound.confidence`.
        attempt (`int`): 1 for the first in this file.
        earlier_looks (`tuple[int, ...]`): Attempts that had used these prompts, or some of them.
        prompt_fingerprint (`str`), prompt_sketch (`tuple[str, ...]`): Stand for the set of prompts.
        scorer (`str`), model (`str` or `None`): Names, as given.
        n_unscored (`int`): Responses without a usable cost; they entered as the upper clipping bound.
        n_trained (`int`): Prompts that the model is known to have been trained on.
        max_new_tokens (`int` or `None`), n_cut (`int`): Where responses were cut, and how many were.
        warnings (`tuple[str, ...]`): What a careful reader should know before reading on.
    """

    bound: CVaRBound
    budget: float
    confidence: float
    attempt: int
    earlier_looks: tuple[int, ...]
    prompt_fingerprint: str
    prompt_sketch: tuple[str, ...]
    scorer: str
    model: str | None
    n_unscored: int
    warnings: tuple[str, ...]
    n_trained: int = 0
    max_new_tokens: int | None = None
    n_cut: int = 0

    @property
    def certified(self) -> bool:
        """Whether the bound is at most the budget."""
        return float(self.bound) <= self.budget

    @property
    def statement(self) -> str:
        """The result in words for a layperson."""
        b = self.bound
        who = "The model" if self.model is None else f"The model {self.model}"
        verdict = (
            f"CERTIFIED. {who} meets the limit. "
            if self.certified
            else f"NOT CERTIFIED. This does not show that {who[0].lower()}{who[1:]} breaks the limit, only that these "
            "responses are not enough to say that it keeps it. "
        )
        tried = "the only attempt so far" if self.attempt == 1 else f"attempt number {self.attempt}"
        return (
            f"{verdict}The limit: among the worst {100 * b.tail:g} % of its responses, the average cost is at most "
            f"{self.budget:g}, where {self.scorer} gives the cost and higher is worse. In {b.n} responses to "
            f"{b.n_groups} prompts that average was {b.estimate:.4g}. Allowing for the luck of the draw, it is at "
            f"most {float(b):.4g} with a confidence of {100 * b.confidence:.4g} %. This is {tried} recorded in this "
            f"file; attempts share the allowed error, so that all together hold with {100 * self.confidence:g} %."
        )

    @property
    def limits(self) -> list[str]:
        """What the certificate does not say."""
        b = self.bound
        low, high = b.bounds
        words = [
            "It holds for prompts like these, drawn at random from the same source. It says nothing about other "
            "prompts, new attacks, or the same model after further training or with other sampling settings.",
            f"It is about the cost that {self.scorer} gives. Where that scorer is wrong, so is the certificate: it is "
            "not a human judgement.",
            f"Costs were cut to the range from {low:g} to {high:g}; a cost above {high:g} counts as {high:g}. Above "
            f"the range were {b.n_clipped_above}, below it {b.n_clipped_below} of {b.n}.",
            "It is about an average over the worst responses. Single responses can be worse.",
            "Attempts recorded in other files are not counted.",
        ]
        if self.max_new_tokens is not None:
            words.append(
                f"It is about responses of at most {self.max_new_tokens} tokens: {self.n_cut} of {b.n} were cut "
                "there. What the model would have written after that was not seen."
            )
        if self.n_unscored:
            words.append(f"{self.n_unscored} responses without a usable cost were counted as {high:g}, the worst.")
        if self.n_trained:
            words.append(
                f"{self.n_trained} of these {b.n_groups} prompts were also in the model's training pairs. On prompts "
                "that it has not been trained on it may do worse."
            )
        if self.earlier_looks:
            words.append(
                "These prompts had been used before (attempt "
                f"{', '.join(map(str, self.earlier_looks))}). The confidence holds only if nothing but pass or fail "
                "of those attempts had a part in choosing or training this model; fresh prompts need no such promise."
            )
        return words

    def summary(self) -> dict[str, Any]:
        """What the ledger keeps of this attempt."""
        return {
            "attempt": self.attempt,
            "certified": self.certified,
            "bound": float(self.bound),
            "budget": self.budget,
            "tail": self.bound.tail,
            "confidence": self.confidence,
            "attempt_confidence": self.bound.confidence,
            "method": self.bound.method,
            "model": self.model,
            "scorer": self.scorer,
            "n_prompts": self.bound.n_groups,
            "earlier_looks": list(self.earlier_looks),
            "prompt_fingerprint": self.prompt_fingerprint,
            "prompt_sketch": list(self.prompt_sketch),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, in words and numbers."""
        numbers = self.summary()
        del numbers["prompt_sketch"]
        return numbers | {
            "estimate": self.bound.estimate,
            "n_unscored": self.n_unscored,
            "n_trained": self.n_trained,
            "max_new_tokens": self.max_new_tokens,
            "n_cut": self.n_cut,
            "n_clipped": self.bound.n_clipped,
            "statement": self.statement,
            "limits": self.limits,
            "warnings": list(self.warnings),
            "parts": self.bound.to_dict(),
        }


def certify(
    costs: ArrayLike,
    budget: float,
    *,
    prompts: Sequence[Any],
    tail: float = 0.05,
    confidence: float = 0.95,
    bounds: tuple[float, float],
    scorer: str,
    method: Method = "betting",
    model: str | None = None,
    n_unreadable: int = 0,
    n_trained: int = 0,
    max_new_tokens: int | None = None,
    n_cut: int = 0,
    ledger_path: str | os.PathLike[str] | None = None,
    again: bool = False,
    seed: int = 0,
) -> Certificate:
    """Makes one attempt to certify that CVaR of the clipped cost is at most `budget`, and records it.

    Args:
        costs (`ArrayLike` of shape `[n]`):
            Costs, higher is worse. NaN, a response that could not be scored, enters as the upper bound b.
        budget (`float`):
            In units of cost.
        prompts (`Sequence` of length n):
            The prompt of each response, or its [`~storage.records.digest`]; responses to one prompt are not
            independent.
        tail, confidence, bounds, method, seed:
            As in [`cvar_upper_bound`]. `confidence` is that of all attempts together: attempt j has
            1 − 6(1 − confidence)/(π²j²).
        scorer (`str`), model (`str`, *optional*):
            Names of the cost model and of the model that is judged.
        n_unreadable (`int`, *optional*, defaults to 0):
            Lines of the records file that could not be read. Each enters as a prompt of its own with cost b.
        n_trained (`int`, *optional*, defaults to 0):
            How many of the different prompts the model is known to have been trained on. Said in the limits.
        max_new_tokens (`int`, *optional*), n_cut (`int`, *optional*, defaults to 0):
            Where responses were cut, and how many of them were. Said in the limits.
        ledger_path (`str` or `os.PathLike`, *optional*):
            certificate.json, which is read for earlier attempts and then written.
        again (`bool`, *optional*, defaults to `False`):
            Allows an attempt on prompts that an earlier one has used.

    Returns:
        [`Certificate`]. `ValueError`, and nothing written, when the prompts were used before and `again` is not set.
    """
    delta = 1 - check_confidence(confidence)
    if not np.isfinite(budget):
        raise ValueError(
            f"You set budget={budget!r}, but it is compared with a finite bound. Set it to, for example, 0."
        )
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 1 or costs.size != len(prompts):
        raise ValueError(
            f"You gave costs of shape {costs.shape} and {len(prompts)} prompts, but each cost needs its prompt. Give "
            "one of each per response."
        )
    fingerprint, sketch = prompt_sketch(prompts)
    attempts = read_attempts(ledger_path)
    looks = earlier_looks(attempts, fingerprint, sketch)
    if looks and not again:
        raise ValueError(
            f"You certify on prompts that attempt {', '.join(map(str, looks))} in {str(ledger_path)!r} has used, but "
            "looking again at the same prompts weakens the claim. Take fresh prompts, or ask for it (again=True, "
            "--again): this attempt then gets a stricter confidence."
        )
    attempt = 1 + max((a["attempt"] for a in attempts), default=0)
    unscored = np.isnan(costs)
    filled = np.concatenate([np.where(unscored, bounds[1], costs), np.full(n_unreadable, bounds[1])])
    # A group is a prompt's place among the distinct ones; unreadable lines follow, each alone.
    groups = _number([digest(prompt) for prompt in prompts]) + [len(prompts) + i for i in range(n_unreadable)]
    spent = attempt_delta(delta, attempt)
    bound = cvar_upper_bound(filled, tail, 1 - spent, bounds, method, groups, seed)
    notes = [f"You set tail={tail:g}: {_TAIL_WARNING}"] if tail > 0.5 else []
    for note in notes:
        warnings.warn(note, stacklevel=2)
    certificate = Certificate(
        bound=bound,
        budget=float(budget),
        confidence=float(confidence),
        attempt=attempt,
        earlier_looks=tuple(looks),
        prompt_fingerprint=fingerprint,
        prompt_sketch=tuple(sketch),
        scorer=scorer,
        model=model,
        n_unscored=int(unscored.sum()) + n_unreadable,
        warnings=tuple(notes),
        n_trained=n_trained,
        max_new_tokens=max_new_tokens,
        n_cut=n_cut,
    )
    if ledger_path is not None:
        history = [*attempts, certificate.summary()]
        write_certificate(ledger_path, certificate.to_dict() | {"attempts": history})
    return certificate


_TAIL_WARNING = (
    "the tail is the share of responses that is kept, so this is close to the plain average. What finance calls "
    '"95 % CVaR" is tail 0.05.'
)


def _number(names: list[bytes]) -> list[int]:
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]
