"""constraint.jsonl and the lines on the screen."""

import io
import json
import sys
from contextlib import redirect_stdout

from rich.console import Console

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.live import LiveReport
from trl_rsa.ladder.rounds import append_round, line_of, metrics_of, numbers_of, read_rounds, with_numbers


def constraint(**changes):
    return RiskConstraint(**{"scorer": len, "prompts": ["a", "b"], "threshold": 0.5, "clip": (-1.0, 2.0)} | changes)


NUMBERS = {"multiplier": 2.0, "estimate": 0.25, "upper_bound": 0.75, "violation": 0.25, "n": 8, "cut": 2}


def test_rounds_are_appended_and_a_cut_line_is_removed(tmp_path):
    path = tmp_path / "constraint.jsonl"
    assert read_rounds(path) == []
    append_round(path, {"number": 0, "reason": "λ"})
    with path.open("ab") as file:
        file.write('{"number": 1, "reason": "λ'.encode()[:-1])
    assert read_rounds(path) == [{"number": 0, "reason": "λ"}]
    append_round(path, {"number": 1})
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]


def test_numbers_of_one_stand_in_the_round_and_of_several_under_their_names():
    alone = with_numbers({"number": 0}, {"cost": NUMBERS})
    assert alone["estimate"] == 0.25 and numbers_of(alone, ["cost"])["cost"]["multiplier"] == 2.0
    several = with_numbers({"number": 0}, {"cost": NUMBERS, "honest": NUMBERS})
    assert several["constraints"]["honest"] == NUMBERS
    assert numbers_of(several, ["cost", "honest"]) == {"cost": NUMBERS, "honest": NUMBERS}


def test_a_round_in_one_line_and_in_trackers():
    one, other = constraint(), constraint(name="honest", threshold=1.0)
    entry = with_numbers({"number": 3, "reason": "Met."}, {"cost": NUMBERS})
    line = "[ladder 3] λ=2  CVaR 0.05 of cost: 0.25, bound 0.75, budget 0.5, 25% cut. Met."
    assert line_of(entry, [one]) == line
    assert metrics_of(entry, [one], {"cost": 3.0}) == {
        "constraint/estimate": 0.25,
        "constraint/upper_bound": 0.75,
        "constraint/multiplier": 3.0,
        "constraint/violation": 0.25,
    }
    both = with_numbers({"number": 3, "reason": "Met."}, {"cost": NUMBERS, "honest": NUMBERS})
    assert "cost λ=2" in line_of(both, [one, other]) and "honest λ=2" in line_of(both, [one, other])
    metrics = metrics_of(both, [one, other], {"cost": 3.0, "honest": 4.0})
    assert metrics["constraint/honest/violation"] == -0.25 and metrics["constraint/honest/multiplier"] == 4.0


def test_plain_lines_where_there_is_no_terminal(capsys):
    live = LiveReport(prefix="RSA ")
    with redirect_stdout(io.StringIO()):  # where a trainer's own lines go
        live("one", style="green")
        with live.counting("answers", 0, 4) as advance:
            advance(4)
    assert capsys.readouterr().out == "RSA one\n"
    lines = []
    LiveReport(LiveReport(lines.append, prefix="A "), prefix="B ")("two")
    assert lines == ["A B two"]


def test_colours_and_counts_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    live = LiveReport()
    live.console = Console(file=terminal, force_terminal=True, width=80, color_system="standard")
    live("met", style="green")
    with live.counting("decide answers", 2, 8) as advance:
        advance(3)
    shown = terminal.getvalue()
    assert "\x1b[32mmet" in shown
    assert "decide answers 5/8" in shown
