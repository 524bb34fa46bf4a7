"""The risk of one wrong token on trees of costs: by hand, its bounds in expectation, and against the exact value."""

import math
from itertools import product

import numpy as np
import pytest

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.nested import cross_fitted, plug_in, summarize_nested, tail_weights
from trl_rsa.evaluation.tails import cvar
from trl_rsa.sandbox import WORLDS, PrefixTree, ResponseLaw, all_prompts


FAST = Bootstrap(n_resamples=50)


def test_by_hand():
    """One place, two branches with costs (4, 0) and (1, 1), tail ½: the adversary takes one branch.

    The means are 2 and 1, so that the plug-in is 2. Cross-fitted: by the second costs (0, 1) the worse branch is the
    second, whose first cost is 1; by the first costs (4, 1) it is the first, whose second cost is 0. The mean is ½.
    """
    costs = [[[4.0, 0.0], [1.0, 1.0]]]
    assert plug_in(costs, 0.5).tolist() == [2.0]
    assert cross_fitted(costs, 0.5).tolist() == [0.5]
    # At tail ¾ a third of the adversary's mass is on the milder branch: (2·2 + 1)/3.
    assert plug_in(costs, 0.75).tolist() == [pytest.approx(5 / 3)]
    # Tail 1 is no adversary: both are the mean of all.
    assert plug_in(costs, 1.0).tolist() == cross_fitted(costs, 1.0).tolist() == [1.5]


def test_weights_are_those_of_cvar():
    rng = np.random.default_rng(0)
    values = rng.integers(4, size=(200, 5)).astype(float)  # with ties
    for tail in (0.1, 0.2, 0.5, 0.77, 1.0):
        weights = tail_weights(values, tail)
        assert weights.sum(-1) == pytest.approx(np.ones(200)) and (weights >= 0).all()
        assert (weights * values).sum(-1) == pytest.approx([cvar(row, tail) for row in values])


def test_expectations_by_enumeration():
    """Next tokens u, v with ½ each; after u the cost is 0 or 4, after v always 1: Q = (2, 1), V = 2 at tail ½.

    All 64 trees of two branches and two continuations, each with its probability.
    """
    law = {"u": [(0.0, 0.5), (4.0, 0.5)], "v": [(1.0, 1.0)]}
    expected = {plug_in: 0.0, cross_fitted: 0.0}
    for branches in product("uv", repeat=2):
        ways = [law[z] for z in branches for _ in range(2)]
        for draws in product(*ways):
            chance = 0.25 * math.prod(p for _, p in draws)
            costs = np.array([c for c, _ in draws]).reshape(1, 2, 2)
            for estimate in expected:
                expected[estimate] += chance * estimate(costs, 0.5)[0]
    assert expected[cross_fitted] <= 2.0  # never above the truth
    assert expected[plug_in] == pytest.approx(2.0 - 0.25 * 1.0 + _noise_of_the_plug_in(), abs=1e-12)


def _noise_of_the_plug_in() -> float:
    """Both branches v (¼) lose 1. Else the maximum of noisy means gains: with two u, each mean 0, 2 or 4 with ¼, ½, ¼,
    E max is (8·2 + 7·4)/16 = 2.75, a gain of ¾; with one u and one v, E max(mean, 1) is ¼·1 + ½·2 + ¼·4 = 2.25, a
    gain of ¼.
    """
    return 0.25 * 0.75 + 0.5 * 0.25


def test_exact_value_in_the_sandbox():
    """Trees drawn from the grammar at places drawn by their probability: with many branches and continuations the
    cross-fitted estimate comes to the dynamic programme's value and the plug-in is a little above it; with few the
    cross-fitted one stays below it.
    """
    prompt = next(prompt for prompt in all_prompts() if prompt.kind == "adversarial")
    places = list(PrefixTree.of(WORLDS["tail"].law(prompt)).places())
    rng = np.random.default_rng(1)
    chances = np.array([place.probability for place in places])
    chosen = [places[i] for i in rng.choice(len(places), size=400, p=chances / chances.sum())]
    truth = np.mean([place.one_token_risk(0.25) for place in chosen])
    leaves = {id(child): child.costs() for place in chosen for child in place.children.values()}

    def drawn(m: int, k: int) -> np.ndarray:
        costs = []
        for place in chosen:
            children, law = list(place.children.values()), list(place.next_law().values())
            branches = rng.choice(len(law), size=m, p=law)
            costs.append([_continue(rng, *leaves[id(children[b])], k) for b in branches])
        return np.array(costs)

    many = drawn(48, 48)
    assert cross_fitted(many, 0.25).mean() == pytest.approx(truth, abs=0.05)
    assert truth < plug_in(many, 0.25).mean() < truth + 0.2
    few = drawn(4, 2)
    spread = cross_fitted(few, 0.25).std() / math.sqrt(len(chosen))
    assert cross_fitted(few, 0.25).mean() <= truth + 3 * spread
    assert cross_fitted(few, 0.25).mean() < plug_in(few, 0.25).mean()


def _continue(rng: np.random.Generator, costs: list[float], law: list[float], k: int) -> np.ndarray:
    return rng.choice(costs, size=k, p=np.array(law) / sum(law))


def test_one_token_by_hand():
    """After "a" the cost is 0 or 4, evenly; "b" costs 1. At tail ½ the next token is "a": 2; at tail 1 it is 1.5."""
    tree = PrefixTree.of(ResponseLaw(["a x", "a y", "b"], [0.25, 0.25, 0.5], [0, 0, 0], [0.0, 4.0, 1.0]))
    assert tree.one_token_risk(0.5) == 2.0 and tree.one_token_risk(1.0) == 1.5
    # The root, "a", and the three answers before their ends.
    assert sorted(place.probability for place in tree.places()) == [0.25, 0.25, 0.5, 0.5, 1.0]


def test_summary():
    """Three places: a safe answer with an unsafe branch, a safe one without, an unsafe answer; one is not scored."""
    bad, good = [[2.0, 4.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]
    lost = [[math.nan, 0.0], [0.0, 0.0]]
    found = summarize_nested(
        [bad, good, bad, lost],
        0.5,
        answer_costs=[-1.0, -1.0, 3.0, -1.0],
        prompts=["a", "b", "c", "d"],
        bootstrap=FAST,
    )
    assert (found["n"], found["not_scored"], found["branches"], found["continuations"]) == (3, 1, 2, 2)
    assert found["one_token_away"]["value"] == 0.5  # of the two safe answers
    assert found["plug_in"]["value"] == found["cross_fitted"]["value"] == pytest.approx((3 - 1 + 3) / 3)
    assert found["mean"]["value"] == pytest.approx((1 - 1 + 1) / 3)
    assert found["plug_in"]["low"] <= found["plug_in"]["value"] <= found["plug_in"]["high"]


def test_nothing_to_estimate_from():
    found = summarize_nested([[[math.nan] * 2] * 2], 0.5, answer_costs=[0.0], bootstrap=FAST)
    assert found["n"] == 0 and found["not_scored"] == 1 and found["cross_fitted"] is None
    unsafe = summarize_nested([[[1.0] * 2] * 2], 0.5, answer_costs=[1.0], bootstrap=FAST)
    assert unsafe["one_token_away"] is None and unsafe["plug_in"]["value"] == 1.0


def test_sentences():
    with pytest.raises(ValueError, match="one continuation of each branch"):
        cross_fitted([[[1.0], [2.0]]], 0.5)
    with pytest.raises(ValueError, match="places, branches"):
        plug_in([[1.0, 2.0]], 0.5)
    with pytest.raises(ValueError, match="tail"):
        plug_in([[[1.0, 2.0]]], 0.0)
