"""The bias of the estimates of one wrong token: a small run, and the table in the documentation."""

import csv
from pathlib import Path

import pytest

from benchmarks.nested_risk import main, measure


ROOT = Path(__file__).parents[2]


def test_small_run(tmp_path, capsys):
    main(["--places", "6", "--out", str(tmp_path / "found.csv")])
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["world"] for row in rows} == {"tail", "delayed"} and len(rows) == 12
    assert capsys.readouterr().out.count("|\n") == 14
    assert float(rows[0]["truth"]) > float(rows[0]["mean"]) - 1.0


def test_same_seed_same_numbers():
    assert measure("tail", 5, [(2, 2)]) == measure("tail", 5, [(2, 2)])


def test_the_page_shows_the_file():
    with (ROOT / "benchmarks/results/nested_risk.csv").open() as file:
        rows = list(csv.DictReader(file))
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for row in rows:
        shown = [f"{float(row[name]):.2f}" for name in ("truth", "plug_in", "cross_fitted", "mean")]
        assert f"| {row['world']} | {row['branches']} × {row['continuations']} | {' | '.join(shown)} |" in page
    plug_in = [float(row["plug_in"]) / float(row["truth"]) for row in rows]
    crossed = [float(row["cross_fitted"]) / float(row["truth"]) - 1 for row in rows]
    assert f"{min(plug_in):.1f} to {max(plug_in):.0f} times too high" in page
    assert f"{-min(crossed):.0%} too low".replace("%", " %") in page
    assert max(crossed) == pytest.approx(0.01, abs=0.005)
