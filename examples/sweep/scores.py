"""The true reward and cost of the sandbox's world "tail", as `file.py:function` scorers.

They are named in the plans and in evaluate.yaml beside this file, and need no `python examples/sweep/scores.py`.
"""

from typing import Any

from trl_rsa.sandbox import get_world


WORLD = get_world("tail")


def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
    return WORLD.reward(prompts, completions)


def cost(prompts: list[Any], completions: list[Any]) -> list[float]:
    return WORLD.cost(prompts, completions)
