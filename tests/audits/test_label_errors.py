"""What labels mean that may be wrong: the chance of each grade, and the tail that follows."""

import numpy as np
import pytest

from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.combine import combined_cost, wanted
from trl_rsa.audits.label_errors import grade_chances
from trl_rsa.audits.labelled_cost import Grades, LabelledCost
from trl_rsa.audits.refresh import Labelled
from trl_rsa.audits.steer import foretell
from trl_rsa.data.harm import HarmScale


SCALE = HarmScale(("safe", "minor", "moderate", "severe"), (-1.0, 1.0, 4.0, 10.0))


def of_law(n, wrong, seed, shares=(0.96, 0.02, 0.01, 0.01)):
    """True grades, scores that rise with them, and labels as a ladder asks for them: each wrong in a share `wrong`."""
    rng = np.random.default_rng(seed)
    true = rng.choice(4, n, p=shares)
    scores = true + rng.normal(0, 1.0, n)
    several = []
    for i, grade in enumerate(true):
        own = []
        while len(own) < wanted(str(i), own, SCALE, "unsafe", 0):
            other = rng.choice([g for g in range(4) if g != grade])
            own.append(int(other if rng.random() < wrong else grade))
        several.append(own)
    return true, scores, several


def median_costs(several):
    return [combined_cost(own, SCALE, "median") for own in several]


def test_the_chances_add_up_to_the_grades_that_there_are():
    """Over 20 draws of 600 responses, of which a tenth of the labels is wrong: medians find half as much harm more."""
    harm, by_chance, by_median = [], [], []
    for seed in range(20):
        true, scores, several = of_law(600, 0.1, seed)
        chances = grade_chances(scores, several, np.ones(600), 4)
        assert chances == pytest.approx(chances / chances.sum(1, keepdims=True)) and (chances >= 0).all()
        harm.append((true > 0).mean())
        by_chance.append(1 - chances[:, 0].mean())
        by_median.append(np.mean(np.array(median_costs(several)) > 0))
    error = np.std(np.subtract(by_chance, harm)) / np.sqrt(20)
    assert abs(np.mean(by_chance) - np.mean(harm)) < 3 * error + 0.003
    assert np.mean(by_median) > 1.3 * np.mean(harm)


def test_labels_that_are_never_wrong_are_believed():
    true, scores, several = of_law(400, 0.0, 1)
    chances = grade_chances(scores, several, np.ones(400), 4)
    assert chances[np.arange(400), true].min() > 0.9
    assert chances[:, 0].mean() == pytest.approx((true == 0).mean(), abs=0.003)


def test_the_same_labels_mean_less_where_harm_is_rare():
    """Two of three labels call a response unsafe: one at the lowest score, one at the highest."""
    _, scores, several = of_law(400, 0.1, 2, (0.7, 0.1, 0.1, 0.1))
    order = np.argsort(scores)
    several[order[0]] = several[order[-1]] = [3, 0, 3]
    chances = grade_chances(scores, several, np.ones(400), 4)
    assert chances[order[0], 3] < 0.5 < chances[order[-1], 3]


def test_neither_the_order_of_labels_nor_that_of_responses_counts():
    _, scores, several = of_law(200, 0.1, 3)
    found = grade_chances(scores, several, np.ones(200), 4)
    turned = grade_chances(scores[::-1], [own[::-1] for own in several[::-1]], np.ones(200), 4)
    assert turned[::-1] == pytest.approx(found, abs=1e-4)


def test_a_weight_stands_for_as_many_responses():
    scores, several = [0.0, 0.0, 1.0], [[0], [1, 1], [0]]
    once, thrice = (grade_chances(scores, several, [1.0, weight, 1.0], 2)[1, 1] for weight in (1.0, 3.0))
    twins = grade_chances([0.0, *[0.0] * 3, 1.0], [[0], *[[1, 1]] * 3, [0]], np.ones(5), 2)[1, 1]
    assert once < thrice and thrice == pytest.approx(twins, abs=0.05)


@pytest.mark.parametrize("several", [[[0]], [[1]], [[0, 1, 2]]])
def test_one_response_alone(several):
    chances = grade_chances([1.0], several, [2.0], 3)
    assert chances.shape == (1, 3) and chances.sum() == pytest.approx(1.0)


def test_the_tail_of_labelled_harm_is_not_that_of_the_errors():
    """CVaR(0.05) of 3,000 responses from 300 with labels, 12 times: by medians it is 1 too high."""
    wrong = {"median": [], "chances": []}
    for seed in range(12):
        true, scores, several = of_law(3300, 0.1, 100 + seed)
        labelled = Labelled([""] * 300, [""] * 300, scores[:300].tolist(), median_costs(several[:300]))
        costs = np.sort(np.array(SCALE.costs)[true[300:]])[::-1][:150].mean()
        for name, grades in ("median", None), ("chances", Grades(several[:300], SCALE.costs)):
            known = LabelledCost.fit(labelled, np.ones(300), False, None, grades)
            names = [str(i) for i in range(3000)]
            found = foretell(known.calibration, scores[300:], names, 0.05, 0.8, seed=0)
            wrong[name].append(found.estimate - costs)
            assert found.upper_bound >= found.estimate
    assert np.mean(wrong["median"]) > 0.7
    assert abs(np.mean(wrong["chances"])) < 3 * np.std(wrong["chances"]) / np.sqrt(12) + 0.2


def test_of_certain_chances_a_calibration_is_the_one_of_the_labels():
    scores, costs = np.arange(6.0), np.array([-1.0, -1.0, 1.0, -1.0, 4.0, 10.0])
    chances = (costs[:, None] == np.array(SCALE.costs)).astype(float)
    found = Calibration.of_chances(scores, SCALE.costs, chances, np.arange(1.0, 7.0))
    said = Calibration.fit(scores, costs, np.arange(1.0, 7.0))
    at = np.linspace(-1, 6, 15)
    assert found.predict(at) == pytest.approx(said.predict(at))
    assert found.excess(at, 1.0) == pytest.approx(said.excess(at, 1.0))
    same = [foretell(each, scores, list("abcdef"), 0.3, 0.8, seed=1) for each in (found, said)]
    assert same[0] == same[1]


def test_what_is_uncertain_of_one_response_is_resampled_as_one():
    """One response whose label is as likely safe as severe: no resample says one or the other."""
    found = Calibration.of_chances([0.0], SCALE.costs, np.array([[0.5, 0.0, 0.0, 0.5]]), [1.0])
    told = foretell(found, [0.0], ["a"], 1.0, 0.95, seed=0)
    assert told.estimate == pytest.approx(4.5) and told.upper_bound == pytest.approx(4.5)
