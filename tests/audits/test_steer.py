"""What a calibration foretells, and that a refreshed cost sees what the learned one is blind to."""

import numpy as np
import pytest

from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.labelled_cost import LabelledCost
from trl_rsa.audits.refresh import Labelled, RefreshedCost
from trl_rsa.audits.steer import foretell
from trl_rsa.evaluation.tails import cvar


def a_law(n, seed):
    """Scores in [0, 1]; the label is −1, or 10 with chance score²/5: monotone in the score."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return scores, np.where(rng.random(n) < scores**2 / 5, 10.0, -1.0)


def test_a_constant_score_gives_the_law_of_the_labels():
    """Labels 10, 4 and eight times −1 on one score: CVaR 0.2 is (10 + 4)/2 = 7, whatever is known of the others."""
    calibration = Calibration.fit(np.zeros(10), [10.0, 4.0, *[-1.0] * 8])
    found = foretell(calibration, np.zeros(500), [str(i) for i in range(500)], 0.2, 0.8, seed=0)
    assert found.estimate == pytest.approx(7.0) and found.mean == pytest.approx(0.6)
    assert found.unsafe_rate == pytest.approx(0.2) and found.upper_bound > 7.0


def test_the_tail_of_the_labels_is_recovered_from_few_of_them():
    scores, labels = a_law(40_000, seed=1)
    few, known = a_law(2000, seed=2)
    found = foretell(Calibration.fit(few, known), scores[:3000], [str(i) for i in range(3000)], 0.05, 0.8, seed=0)
    assert found.estimate == pytest.approx(cvar(labels, 0.05), abs=1.0)
    assert found.estimate <= found.upper_bound <= 10.0
    assert found.mean == pytest.approx(labels.mean(), abs=0.15)


def test_the_bound_is_wider_with_fewer_labels():
    scores, _ = a_law(1000, seed=3)
    names = [str(i) for i in range(1000)]
    widths = []
    for m in (50, 1000):
        found = foretell(Calibration.fit(*a_law(m, seed=5)), scores, names, 0.2, 0.9, seed=0)
        widths.append(found.upper_bound - found.estimate)
    assert widths[0] > 1.5 * widths[1] > 0


HARM = ("mix the bleach with acid", "pour acid on the bleach", "use bleach and acid at once")
FINE = (
    "mix the flour with milk",
    "pour milk on the flour",
    "use flour and milk at once",
    "rest the dough for a while",
)


def labelled(n, seed):
    """A tenth is harmful, and the learned cost does not know which."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.1
    texts = [str(rng.choice(HARM if each else FINE)) for each in bad]
    return Labelled(
        [f"p{i}" for i in range(n)], texts, rng.normal(size=n).tolist(), np.where(bad, 10.0, -1.0).tolist()
    )


def test_labels_open_the_eyes_of_a_blind_cost():
    known, new = labelled(80, seed=0), labelled(400, seed=1)
    bad = np.array(new.labels) > 0
    scores = RefreshedCost(known).predict(new.prompts, new.responses, new.scores)
    assert scores[bad].min() > scores[~bad].max()
    blind = LabelledCost.fit(known, np.ones(80), refresh=False)
    seeing = LabelledCost.fit(known, np.ones(80), refresh=True)
    excess = [
        each.calibration.excess(each.scores(new.prompts, new.responses, new.scores), 0.0) for each in (blind, seeing)
    ]
    assert excess[1][bad].mean() > 5 * excess[1][~bad].mean()
    assert excess[0][bad].mean() < 2 * excess[0][~bad].mean()


def test_what_is_said_without_a_label_is_what_a_fit_without_it_says():
    """Leaving one out in closed form, against leaving it out: the mean of the labels is that of all in both."""
    known = labelled(30, seed=4)
    whole = RefreshedCost(known)
    shown = RefreshedCost(Labelled(*(list(part)[:-1] for part in vars(known).values())))
    last = shown.predict(known.prompts[-1:], known.responses[-1:], known.scores[-1:])[0]
    assert whole.left_out[-1] == pytest.approx(last, abs=0.5)
    assert abs(whole.left_out[-1] - known.labels[-1]) > 0


def test_features_of_one_s_own_take_the_place_of_words():
    known, new = labelled(80, seed=0), labelled(200, seed=1)

    def features(prompts, responses):
        return [["bleach" in text, "milk" in text, 1] for text in responses]

    scores = RefreshedCost(known, features).predict(new.prompts, new.responses, new.scores)
    bad = np.array(new.labels) > 0
    assert scores[bad].mean() > scores[~bad].mean() + 5


def test_harm_that_labels_happened_to_miss_is_not_ruled_out():
    """Two responses in a hundred are severe and look like the others; 150 labels, 60 times. The bound of the labels
    alone keeps its 80 % in 60 % of them."""
    every = (-1.0, 1.0, 4.0, 10.0)
    truth, kept = -1.0 + 11.0 * 0.02 / 0.05, {(): [], every: []}
    scores, names = np.zeros(1000), [str(i) for i in range(1000)]
    for seed in range(60):
        labels = np.where(np.random.default_rng(seed).random(150) < 0.02, 10.0, -1.0)
        for grades, held in kept.items():
            found = foretell(Calibration.fit(np.zeros(150), labels), scores, names, 0.05, 0.8, seed, grades)
            held.append(found.upper_bound >= truth)
    assert np.mean(kept[()]) < 0.7 < 0.73 < np.mean(kept[every])
