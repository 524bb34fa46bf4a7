"""Rules for the next Lagrange multiplier: numbers in, a number out. No state.

A point is a place and the upper bound of the risk of cost observed there. While climbing the place is λ; walking back,
it is the share of the last rung.
"""

import math
from collections.abc import Sequence


RULES = ("bracket", "dual_ascent", "log_dual_ascent")

Point = tuple[float, float]

# A secant through a convex curve falls short of its target by ever smaller steps. A rung is dear and a walk-back is
# cheap, so a climbing step is at least this share of the last.
_LEAST_STEP = 0.5


def dual_ascent(multiplier: float, violation: float, learning_rate: float) -> float:
    """Gradient ascent of the Lagrangian in λ: its derivative is the violation b − threshold."""
    return multiplier + learning_rate * violation


def log_dual_ascent(multiplier: float, violation: float, learning_rate: float) -> float:
    """Gradient ascent in log λ, Safe RLHF's update (2310.12773): d(λ·violation)/d(log λ) = λ·violation."""
    try:
        return multiplier * math.exp(learning_rate * multiplier * violation)
    except OverflowError:
        return math.inf


def secant(points: Sequence[Point], target: float) -> float:
    """
    Where the line through the last two points meets the target, but at least half the last step further on.

    Args:
        points (`Sequence[Point]`):
            In the order of their λ, two different ones at least.
        target (`float`):
            The bound to aim at, below the last point's.

    Returns:
        `float`: beyond the last λ; infinite where the bound did not fall.
    """
    multiplier, bound = points[-1]
    # With several constraints on one ladder, a rung for another one leaves this λ as it was.
    before, bound_before = next(point for point in reversed(points) if point[0] < multiplier)
    step = multiplier - before
    slope = (bound - bound_before) / step
    needed = (target - bound) / slope if slope < 0 else math.inf
    return multiplier + max(needed if math.isfinite(needed) else math.inf, _LEAST_STEP * step)


def bracket(points: Sequence[Point], threshold: float) -> tuple[Point, Point]:
    """The furthest point that fails the threshold, and the nearest that holds it."""
    low = max((point for point in points if point[1] > threshold), key=lambda point: point[0])
    high = min((point for point in points if point[1] <= threshold), key=lambda point: point[0])
    return low, high


def false_position(points: Sequence[Point], threshold: float, target: float) -> float:
    """
    Where the line between the ends of the bracket meets the target; the middle, if the last point left more than half
    of the bracket before it.

    Args:
        points (`Sequence[Point]`):
            In the order of observation: two ends first, then points inside, each of which narrowed the bracket.
        threshold (`float`), target (`float`):
            What a point must hold, and the bound to aim at.
    """
    low, high = bracket(points, threshold)
    share = (low[1] - target) / (low[1] - high[1])
    if len(points) > 2:
        low_before, high_before = bracket(points[:-1], threshold)
        if high[0] - low[0] > (high_before[0] - low_before[0]) / 2:
            share = 0.5
    return low[0] + (share if math.isfinite(share) else 0.5) * (high[0] - low[0])
