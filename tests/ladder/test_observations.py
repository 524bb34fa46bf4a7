"""constraint.jsonl and the lines on the screen."""

import io
import json
import sys
from contextlib import redirect_stdout

import pytest
from rich.console import Console

from trl_rsa.ladder import progress
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.observations import append_observation, line_of, metrics_of, read_observations
from trl_rsa.ladder.progress import ProgressLog


def constraint(**changes):
    return RiskConstraint(**{"scorer": len, "prompts": ["a", "b"], "budget": 0.5, "bounds": (-1.0, 2.0)} | changes)


NUMBERS = {"multiplier": 2.0, "estimate": 0.25, "upper_bound": 0.75, "violation": 0.25, "n": 8, "cut": 2}


def test_observations_are_appended_and_a_cut_line_is_removed(tmp_path):
    path = tmp_path / "constraint.jsonl"
    assert read_observations(path) == []
    append_observation(path, {"number": 0, "reason": "λ"})
    with path.open("ab") as file:
        file.write('{"number": 1, "reason": "λ'.encode()[:-1])
    assert read_observations(path) == [{"number": 0, "reason": "λ"}]
    append_observation(path, {"number": 1})
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "constraint.jsonl"
    path.write_text('{"number": 0}\n{"numb\n{"number": 2}\n')
    with pytest.raises(ValueError, match=r"lacks its observation 1: a line is damaged or gone"):
        read_observations(path)


def test_an_observation_in_one_line_and_in_trackers():
    one, other = constraint(), constraint(name="honest", budget=1.0)
    entry = {"number": 3, "reason": "Met.", "constraints": {"cost": NUMBERS}}
    line = "[ladder 3] cost: λ=2, CVaR 0.05 0.25, bound 0.75, budget 0.5, 25% cut. Met."
    assert line_of(entry, [one]) == line
    assert metrics_of(entry, [one], {"cost": 3.0}) == {
        "constraint/cost/estimate": 0.25,
        "constraint/cost/upper_bound": 0.75,
        "constraint/cost/multiplier": 3.0,
        "constraint/cost/violation": 0.25,
    }
    both = entry | {"constraints": {"cost": NUMBERS, "honest": NUMBERS | {"violation": -0.25}}}
    assert "cost: λ=2" in line_of(both, [one, other]) and "honest: λ=2" in line_of(both, [one, other])
    metrics = metrics_of(both, [one, other], {"cost": 3.0, "honest": 4.0})
    assert metrics["constraint/honest/violation"] == -0.25 and metrics["constraint/honest/multiplier"] == 4.0


def test_plain_lines_where_there_is_no_terminal(capsys):
    live = ProgressLog(prefix="RSA ")
    with redirect_stdout(io.StringIO()):  # where a trainer's own lines go
        live("one", style="green")
        with live.counting("responses", 0, 4) as advance:
            advance(4)
    assert capsys.readouterr().out == "RSA one\n"
    lines = []
    ProgressLog(ProgressLog(lines.append, prefix="A "), prefix="B ")("two")
    assert lines == ["A B two"]


def test_colours_and_counts_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    live = ProgressLog()
    live.console = Console(file=terminal, force_terminal=True, width=80, color_system="standard")
    live("met", style="green")
    with live.counting("decide responses", 2, 8) as advance:
        advance(3)
    shown = terminal.getvalue()
    assert "\x1b[32mmet" in shown
    assert "decide responses 5/8" in shown


def test_a_log_file_gets_a_line_every_half_minute(monkeypatch):
    """200 of 1,000 in 40 s: 160 s for the rest at that pace. At 20 s nothing is said."""
    clock, lines = iter([0.0, 20.0, 40.0, 45.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with ProgressLog(lines.append).counting("decide responses", 0, 1000) as advance:
        for _ in range(3):
            advance(100)
    assert lines == ["decide responses 200/1000, about 3 min left"]
