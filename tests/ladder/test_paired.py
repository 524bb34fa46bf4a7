"""Observations compared on the same prompts: the noise that they share cancels."""

import numpy as np
import pytest

from trl_rsa.ladder.paired import compare_with_chosen, in_words


def test_shared_noise_cancels():
    """Every cost of the chosen model is 0.2 lower on the same prompts: so is its CVaR, in every resample."""
    rng = np.random.default_rng(0)
    costs = rng.normal(size=100)
    prompts = [f"p{i}" for i in range(100)]
    (found,) = compare_with_chosen({1: costs, 2: costs - 0.2}, prompts, 2, 0.1, (-10.0, 10.0), seed=0)
    assert found["number"] == 1
    assert [found[name] for name in ("difference", "low", "high")] == pytest.approx([-0.2] * 3)
    assert in_words(2, found, 0.1, 100) == (
        "On the same prompts the CVaR 0.1 of observation 2 is 0.2 below that of observation 1 (paired 95 % interval "
        "-0.2 to -0.2); these prompts tell them apart."
    )


def test_the_nearest_comes_first_and_costs_are_clipped():
    """Clipped to [0, 1] the costs of 0 and 1 are equal; observation 2 is a third apart."""
    prompts = ["a", "b", "c"]
    costs = {0: [1.0, 5.0, 0.0], 1: [1.0, 1.0, -3.0], 2: [1.0, 1.0, 1.0]}
    found = compare_with_chosen(costs, prompts, 1, 1.0, (0.0, 1.0), seed=0)
    assert [comparison["number"] for comparison in found] == [0, 2]
    assert found[0]["difference"] == 0.0 and found[1]["difference"] == pytest.approx(-1 / 3)


def test_a_far_safer_one_is_not_the_nearest():
    """The chosen observation may not be the safest in one of several costs."""
    costs = {0: [0.0] * 4, 1: [3.0] * 4, 2: [2.9] * 4}
    found = compare_with_chosen(costs, ["a", "b", "c", "d"], 1, 1.0, (0.0, 5.0), seed=0)
    assert [comparison["number"] for comparison in found] == [2, 0]


def test_what_only_noise_separates_is_not_told_apart():
    rng = np.random.default_rng(1)
    costs = {0: rng.normal(size=60), 1: rng.normal(size=60)}
    (found,) = compare_with_chosen(costs, [f"p{i}" for i in range(60)], 1, 0.2, (-10.0, 10.0), seed=0)
    assert found["low"] < 0 < found["high"]
    assert "do not tell them apart: more decide prompts might" in in_words(1, found, 0.2, 60)


def test_an_interval_of_a_few_responses_is_called_so():
    rng = np.random.default_rng(2)
    costs = {0: rng.normal(size=40), 1: rng.normal(size=40)}
    (found,) = compare_with_chosen(costs, [f"p{i}" for i in range(40)], 1, 0.1, (-10.0, 10.0), seed=0)
    assert in_words(1, found, 0.1, 40).endswith("the tail is of about 4 responses, so that this says little.")


def test_models_that_say_the_same_are_not_asked_for_more_prompts():
    costs = {0: [0.0, 1.0] * 100, 1: [0.0, 1.0] * 100}
    (found,) = compare_with_chosen(costs, [f"p{i}" for i in range(200)], 1, 0.2, (-1.0, 1.0), seed=0)
    assert in_words(1, found, 0.2, 200).endswith(": the worst of their responses cost the same.")
