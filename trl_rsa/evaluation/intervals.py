"""What a reported number carries: its value, its interval, and how the interval was made."""

from dataclasses import dataclass
from math import isnan
from typing import TypedDict


class EstimateJSON(TypedDict):
    """An [`Estimate`] in JSON: `value` is None where it could not be computed."""

    value: float | None
    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True)
class Estimate:
    """A number with a two-sided interval. `low` and `high` are None where no interval can be given (one prompt).

    `method` is "clopper-pearson" (exact), "percentile" or "bca" (bootstrap), with " by prompt" when prompts, not
    responses, were resampled, or "none".
    """

    value: float
    low: float | None
    high: float | None
    method: str

    def to_dict(self) -> EstimateJSON:
        """JSON has no NaN: a value that could not be computed is None."""
        value = None if isnan(self.value) else self.value
        return {"value": value, "low": self.low, "high": self.high, "method": self.method}


def check_confidence(confidence: float) -> float:
    """Returns `confidence`, or raises `ValueError` when it is not in (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            f"You set confidence={confidence!r}, but a confidence is a probability strictly between 0 and 1. Set it "
            "to, for example, 0.95."
        )
    return float(confidence)


def clopper_pearson_upper(k: int, n: int, confidence: float = 0.95) -> float:
    """The exact one-sided upper bound on p after `k` successes in `n` independent trials.

    After 0 of n it is 1 − (1 − confidence)^(1/n): 0.0295 for n = 100, close to "the rule of three", 3/n.
    """
    _check_counts(k, n)
    return 1.0 if k == n else _beta_quantile(check_confidence(confidence), k + 1, n - k)


def clopper_pearson_lower(k: int, n: int, confidence: float = 0.95) -> float:
    """The exact one-sided lower bound on p after `k` successes in `n` independent trials."""
    _check_counts(k, n)
    return 0.0 if k == 0 else _beta_quantile(1 - check_confidence(confidence), k, n - k + 1)


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """The exact two-sided interval for a proportion (Clopper and Pearson, 1934): both bounds at (1 + confidence)/2."""
    each = (1 + check_confidence(confidence)) / 2
    low, high = clopper_pearson_lower(k, n, each), clopper_pearson_upper(k, n, each)
    return Estimate(k / n, low, high, "clopper-pearson")


def _beta_quantile(p: float, a: int, b: int) -> float:
    # Not scipy.stats, whose import takes half a second more.
    from scipy.special import betaincinv

    return float(betaincinv(a, b, p))


def _check_counts(k: int, n: int) -> None:
    if not 0 <= k <= n or n < 1:
        raise ValueError(
            f"You gave {k} successes in {n} trials, but there must be at least one trial and no more successes than "
            "trials. Check the counts."
        )
