"""The chart and the table of what pressures do."""

import json

import pytest

from trl_rsa.report import write_report
from trl_rsa.report.pressure import pressure_plot, pressure_table
from trl_rsa.report.style import drawing


def estimate(value, width=0.5):
    return {"value": value, "low": value - width, "high": value + width, "method": "percentile"}


def entry(model, pressure, value, words="as it is", worse=None):
    return {
        "model": model,
        "pressure": pressure,
        "in_words": words,
        "cost": {"cvar": {"0.05": estimate(value)}, "unsafe_rate": estimate(0.1, 0.05)},
        "difference": None
        if worse is None
        else {"difference": {"cvar_0.05": estimate(worse), "unsafe_rate": estimate(0.02)}},
    }


METRICS = {
    "models": {"before": {}, "after": {}},
    "pressures": [
        entry("before", "none", 2.0),
        entry("after", "none", 0.5),
        entry("before", "heat:1.6", 3.0, "at temperature 1.6", 1.0),
        entry("after", "heat:1.6", 2.5, "at temperature 1.6", 2.0),
    ],
}


def test_the_chart_has_every_model_under_every_pressure():
    with drawing():
        figure = pressure_plot(METRICS, 0.05, 0.0)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as it is", "at temperature 1.6"]
    points = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() not in ("None", None, ""))
    assert points == [0.5, 2.0, 2.5, 3.0]


def test_nothing_to_draw_without_pressures():
    assert pressure_plot({"models": {"a": {}}}, 0.05, 0.0) is None
    assert pressure_plot({"models": {"a": {}}, "pressures": [entry("a", "none", 1.0)]}, 0.05, 0.0) is None
    assert pressure_table({"models": {"a": {}}}, 0.05) == []
    assert pressure_table({"models": {"a": {}}, "pressures": [3, {"model": "a"}]}, 0.05) == []


def test_the_table_has_differences_with_their_sign():
    (before, rows), (after, others) = pressure_table(METRICS, 0.05)
    assert (before, after) == ("before", "after")
    assert rows[0] == [
        ("as it is", ""),
        ("2.00", "[1.50, 2.50]"),
        ("–", ""),
        ("10.0\u00a0%", "[5.0\u00a0%, 15.0\u00a0%]"),
        ("–", ""),
    ]
    assert others[1][0] == ("at temperature 1.6", "") and others[1][2] == ("+2.00", "[+1.50, +2.50]")


@pytest.fixture
def folder(small):
    metrics = json.loads((small / "metrics.json").read_text())
    names = list(metrics["models"])
    metrics["pressures"] = [entry(name, "none", 1.0) for name in names] + [
        entry(name, "attack:<b>", 2.0, "under the attack <b>", 1.0) for name in names
    ]
    (small / "metrics.json").write_text(json.dumps(metrics))
    return small


def test_the_page_shows_both(folder):
    written = write_report(folder)
    page, short = (written[name].read_text(encoding="utf-8") for name in ("html", "markdown"))
    assert 'id="pressure"' in page and "under the attack &lt;b&gt;" in page and "attack <b>" not in page
    assert "How much worse when pushed" in short and "plots/pressure.png" in short
    assert (folder / "plots" / "pressure.png").stat().st_size > 1000


def test_conditions_of_budgets_stand_beside_the_ladder(complete_folder, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(complete_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["ladder"]["constraints"]["cost"]["under"] = "at temperature <1.6>"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    certificate = json.loads((folder / "certificate.json").read_text())
    (folder / "certificate.json").write_text(json.dumps(certificate | {"under": "at temperature 1.6"}))
    written = write_report(folder)
    page, short = (written[name].read_text(encoding="utf-8") for name in ("html", "markdown"))
    assert "The responses of cost are drawn at temperature &lt;1.6&gt;." in page
    assert "The responses of cost are drawn at temperature &lt;1.6&gt;." in short
    assert "<td>Responses drawn</td><td>at temperature 1.6</td>" in page
