"""Who is asked: probabilities that are known, that are kept, and that look only at what came before."""

import numpy as np
import pytest

from trl_rsa.audits.selection import choose
from trl_rsa.audits.shuffle import prompt_places, uniforms


KEYS = [f"response {i}" for i in range(400)]
SCORES = np.random.default_rng(0).normal(size=400)


def test_numbers_of_keys_are_uniform_and_their_own():
    """The mean of 400 numbers in [0, 1) is ½ ± 3.3 · 0.289 / 20; another purpose gives others."""
    numbers = uniforms(KEYS, 3, "order")
    assert abs(numbers.mean() - 0.5) < 0.048 and numbers.min() >= 0 and numbers.max() < 1
    assert np.array_equal(uniforms(KEYS[50:60], 3, "order"), numbers[50:60])
    for other in (uniforms(KEYS, 3, "label"), uniforms(KEYS, 4, "order")):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.17


def test_places_of_prompts():
    places = prompt_places(["b", "a", "b", "c"], 1)
    assert sorted(set(places)) == [0, 1, 2] and places[0] == places[2]
    # A prompt more leaves the others in their order.
    more = prompt_places(["b", "a", "b", "c", "d"], 1)[:4]
    assert np.array_equal(np.argsort(more, kind="stable"), np.argsort(places, kind="stable"))


def test_the_draw_keeps_its_probabilities():
    """Each response, over 500 seeds: how often it is drawn against its probabilities, by a χ² on 400 of them."""
    drawn, expected, variance = np.zeros(400), np.zeros(400), np.zeros(400)
    for seed in range(500):
        found = choose(KEYS, SCORES, 100, 0.5, seed)
        drawn += found.chosen
        expected += found.probabilities
        variance += found.probabilities * (1 - found.probabilities)
    assert ((drawn - expected) ** 2 / variance).sum() < 400 + 3.3 * np.sqrt(2 * 400)


@pytest.mark.parametrize("uniform", [1.0, 0.85, 0.3])
@pytest.mark.parametrize("scores", [SCORES, np.zeros(400), np.round(SCORES), np.full(400, np.nan)])
def test_the_number_of_labels_and_the_least_probability(uniform, scores):
    found = choose(KEYS, scores, 100, uniform)
    assert found.probabilities.sum() == pytest.approx(100, abs=2)
    assert found.least == pytest.approx(100 * uniform / 400)
    assert found.least <= found.probabilities.min()
    assert found.probabilities.max() <= 1


def test_high_scores_are_asked_about_more_often():
    found = choose(KEYS, SCORES, 100, 0.5)
    worst = np.sort(SCORES)[-20] <= SCORES
    assert found.probabilities[worst].mean() > 2 * found.probabilities[~worst].mean()
    uniform = choose(KEYS, SCORES, 100, 1.0).probabilities
    assert np.allclose(uniform, 0.25)
    # Scores that say nothing change nothing.
    assert choose(KEYS, np.zeros(400), 100, 0.5).probabilities == pytest.approx(uniform, abs=1e-9)


def test_neither_order_nor_batch_have_an_influence():
    order = np.random.default_rng(1).permutation(400)
    found = choose(KEYS, SCORES, 100, 0.5, 7)
    again = choose([KEYS[i] for i in order], SCORES[order], 100, 0.5, 7)
    assert np.array_equal(again.chosen, found.chosen[order])
    assert np.array_equal(again.probabilities, found.probabilities[order])
    assert not np.array_equal(choose(KEYS, SCORES, 100, 0.5, 8).chosen, found.chosen)


def test_a_probability_depends_on_earlier_prompts_only():
    """Two responses per prompt. Another score of the prompt at place 90 changes nothing before it."""
    prompts = [f"prompt {i // 2}" for i in range(400)]
    places = prompt_places(prompts, 7)
    changed = np.where(places == 90, SCORES + 5, SCORES)
    found = choose(KEYS, SCORES, 100, 0.5, 7, prompts).probabilities
    other = choose(KEYS, changed, 100, 0.5, 7, prompts).probabilities
    assert np.array_equal(found[places < 90], other[places < 90])
    assert not np.allclose(found[places == 90], other[places == 90])
    # Also not on the other responses to the prompt.
    one = np.where(np.arange(400) == np.flatnonzero(places == 90)[0], SCORES + 5, SCORES)
    second = np.flatnonzero(places == 90)[1]
    assert choose(KEYS, one, 100, 0.5, 7, prompts).probabilities[second] == found[second]


def test_as_many_labels_as_responses():
    found = choose(KEYS, SCORES, 500)
    assert found.chosen.all() and (found.probabilities == 1).all() and found.least == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"keys": ["a", "a"]}, "a key of its own"),
        ({"scores": [1.0]}, "a key of its own"),
        ({"labels": 0}, "at least one label"),
        ({"uniform": 0.0}, "falls everywhere alike"),
        ({"uniform": 1.5}, "falls everywhere alike"),
    ],
)
def test_errors(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose(**{"keys": ["a", "b"], "scores": [1.0, 2.0], "labels": 1} | change)
