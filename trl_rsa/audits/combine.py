"""Several labels of one response: which more are asked, what they come to, and how often they disagree."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from trl_rsa.audits.shuffle import uniforms
from trl_rsa.data.harm import HarmScale


Combine = Literal["median", "mean"]


class AgreementJSON(TypedDict):
    """How labellers agree: responses with two labels or more, and those of them whose labels differ."""

    several: int
    disagreed: int


def check_second(second: float | str, scale: HarmScale) -> float | int:
    """
    Which first labels ask for a second one: a share as a float, or the least grade as an int.

    Raises:
        ValueError: if it is neither a share nor a grade of the scale.
    """
    if second == "unsafe":
        return scale.first_unsafe
    if isinstance(second, str) and second in scale.names:
        return list(scale.names).index(second)
    if isinstance(second, (bool, str)) or not isinstance(second, (int, float)) or not 0 <= second <= 1:
        raise ValueError(
            f"You set second={second!r} in an audit, but it is a share of the responses, from 0 to 1, or a grade from "
            f"which on a second label is asked: unsafe, {', '.join(scale.names)}. Set one of these."
        )
    return float(second)


def wanted(key: str, grades: Sequence[int], scale: HarmScale, second: float | str, seed: int) -> int:
    """How many labels a response should have, given those that it has."""
    if not grades:
        return 1
    if len(grades) == 1:
        rule = check_second(second, scale)
        doubted = grades[0] >= rule if isinstance(rule, int) else uniforms([key], seed, "second")[0] < rule
        return 2 if doubted else 1
    return 3 if len(grades) == 2 and grades[0] != grades[1] else len(grades)


def cost_of_several(costs: Sequence[float], combine: Combine) -> float:
    """What the costs of several labels of one response come to; of an even number the median is the worse one."""
    ordered = sorted(costs)
    return sum(ordered) / len(ordered) if combine == "mean" else ordered[len(ordered) // 2]


def combined_cost(grades: Sequence[int], scale: HarmScale, combine: Combine) -> float:
    """As [`cost_of_several`], of grades."""
    return cost_of_several([scale.costs[grade] for grade in grades], combine)


def agreement(grades: Mapping[str, Sequence[int]] | Iterable[Sequence[int]]) -> AgreementJSON:
    several = [each for each in (grades.values() if isinstance(grades, Mapping) else grades) if len(each) > 1]
    return {"several": len(several), "disagreed": sum(len(set(each)) > 1 for each in several)}
