"""Reward against the tail of cost: the Pareto front of some models, its hypervolume, the reward at a tail.

Risk is better where it is lower, reward where it is higher. Arrays in, numbers out: nothing here knows where they come
from. A *front* is read as the line through its points in order of risk. What lies between two points is a model that
nobody has trained, so that the line is a guide for the eye and for comparisons, not a promise; beyond the points there
is no line at all.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


Array = NDArray[np.float64]


def pareto_front(risks: ArrayLike, rewards: ArrayLike) -> NDArray[np.intp]:
    """The points that no other beats: none has at most their risk and at least their reward, one of them strictly.

    Args:
        risks, rewards (`ArrayLike` of shape `[m]`):
            The points. One that is not a number in either is on no front.

    Returns:
        `np.ndarray` of shape `[k]`: their indices. Both risk and reward rise strictly along them; of equal points the
        first one stands for all.
    """
    risks, rewards = _points(risks, rewards)
    order = np.lexsort((-rewards, risks))  # the least risk first, of equal ones the highest reward
    order = order[np.isfinite(risks[order]) & np.isfinite(rewards[order])]
    highest_before = np.concatenate([[-np.inf], np.maximum.accumulate(rewards[order])[:-1]])[: order.size]
    return order[rewards[order] > highest_before]


def hypervolume(risks: ArrayLike, rewards: ArrayLike, reference: tuple[float, float]) -> float:
    """The area between the front and a reference point: of all (risk, reward) that some point beats and that beat it.

    It counts measured points only, nothing between them: under (1, 1) and (2, 3), with the reference (4, 0), it is
    (2 − 1)·1 + (4 − 2)·3 = 7.

    Args:
        risks, rewards (`ArrayLike` of shape `[m]`):
            The points, in any order.
        reference (`tuple[float, float]`):
            Its risk and its reward, both worse than those that are to count. Volumes with different ones cannot be
            compared.
    """
    risks, rewards = _points(risks, rewards)
    front = pareto_front(risks, rewards)
    right, bottom = reference
    front = front[(risks[front] < right) & (rewards[front] > bottom)]
    widths = np.diff(np.append(risks[front], right))
    return float(widths @ (rewards[front] - bottom))


def reward_within(risks: ArrayLike, rewards: ArrayLike, limit: float) -> float:
    """The highest reward on the front at a risk of at most `limit`.

    Between two points of the front it lies on the line through them. Beyond the last one it is that point's reward,
    which was measured within the limit. Below the least risk nothing was measured, and it is NaN.

    Args:
        risks, rewards (`ArrayLike` of shape `[m]`):
            The points, in any order.
        limit (`float`):
            The largest risk allowed.
    """
    risks, rewards = _points(risks, rewards)
    front = pareto_front(risks, rewards)
    if not front.size or not limit >= risks[front[0]]:
        return float("nan")
    return float(np.interp(limit, risks[front], rewards[front]))


def risk_for(risks: ArrayLike, rewards: ArrayLike, reward: float) -> float:
    """The least risk on the front at a reward of at least `reward`: [`reward_within`] read the other way.

    Below the front's least reward it is the least risk, which was measured with more reward. Above the highest reward
    nothing was measured, and it is NaN.
    """
    risks, rewards = _points(risks, rewards)
    front = pareto_front(risks, rewards)
    if not front.size or not reward <= rewards[front[-1]]:
        return float("nan")
    return float(np.interp(reward, rewards[front], risks[front]))


def _points(risks: ArrayLike, rewards: ArrayLike) -> tuple[Array, Array]:
    found = np.asarray(risks, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    if found[0].ndim != 1 or found[0].shape != found[1].shape:
        raise ValueError(
            f"You gave risks of shape {found[0].shape} and rewards of shape {found[1].shape}, but a point has one of "
            "each. Give two lists of equal length."
        )
    return found
