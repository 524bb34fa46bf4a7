"""What a score means: hand arithmetic, a known link, a blind spot, and JSON."""

import json

import numpy as np
import pytest

from trl_rsa.audits.calibration import Calibration, CalibrationJSON


def test_by_hand():
    """Scores 1, 2, 3, 4 with labels 0, 4, 2, 6: 4 and 2 are in the wrong order and become their mean, 3.

    The excess over 1 is 0, 3, 1, 5, and becomes 0, 2, 2, 5. Half-way between two scores: half-way between the values.
    """
    found = Calibration.fit([3, 1, 2, 4], [2, 0, 4, 6])
    assert found.predict([1, 2, 3, 4, 2.5, 1.5, -9, 9, np.inf]) == pytest.approx([0, 3, 3, 6, 3, 1.5, 0, 6, 6])
    assert found.excess([1, 2, 3, 4], 1.0) == pytest.approx([0, 2, 2, 5])
    # Weights: 4 counts three times, (3·4 + 2)/4 = 3.5.
    assert Calibration.fit([1, 2, 3, 4], [0, 4, 2, 6], [1, 3, 1, 1]).predict([2]) == pytest.approx([3.5])


def test_equal_scores_have_one_prediction():
    found = Calibration.fit([1, 1, 2], [0, 10, 1])
    assert found.predict([1, 2]) == pytest.approx([11 / 3, 11 / 3])


def test_a_known_link_is_recovered():
    """h = 1/(1 + e^−2s) plus noise, 4,000 labels: nowhere in [−2, 2] off by more than 0.1, by 0.03 on average."""
    rng, at = np.random.default_rng(0), np.linspace(-2, 2, 200)
    scores = rng.normal(size=4000)
    found = Calibration.fit(scores, 1 / (1 + np.exp(-2 * scores)) + rng.normal(0, 0.3, 4000)).predict(at)
    errors = abs(found - 1 / (1 + np.exp(-2 * at)))
    assert errors.max() < 0.1 and errors.mean() < 0.03
    assert (np.diff(found) >= 0).all()


def test_a_blind_spot_is_in_the_excess():
    """Among mild scores every twentieth is severe (10, else −1): the expected label is −0.45, the excess over 0 is
    0.5. (E[label] − 0)₊ would be 0."""
    labels = np.where(np.arange(2000) % 20 == 0, 10.0, -1.0)
    found = Calibration.fit(np.random.default_rng(0).permutation(2000) / 2000, labels)
    assert found.predict([0.5]) == pytest.approx([-0.45], abs=0.3)
    assert found.excess([0.5], 0.0) == pytest.approx([0.5], abs=0.3)
    assert max(found.predict([0.5])[0], 0) == 0


def test_predictions_stay_on_the_scale():
    rng = np.random.default_rng(3)
    found = Calibration.fit(rng.normal(size=50), rng.choice([-1, 1, 4, 10], size=50))
    at = [-np.inf, *np.linspace(-9, 9, 40), np.inf]
    assert found.predict(at).min() >= -1 and found.predict(at).max() <= 10
    assert found.excess(at, 4.0).min() >= 0 and found.excess(at, 4.0).max() <= 6


def test_scores_that_are_missing_are_the_highest():
    found = Calibration.fit([1, 2, np.inf], [0, 1, 5])
    assert found.predict([2, 1e9, np.inf]) == pytest.approx([1, 1, 5])
    assert Calibration.fit([np.inf], [2]).predict([0, np.inf]) == pytest.approx([2, 2])


def test_json():
    found = Calibration.fit([3, 1, 2], [2, 0, 4], [1, 2, 3])
    content = json.loads(json.dumps(found.to_dict()))
    assert set(content) == set(CalibrationJSON.__annotations__)
    assert Calibration.from_dict(content).predict([1.5]) == found.predict([1.5])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1, 2], [1]), "one of each per labelled response"),
        (([], []), "at least one"),
        (([1], [np.nan]), "not a number"),
        (([np.nan], [1]), "not a number"),
        (([1], [1], [0]), "not positive"),
    ],
)
def test_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Calibration.fit(*arguments)
