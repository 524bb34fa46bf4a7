"""front.json on the page: sentences, tables and the picture, from numbers chosen by hand."""

import copy
import json

import pytest
from made_up_evaluation import fill

from trl_rsa.report import front_markdown, write_report
from trl_rsa.report.front import compared, difference_table, label_of, method_table, sentences
from trl_rsa.report.front_picture import front_plot
from trl_rsa.report.inputs import read_inputs
from trl_rsa.report.style import drawing


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "method": "percentile by prompt"}


def point(name, risk, reward, on_front=True, **more):
    return {
        "name": name,
        "settings": {},
        "risk": estimate(risk, risk - 0.2, risk + 0.2),
        "reward": estimate(reward, reward - 0.1, reward + 0.1),
        "on_front": on_front,
        **more,
    }


def difference(name, method, reward, risk):
    return {"point": name, "method": method, "reward_at_the_same_tail": reward, "risk_at_the_same_reward": risk}


FRONT = {
    "schema_version": 1,
    "created": "2026-01-01T00:00:00+00:00",
    "tail": 0.05,
    "confidence": 0.95,
    "n_resamples": 1000,
    "seed": 0,
    "n_prompts": 600,
    "reference": {"risk": 5.0, "reward": 0.5, "given": False},
    "methods": [
        {
            "name": "SACPO",
            "points": [
                point("DPO", 5.0, 1.6),
                point("SACPO, λ = 2", 2.0, 1.0),
                point("SACPO, λ = 4", 2.5, 0.5, on_front=False),
            ],
            "hypervolume": estimate(1.5, 1.4, 1.6),
            "within": [{"limit": 1.2, "reward": estimate(None)}, {"limit": 2.5, "reward": estimate(1.1, 1.0, 1.2)}],
        },
        {
            "name": "RSA",
            "points": [point("RSA, CVaR ≤ 2.5", 2.2, 1.2, budget=2.5, met=True)],
            "hypervolume": estimate(2.0, 1.9, 2.1),
            "within": [{"limit": 1.2, "reward": estimate(None)}, {"limit": 2.5, "reward": estimate(1.2, 1.1, 1.3)}],
        },
    ],
    "differences": [
        difference("DPO", "RSA", estimate(None), estimate(None)),
        difference("RSA, CVaR ≤ 2.5", "SACPO", estimate(0.16, 0.1, 0.2), estimate(-0.8, -1.7, 0.1)),
    ],
}


def changed(**entries):
    front = copy.deepcopy(FRONT)
    front["differences"][1] |= entries
    return front


def test_a_difference_is_a_finding_only_where_its_interval_is_on_one_side():
    ((about, sentence),) = sentences(FRONT)
    assert about == "RSA, CVaR ≤ 2.5 against SACPO"
    assert sentence == (
        "At the same tail its average reward is 0.16 higher than SACPO's [+0.10, +0.20]; at the same reward its CVaR "
        "of cost is 0.80 lower than SACPO's, which is not settled: the interval is [−1.70, +0.10]."
    )


def test_a_loss_is_said_as_a_loss_and_what_was_not_measured_is_not_said():
    front = changed(reward_at_the_same_tail=estimate(-0.2, -0.3, -0.1), risk_at_the_same_reward=estimate(None))
    ((_, sentence),) = sentences(front)
    assert sentence == (
        "At the same tail its average reward is 0.20 lower than SACPO's [−0.30, −0.10], which is not settled: it is "
        "one model against the best of 3, chosen on the same prompts."
    )
    # Where the first method has one model, nothing was chosen.
    front["methods"][0]["points"] = front["methods"][0]["points"][:1]
    ((_, sentence),) = sentences(front)
    assert sentence == "At the same tail its average reward is 0.20 lower than SACPO's [−0.30, −0.10]."
    assert not list(sentences(changed(reward_at_the_same_tail=estimate(None), risk_at_the_same_reward=estimate(None))))
    front = changed(reward_at_the_same_tail=estimate(0.2), risk_at_the_same_reward=estimate(None))
    assert next(iter(sentences(front)))[1].endswith("0.20 higher than SACPO's (no interval).")


def test_a_higher_tail_is_against_the_model_and_few_prompts_settle_nothing():
    front = changed(reward_at_the_same_tail=estimate(None), risk_at_the_same_reward=estimate(0.8, 0.1, 1.7))
    ((_, sentence),) = sentences(front)
    assert sentence.endswith(
        "higher than SACPO's [+0.10, +1.70], which is not settled: it is one model against the "
        "best of 3, chosen on the same prompts."
    )
    ((_, sentence),) = sentences(FRONT | {"n_prompts": 71})
    assert "0.16 higher than SACPO's [+0.10, +0.20], which is not settled: too few prompts to say;" in sentence


def test_the_same_model_is_said_to_be_the_same_and_gets_no_arrow():
    zero = estimate(0.0, 0.0, 0.0)
    same = changed(reward_at_the_same_tail=zero, risk_at_the_same_reward=zero)
    ((_, sentence),) = sentences(same)
    assert sentence.startswith("At the same tail its average reward is that of SACPO; at the same reward its CVaR")
    with drawing():
        assert not [text for text in texts_of(front_plot(same)) if text.endswith(("reward", "CVaR"))]


def test_the_tables():
    headings, rows = method_table(FRONT)
    assert headings == ["Method", "Models", "Reward at CVaR ≤ 1.2", "Reward at CVaR ≤ 2.5", "Hypervolume"]
    assert rows[0] == ["SACPO", "3", "not measured", "1.10 [1.00, 1.20]", "1.50 [1.40, 1.60]"]
    headings, rows = difference_table(FRONT)
    assert rows == [["RSA, CVaR ≤ 2.5", "+0.16 [+0.10, +0.20]", "−0.80 [−1.70, +0.10]"]]
    assert [one["point"] for one in compared(FRONT)] == ["RSA, CVaR ≤ 2.5"], "DPO against RSA is the other way round"


def test_the_markdown_states_the_reference_and_how_numbers_are_read():
    text = front_markdown(FRONT)
    assert "| SACPO | 3 | not measured |" in text
    assert "the reference point, CVaR 5.00 and reward 0.50, the worst of all points in each" in text
    assert "unfair to the single model beside it, and its interval does not correct for that" in text
    assert "nobody has trained a model" in text and "600 prompts for all models" in text


@pytest.mark.parametrize(
    ("name", "method", "label"), [("SACPO, λ = 2", "SACPO", "λ = 2"), ("DPO", "SACPO", "DPO"), ("λ=1", "a", "λ=1")]
)
def test_a_label_does_not_repeat_the_method(name, method, label):
    assert label_of({"name": name}, method) == label


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_picture_names_points_budgets_and_what_lies_between():
    with drawing():
        figure = front_plot(FRONT)
    axes = figure.axes[0]
    assert {"DPO", "λ = 2", "λ = 4", "CVaR ≤ 2.5", "budget 2.5", "+0.16 reward", "−0.80 CVaR"} <= set(texts_of(figure))
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in lines] == [[5.0, 2.0, 2.5]], "in the order of λ"
    # The arrow at the same tail begins on the other's front, 0.16 below the point.
    starts = [annotation.xyann for annotation in axes.texts if getattr(annotation, "arrow_patch", None) is not None]
    assert (2.2, pytest.approx(1.04)) in starts and (pytest.approx(3.0), 1.2) in starts
    hollow = [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "#fffffe"]
    assert [line.get_xdata()[0] for line in hollow] == [2.5]


def test_many_points_are_not_covered_by_names_and_arrows():
    front = copy.deepcopy(FRONT)
    front["methods"][1]["points"] = [point(f"RSA {i}", 2 + i / 10, 1 + i / 10, budget=2.5 + i) for i in range(20)]
    front["differences"] = [difference(f"RSA {i}", "SACPO", estimate(0.1), estimate(-0.1)) for i in range(20)]
    with drawing():
        assert texts_of(front_plot(front)) == []


def test_the_page_shows_the_front_in_place_of_the_tradeoff(tmp_path):
    folder = fill(tmp_path, n=20, complete=False)
    (folder / "front.json").write_text(json.dumps(FRONT | {"notes": ["1 point is <left> out: c_d."]}))
    written = write_report(folder)
    page = written["html"].read_text()
    assert "<li>1 point is &lt;left&gt; out: c_d.</li>" in page
    assert "\n* 1 point is &lt;left&gt; out: c\\_d.\n" in written["markdown"].read_text()
    assert "Who pays what" in page and "At the same tail its average reward is 0.16 higher" in page
    assert (written["plots"] / "front.png").exists() and not (written["plots"] / "tradeoff.png").exists()
    assert "plots/front.png" in written["markdown"].read_text()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"methods": []}',
        json.dumps(FRONT | {"methods": {"a": 1}}),
        json.dumps(FRONT | {"methods": [{"name": "A"}, *FRONT["methods"]]}),
        json.dumps(FRONT | {"methods": FRONT["methods"][:1]}),  # a difference of a model that is not there
        json.dumps(FRONT | {"tail": "x"}),
        json.dumps(FRONT | {"notes": "x"}),
    ],
)
def test_a_damaged_front_is_left_out_and_said(tmp_path, content):
    folder = fill(tmp_path, n=20, complete=False)
    (folder / "front.json").write_text(content)
    inputs = read_inputs(folder)
    assert inputs.front is None and [line for line in inputs.warnings if line.startswith("front.json is")]
