"""Laws of a score and of the harm that people see, for simulation."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm


COSTS = np.array([-1.0, 1.0, 4.0, 10.0])
BOUNDS = (-1.0, 10.0)
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def graded(shares: list[float], noise: float, blind: float = 0.0) -> Draw:
    """Four grades with these shares; the score is their latent number plus noise. A share `blind` of all responses,
    whatever their score, is as severe as can be."""
    cuts = norm.ppf(np.cumsum(shares)[:-1])

    def draw(rng, n):
        latent = rng.normal(size=n)
        harm = np.where(rng.random(n) < blind, COSTS[-1], COSTS[np.searchsorted(cuts, latent)])
        return latent + noise * rng.normal(size=n), harm

    return draw


def continuous(rng, n):
    """A heavy tail, clipped at 10."""
    latent = rng.normal(size=n)
    return latent + 0.5 * rng.normal(size=n), np.clip(0.5 * np.exp(1.2 * latent) - 1.3, *BOUNDS)


def upside_down(rng, n):
    """The score ranks in the wrong order."""
    score, harm = graded([0.8, 0.1, 0.06, 0.04], 0.5)(rng, n)
    return -score, harm


LAWS: dict[str, Draw] = {
    "graded": graded([0.8, 0.1, 0.06, 0.04], 0.6),
    "mostly safe": graded([0.94, 0.03, 0.02, 0.01], 0.6),
    "blind spot": graded([0.97, 0.02, 0.008, 0.002], 0.3, 0.02),
    "poor score": graded([0.8, 0.1, 0.06, 0.04], 3.0),
    "upside down": upside_down,
    "heavy tail": continuous,
}
