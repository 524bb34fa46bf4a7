"""How far a response left the reference policy: sequential KL and drift risk, from per-token values.

Drift is not harm. The per-token values are ρ(X_t) with X = log π_ref − log π (the expectation gives
KL(π_ref‖π) per token); their sum over the completion, without length normalisation, is the sequential risk ratio of
the RSA losses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.tails import check_tail, sorted_cvar


def sequence_sums(per_token: Sequence[ArrayLike] | NDArray, completion_mask: ArrayLike | None = None) -> NDArray:
    """Sums per-token values over each completion.

    Args:
        per_token (`Sequence[ArrayLike]` or `np.ndarray` of shape `[n, T]`):
            One array per response, or a padded matrix with its mask. In nats.
        completion_mask (`ArrayLike` of shape `[n, T]`, *optional*):
            1 on completion tokens. Masked values may be anything, NaN included.

    Returns:
        `np.ndarray` of shape `[n]`.
    """
    if completion_mask is None:
        return np.array([np.sum(row, dtype=np.float64) for row in per_token])
    mask = np.asarray(completion_mask, dtype=bool)
    values = np.asarray(per_token, dtype=np.float64)
    if mask.shape != values.shape:
        raise ValueError(
            f"You gave per-token values of shape {values.shape} with a completion_mask of shape {mask.shape}, but "
            "they must agree. Give both as [n, T]."
        )
    return np.where(mask, values, 0.0).sum(-1)


def drift_summary(
    per_token: Sequence[ArrayLike] | NDArray,
    completion_mask: ArrayLike | None = None,
    tails: Sequence[float] = (0.05,),
    prompts: ArrayLike | None = None,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """Mean and CVaR of the sequence sums, and the mean per token, with intervals.

    Arguments as in [`sequence_sums`]; `prompts` `[n]` groups the draws of a prompt. A response whose values are not
    all finite is counted in `"not_finite"` and left out.
    """
    bootstrap = Bootstrap() if bootstrap is None else bootstrap
    tails = [check_tail(tail) for tail in tails]
    sums = sequence_sums(per_token, completion_mask)
    lengths = np.array([np.size(row) for row in per_token] if completion_mask is None else np.sum(completion_mask, -1))
    finite = np.isfinite(sums)
    order = np.flatnonzero(finite)[np.argsort(-sums[finite], kind="stable")]
    result: dict[str, Any] = {"n": int(order.size), "not_finite": int(sums.size - order.size)}
    if order.size == 0:
        return result
    sums, lengths = sums[order], lengths[order]

    def statistic(weights: NDArray) -> NDArray:
        with np.errstate(invalid="ignore", divide="ignore"):  # all completions empty: no value per token
            means = [weights @ sums / weights.sum(-1), weights @ sums / (weights @ lengths)]
        return np.concatenate([np.stack(means, -1), sorted_cvar(sums, np.cumsum(weights, -1), tails)], -1)

    clusters = None if prompts is None else np.asarray(prompts)[order]
    mean, per_token_mean, *cvars = bootstrap.estimates(statistic, order.size, clusters)
    result |= {"mean": mean.to_dict(), "mean_per_token": per_token_mean.to_dict(), "max": float(sums[0])}
    result["cvar"] = {f"{tail:g}": e.to_dict() for tail, e in zip(tails, cvars, strict=True)}
    return result


def sequential_kl(
    model: Any,
    ref_model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    batch_size: int = 64,
) -> list[float]:
    """Σ_t KL(π(·|s_t)‖π_ref(·|s_t)) along each completion, in nats.

    Averaged over completions drawn from π it estimates the sequence-level KL(π‖π_ref), without the variance that the
    log-ratios of the drawn tokens have.

    Args:
        model, ref_model ([`~transformers.PreTrainedModel`]):
            π and π_ref, with one vocabulary.
        prompt_ids, completion_ids (`Sequence[Sequence[int]]`):
            Token ids of the prompts (none empty) and of π's completions, their end-of-sequence tokens included.
        batch_size (`int`, *optional*, defaults to 64):
            Completions per forward.

    Returns:
        `list[float]`: one number per completion.
    """
    from trl_rsa.evaluation.token_risk import token_drift
    from trl_rsa.risk import Expectation

    # The drift of π_ref from π under the expectation: KL(reference‖policy) with the roles exchanged.
    per_token = token_drift(ref_model, model, prompt_ids, completion_ids, Expectation(), batch_size)
    return [sum(values) for values in per_token]
