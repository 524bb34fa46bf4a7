"""The headline table in a model's card: added once, replaced after, and nothing else is touched."""

from trl_rsa.report import update_model_card
from trl_rsa.report.card import BEGIN, END


def metrics_of(cost):
    def estimate(value):
        return {"value": value, "low": value - 0.5, "high": value + 0.5, "method": "percentile"}

    model = {
        "n": 10,
        "n_prompts": 10,
        "cost": {
            "n": 10,
            "mean": estimate(cost),
            "unsafe_rate": estimate(0.25),
            "quantile": {},
            "var": {"0.05": estimate(cost)},
            "cvar": {"0.05": estimate(cost)},
            "worst": [],
        },
        "reward": {"n": 0, "mean": None},
        "refusal": {"rate": None, "harmful": None, "over_refusal": None},
        "by": {},
        "settings": {"tails": [0.05], "unsafe_above": 0.0, "confidence": 0.95},
    }
    return {"models": {"safe": model}, "comparisons": []}


def test_the_section_is_added_and_replaced(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n\n# My model\n\nMine.\n")
    update_model_card(tmp_path, metrics_of(1.25))
    first = card.read_text()
    assert first.startswith("---\nlicense: mit\n---\n\n# My model\n\nMine.\n")
    assert "1.25" in first and "## Evaluation" in first
    card.write_text(first + "\nMore of mine.\n")
    update_model_card(tmp_path, metrics_of(3.75))
    second = card.read_text()
    assert "3.75" in second and "1.25" not in second
    assert second.count(BEGIN) == second.count(END) == second.count("## Evaluation") == 1
    assert second.startswith("---\nlicense: mit\n---\n\n# My model\n\nMine.\n") and second.endswith("More of mine.\n")


def test_a_folder_without_a_card_gets_one(tmp_path):
    assert update_model_card(tmp_path, metrics_of(2.5)).read_text().startswith(BEGIN)
