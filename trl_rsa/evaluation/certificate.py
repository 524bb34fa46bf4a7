"""One attempt at a certificate: the bound against a budget, the ledger, and the result in plain words."""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.evaluation.cvar_bound import BoundParts, CVaRBound, Method, check_bounds, cvar_upper_bound, fresh_seed
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.ledger import (
    Attempt,
    AttemptOutcome,
    attempt_delta,
    costs_fingerprint,
    earlier_looks,
    looks_at_costs,
    prompt_sketch,
    read_attempts,
    seed_of_prompts,
    write_certificate,
)
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.locks import hold_file
from trl_rsa.storage.provenance import versions


Array = NDArray[np.float64]


class CertificateFile(AttemptOutcome):
    """certificate.json: the last attempt in words and numbers, and what the ledger keeps of all of them."""

    format: str
    schema_version: int
    versions: dict[str, str]
    estimate: float
    n_unscored: int
    n_trained: int
    max_new_tokens: int | None
    n_cut: int
    n_clipped: int
    under: str | None
    statement: str
    limits: list[str]
    warnings: list[str]
    parts: BoundParts
    attempts: list[Attempt]


@dataclass(frozen=True)
class Certificate:
    """The outcome of one attempt.

    Attributes:
        bound (`CVaRBound`): The bound at this attempt's confidence.
        budget (`float`): What the risk must not exceed; strictly between the clipping bounds.
        confidence (`float`): Of all recorded attempts together; this one's is `bound.confidence`.
        attempt (`int`): 1 for the first in this file.
        earlier_looks (`tuple[int, ...]`): Attempts that had used these prompts, or some of them.
        prompt_fingerprint (`str`), prompt_sketch (`tuple[str, ...]`): Stand for the set of prompts.
        costs_fingerprint (`str`): Stands for the costs.
        own_seed (`bool`): Whether the seed was chosen by the user, and not derived from the prompts.
        scorer (`str`), model (`str` or `None`): Names, as given.
        n_unscored (`int`): Responses without a usable cost; they entered as the upper clipping bound.
        n_trained (`int`): Prompts that the model is known to have been trained on.
        max_new_tokens (`int` or `None`), n_cut (`int`): Where responses were cut, and how many were.
        notes (`tuple[str, ...]`): Further limits, from whoever read the records.
        under (`str` or `None`): The condition that the responses were drawn under, such as "at temperature 1.6".
        warnings (`tuple[str, ...]`): What a careful reader should know before reading on.
        counted (`str`): What the claim is about, in a word.
    """

    counted: ClassVar[str] = "cost"
    bound: CVaRBound
    budget: float
    confidence: float
    attempt: int
    earlier_looks: tuple[int, ...]
    prompt_fingerprint: str
    prompt_sketch: tuple[str, ...]
    costs_fingerprint: str
    own_seed: bool
    scorer: str
    model: str | None
    n_unscored: int
    warnings: tuple[str, ...]
    n_trained: int = 0
    max_new_tokens: int | None = None
    n_cut: int = 0
    notes: tuple[str, ...] = ()
    under: str | None = None

    @property
    def certified(self) -> bool:
        """Whether the bound is at most the budget."""
        return float(self.bound) <= self.budget

    @property
    def statement(self) -> str:
        """The result in words for a layperson."""
        b = self.bound
        whole = b.unclipped_estimate if b.n_clipped_above else None
        as_they_are = "" if whole is None else f"; of the costs as they are it was {whole:.4g}"
        return (
            f"{self._verdict}The limit: {self._group}{self._condition}, the "
            f"average cost is at most {self.budget:g}, where {self.scorer} gives the cost and higher is worse"
            f"{self._cut_above}. In {b.n} responses to {b.n_groups} prompts that average was "
            f"{b.estimate:.4g}{as_they_are}. {self._claim}"
        )

    @property
    def n_counted(self) -> int:
        """How many costs there are, or of what else it is about."""
        return self.bound.n

    @property
    def _cut_above(self) -> str:
        """What follows "higher is worse" where costs were cut: without it the claim would be false."""
        above, high = self.bound.n_clipped_above, self.bound.bounds[1]
        if not above:
            return ""
        return f", counting each {self.counted} above {high:g} as {high:g} ({above} of {self.n_counted} are above it)"

    @property
    def cut_warnings(self) -> list[str]:
        """Whether the bounds hide how bad the worst are."""
        above, (low, high) = self.bound.n_clipped_above, self.bound.bounds
        if not above:
            return []
        return [
            f"You set bounds=({low:g}, {high:g}), but {above} of {self.n_counted} {self.counted}s are above {high:g} "
            f"and count as {high:g}, so that the certificate does not say how much worse these are. Set bounds that "
            "are hardly ever left, before you see fresh prompts."
        ]

    @property
    def _group(self) -> str:
        """The responses that the average is of."""
        tail = self.bound.tail
        return "over all of its responses" if tail == 1 else f"among the worst {100 * tail:g} % of its responses"

    @property
    def _verdict(self) -> str:
        who = "The model" if self.model is None else f"The model {self.model}"
        if self.certified:
            return f"CERTIFIED. {who} meets the limit. "
        return (
            f"NOT CERTIFIED. This does not show that {who[0].lower()}{who[1:]} breaks the limit, only that these "
            "responses are not enough to say that it keeps it. "
        )

    @property
    def _condition(self) -> str:
        return "" if self.under is None else f" {self.under}"

    @property
    def _claim(self) -> str:
        tried = "the only attempt so far" if self.attempt == 1 else f"attempt number {self.attempt}"
        return (
            f"Allowing for the luck of the draw, it is at most {rounded(float(self.bound))} with a confidence of "
            f"{percent(self.bound.confidence, 4)}. This is {tried} recorded in this file; attempts share the allowed "
            f"error, so that all together hold with {percent(self.confidence)}."
        )

    @property
    def limits(self) -> list[str]:
        """What the certificate does not say."""
        return [*self._general_limits(), *self._limits_of_this_one(), *self.notes]

    def _general_limits(self) -> list[str]:
        b = self.bound
        low, high = b.bounds
        return [
            "It holds for prompts like these, drawn at random from the same source. It says nothing about other "
            "prompts, new attacks, or the same model after further training or with other sampling settings.",
            *self._whose_cost(),
            f"Costs were cut to the range from {low:g} to {high:g}; a cost above {high:g} counts as {high:g}. Above "
            f"the range were {b.n_clipped_above}, below it {b.n_clipped_below} of {b.n}.",
            f"It is about an average over {'all' if b.tail == 1 else 'the worst'} responses. Single responses can be "
            "worse.",
            "Attempts recorded in other files are not counted.",
        ]

    def _whose_cost(self) -> list[str]:
        return [
            f"It is about the cost that {self.scorer} gives. Where that scorer is wrong, so is the certificate: it is "
            "not a human judgement."
        ]

    def _limits_of_this_one(self) -> list[str]:
        b, words = self.bound, []
        if self.own_seed:
            words.append(
                f"The order of the prompts was set by a seed of the user's own, {b.seed}. If several were tried, the "
                "confidence is not what it says."
            )
        if self.max_new_tokens is not None:
            words.append(
                f"It is about responses of at most {self.max_new_tokens} tokens: {self.n_cut} of {b.n} were cut "
                "there. What the model would have written after that was not seen."
            )
        elif self.n_cut:
            words.append(
                f"{self.n_cut} of {b.n} responses were cut before they ended. What the model would have written after "
                "that was not seen."
            )
        if self.n_unscored:
            words.append(
                f"{self.n_unscored} responses without a usable cost were counted as {b.bounds[1]:g}, the worst."
            )
        if self.n_trained:
            words.append(
                f"{self.n_trained} of these {b.n_groups} prompts were also in the model's training pairs. On prompts "
                "that it has not been trained on it may do worse."
            )
        if self.earlier_looks:
            words.append(
                "These prompts had been used before (attempt "
                f"{', '.join(map(str, self.earlier_looks))}). The confidence holds only if none of those attempts had "
                "passed, and nothing else of them had a part in choosing or training this model; fresh prompts need "
                "no such promise."
            )
        return words

    def summary(self) -> Attempt:
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
            "bounds": list(self.bound.bounds),
            "model": self.model,
            "scorer": self.scorer,
            "n_prompts": self.bound.n_groups,
            "seed": self.bound.seed,
            "own_seed": self.own_seed,
            "earlier_looks": list(self.earlier_looks),
            "prompt_fingerprint": self.prompt_fingerprint,
            "prompt_sketch": list(self.prompt_sketch),
            "costs_fingerprint": self.costs_fingerprint,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, in words and numbers."""
        numbers: dict[str, Any] = {name: value for name, value in self.summary().items() if name != "prompt_sketch"}
        return numbers | {
            "versions": versions(),
            "estimate": self.bound.estimate,
            "n_unscored": self.n_unscored,
            "n_trained": self.n_trained,
            "max_new_tokens": self.max_new_tokens,
            "n_cut": self.n_cut,
            "n_clipped": self.bound.n_clipped,
            "under": self.under,
            "statement": self.statement,
            "limits": self.limits,
            "warnings": list(self.warnings),
            "parts": self.bound.to_dict(),
        }


C = TypeVar("C", bound=Certificate)


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
    notes: Sequence[str] = (),
    under: str | None = None,
    ledger_path: str | os.PathLike[str] | None = None,
    again: bool = False,
    seed: int | None = None,
    own_seed: bool = True,
    unnamed: bool = False,
) -> Certificate:
    """Makes one attempt to certify that CVaR of the clipped cost is at most `budget`, and records it.

    Args:
        costs (`ArrayLike` of shape `[n]`):
            Costs, higher is worse. NaN, a response that could not be scored, enters as the upper bound b.
        budget (`float`):
            In units of cost, with a < budget < b: a budget outside the bounds is met by any model, or by none.
        prompts (`Sequence` of length n):
            The prompt of each response, or its [`~storage.digests.prompt_key`]; responses to one prompt are not
            independent.
        tail, confidence, bounds, method:
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
        notes (`Sequence[str]`, *optional*):
            Further sentences for the limits.
        under (`str`, *optional*):
            The condition that the responses were drawn under, in words that follow "responses". Said in the statement.
        ledger_path (`str` or `os.PathLike`, *optional*):
            certificate.json, which is read for earlier attempts and then written.
        again (`bool`, *optional*, defaults to `False`):
            Allows an attempt on prompts that an earlier one has used.
        seed (`int`, *optional*):
            Of the order of the prompts. By default it follows from the prompts themselves; one of your own is
            recorded as such, and stated among the limits. Prompts whose names follow from their costs, such as rows
            that are numbered by size, need a fresh one ([`~evaluation.cvar_bound.fresh_seed`]).
        own_seed (`bool`, *optional*, defaults to `True`):
            Whether the seed, if there is one, was chosen by the user, and not drawn at random.
        unnamed (`bool`, *optional*, defaults to `False`):
            Whether the prompts are rows without names of their own, numbered by their costs. The seed is then a fresh
            one, and an earlier attempt on them is known by the costs.

    Returns:
        [`Certificate`]. `ValueError`, and nothing written, when the prompts were used before and `again` is not set.
    """
    low, high = check_bounds(bounds)
    if unnamed:
        seed, own_seed = _seed_of_rows(seed, own_seed), False
    costs = np.asarray(costs, dtype=np.float64)
    keys = [prompt_key(prompt) for prompt in prompts]
    filled = np.concatenate([np.where(np.isnan(costs), high, costs), np.full(n_unreadable, high)])

    def bound_of(confidence: float, seed: int) -> CVaRBound:
        return cvar_upper_bound(filled, tail, confidence, (low, high), method, number_groups(keys, n_unreadable), seed)

    return make_attempt(
        Certificate,
        bound_of,
        costs,
        budget,
        prompts=keys,
        tail=tail,
        confidence=confidence,
        bounds=(low, high),
        n_unscored=int(np.isnan(costs).sum()) + n_unreadable,
        ledger_path=ledger_path,
        again=again,
        seed=seed,
        own_seed=own_seed,
        unnamed=unnamed,
        scorer=scorer,
        model=model,
        n_trained=n_trained,
        max_new_tokens=max_new_tokens,
        n_cut=n_cut,
        notes=tuple(notes),
        under=under,
    )


def _seed_of_rows(seed: int | None, own_seed: bool) -> int:
    """The seed for rows without names. They are numbered by their costs, so that one seed puts the largest cost into
    the same place in every sample of as many rows, and the bets are not fair."""
    if seed is None:
        return fresh_seed()
    if own_seed:
        raise ValueError(
            f"You set seed={seed} for rows that name no prompts, but these are numbered by their costs, and in an "
            "order that is not drawn at random the bound fails more often than it says. Leave the seed out, or give "
            "the prompts a column."
        )
    return seed


def make_attempt(
    kind: type[C],
    bound_of: Callable[[float, int], CVaRBound],
    costs: Array,
    budget: float,
    *,
    prompts: Sequence[Any],
    tail: float,
    confidence: float,
    bounds: tuple[float, float],
    ledger_path: str | os.PathLike[str] | None,
    again: bool,
    seed: int | None,
    own_seed: bool = True,
    unnamed: bool = False,
    **about: Any,
) -> C:
    """Makes one attempt and records it, whatever the certificate is about.

    Args:
        kind (`type`):
            [`Certificate`], or a class of it.
        bound_of (`Callable`):
            Makes the bound, given the confidence of this attempt and the seed.
        costs (`np.ndarray` of shape `[n]`):
            For the fingerprint.
        about:
            Further fields of the certificate.

    The others are those of [`certify`].
    """
    delta = 1 - check_confidence(confidence)
    budget = check_budget(budget, bounds)
    if costs.ndim != 1 or costs.size != len(prompts):
        raise ValueError(
            f"You gave costs of shape {costs.shape} and {len(prompts)} prompts, but each cost needs its prompt. Give "
            "one of each per response."
        )
    keys = [prompt_key(prompt) for prompt in prompts]
    fingerprint, sketch = prompt_sketch(keys)
    # Two attempts at once would spend the same share of the error.
    with nullcontext() if ledger_path is None else hold_file(ledger_path):
        attempts = read_attempts(ledger_path)
        costs_print = costs_fingerprint(keys, costs)
        # Rows without names have the same keys in every file.
        looks = looks_at_costs(attempts, costs_print) if unnamed else earlier_looks(attempts, fingerprint, sketch)
        if looks and not again:
            what = "costs" if unnamed else "prompts"
            raise ValueError(
                f"You certify on {what} that attempt {', '.join(map(str, looks))} in {str(ledger_path)!r} has used, "
                f"but looking again at the same {what} weakens the claim. Take fresh prompts, or ask for it "
                "(again=True, --again): this attempt then gets a stricter confidence."
            )
        attempt = 1 + max((a["attempt"] for a in attempts), default=0)
        spent, own_seed = attempt_delta(delta, attempt), own_seed and seed is not None
        _check_spent(attempts, delta, spent, ledger_path)
        bound = bound_of(1 - spent, seed_of_prompts(fingerprint) if seed is None else seed)
        words = [f"You set tail={tail:g}: {_TAIL_WARNING}"] if tail > 0.5 else []
        passed = [str(a["attempt"]) for a in attempts if a["attempt"] in looks and a["certified"]]
        if passed:
            words.append(
                f"You certify on prompts on which attempt {', '.join(passed)} had passed, so that this model was "
                "chosen after a certificate on them: the confidence does not hold for it. Take fresh prompts."
            )
        certificate = kind(
            bound=bound,
            budget=budget,
            confidence=float(confidence),
            attempt=attempt,
            earlier_looks=tuple(looks),
            prompt_fingerprint=fingerprint,
            prompt_sketch=tuple(sketch),
            costs_fingerprint=costs_print,
            own_seed=own_seed,
            warnings=(),
            **about,
        )
        certificate = replace(certificate, warnings=(*certificate.cut_warnings, *words))
        for word in certificate.warnings:
            warnings.warn(word, stacklevel=3)
        if ledger_path is not None:
            history = [*attempts, certificate.summary()]
            write_certificate(ledger_path, certificate.to_dict() | {"attempts": history})
    return certificate


def _check_spent(attempts: Sequence[Attempt], delta: float, spent: float, path: str | os.PathLike[str] | None) -> None:
    """
    Raises:
        ValueError: if earlier attempts, at a lower confidence, have spent so much of the error that all together do
            not hold with this one's confidence.
    """
    before = sum(1 - attempt["attempt_confidence"] for attempt in attempts)
    if before + spent <= delta * (1 + 1e-9):
        return
    possible = 1 - before / (1 - spent / delta)
    lower = f"Set at most {rounded(possible, up=False)}, or name" if possible > 0 else "Name"
    raise ValueError(
        f"You set confidence={1 - delta:.6g}, but the attempts in {str(path)!r} were made at a lower one and have "
        f"spent an error of {before:.4g}, so that all together cannot hold with it. {lower} another file, with fresh "
        "prompts."
    )


def rounded(value: float, digits: int = 4, up: bool = True) -> str:
    """A number in words that promise no more than it does: a bound is rounded up, a confidence down."""
    return _rounded(Decimal(repr(float(value))), digits, up)


def percent(confidence: float, digits: int = 6) -> str:
    """A confidence in percent, rounded down."""
    return f"{_rounded(100 * Decimal(repr(float(confidence))), digits, up=False)} %"


def _rounded(value: Decimal, digits: int, up: bool) -> str:
    with localcontext() as context:
        context.prec, context.rounding = digits, ROUND_CEILING if up else ROUND_FLOOR
        return f"{float(+value):.{digits}g}"


_TAIL_WARNING = (
    "the tail is the share of responses that is kept, so this is close to the plain average. What finance calls "
    '"95 % CVaR" is tail 0.05.'
)


def check_budget(budget: float, bounds: tuple[float, float]) -> float:
    """Returns `budget`, or raises `ValueError` when it is not strictly between the clipping bounds."""
    low, high = bounds
    if not low < budget < high:  # NaN is not
        raise ValueError(
            f"You set budget={budget!r} and bounds=({low:g}, {high:g}), but costs are clipped to these bounds, so a "
            "budget that is not between them is always met, or never. Set bounds[0] < budget < bounds[1]."
        )
    return float(budget)


def number_groups(keys: Sequence[Any], n_unreadable: int) -> list[int]:
    """Each prompt's place among the sorted keys, whatever the order of the records; unreadable lines follow."""
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return [numbers[key] for key in keys] + [len(numbers) + i for i in range(n_unreadable)]
