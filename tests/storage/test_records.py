"""records.jsonl: what is malformed is counted, and nothing is lost."""

import json
import subprocess
import sys

import pytest

from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.costs import costs_of_model
from trl_rsa.storage.records import FIELDS, ReadReport, RecordWriter, read_records, text_of


def record(i, **changes):
    return {"prompt": f"p{i}", "response": "r", "reward": 1.0, "cost": -1.0, "model": "m", "seed": i} | changes


def read(path, **options):
    report = ReadReport()
    return list(read_records(path, report, **options)), report


def test_round_trip(tmp_path):
    odd = record(0, response='line\u2028break "quoted" </script> \ud800 é\n', category="c", extra={"kept": [1]})
    chat = record(1, prompt=[{"role": "user", "content": "hi"}], cost=None)
    with RecordWriter(tmp_path / "deep" / "records.jsonl") as writer:
        writer.write(odd)
        writer.write(chat)
    records, report = read(tmp_path / "deep" / "records.jsonl", scores=("reward",))
    assert records == [dict.fromkeys(FIELDS) | odd, dict.fromkeys(FIELDS) | chat]
    assert report.read == 2 and not report.problems
    assert str(report) == "2 records read, none malformed."


def test_what_is_true_or_false_is_read_as_a_table_says_it(tmp_path):
    said = [True, "false", " No ", 1, 0.0, "1", None, "maybe", float("nan"), 2, [True]]
    read_as = [True, False, False, True, False, True, *[None] * 5]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record(i, benign=v, finished=v)) + "\n" for i, v in enumerate(said)))
    records, report = read(path)
    for name in ("benign", "finished"):
        assert [r[name] for r in records] == read_as
        assert report.problems[f"{name} is not true or false"] == 4
    assert report.read == len(said) and not report.unreadable
    assert read_columns(records).benign.tolist() == [-1 if value is None else value for value in read_as]
    assert read_columns([r | {"benign": v} for r, v in zip(records, said, strict=True)]).benign.tolist() == [
        -1 if value is None else value for value in read_as
    ]
    # As many responses count as cut as say so.
    assert costs_of_model(records, "records.jsonl").n_cut == 3


def test_every_malformed_line_is_counted(tmp_path):
    lines = [
        json.dumps(record(0)),
        json.dumps(record(1, cost=float("nan"))),
        json.dumps(record(2, reward=float("inf"))),
        json.dumps(record(3, cost="high")),
        json.dumps(record(4, cost=True)),
        json.dumps({"prompt": "p", "reward": 0, "cost": 0}),
        json.dumps({"prompt": "p", "response": "r", "reward": 0}),
        "[1, 2]",
        "not json",
        "",
        json.dumps(record(9, cost=10**400)),
        json.dumps(record(10))[:-20],
    ]
    path = tmp_path / "records.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\xff")
    before = path.read_bytes()
    records, report = read(path)
    assert [r["prompt"] for r in records] == ["p0", "p1", "p2", "p3", "p4", "p", "p9"]
    assert [r["cost"] for r in records] == [-1.0, None, -1.0, None, None, None, None]
    assert report.problems == {
        "cost is not finite": 2,
        "reward is not finite": 1,
        "cost is not a number": 2,
        "no response": 1,
        "no cost": 1,
        "not a JSON object": 1,
        "not JSON": 1,
        "truncated last line": 1,
    }
    assert report.read == 7 and report.unreadable == 4
    assert "4 lines unreadable" in str(report) and "line 2: cost is not finite" in str(report)
    assert path.read_bytes() == before


def test_a_fragment_is_closed_before_the_next_record(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record(0)) + "\n" + json.dumps(record(1))[:15])
    with RecordWriter(path) as writer:
        writer.write(record(1))
    records, report = read(path)
    assert [r["prompt"] for r in records] == ["p0", "p1"]
    assert report.problems == {"not JSON": 1}


def test_a_killed_writer_leaves_whole_lines(tmp_path):
    """No buffer stands between write() and the file: after os._exit all records are there."""
    path = tmp_path / "records.jsonl"
    code = (
        "import os, sys; from trl_rsa.storage.records import RecordWriter\n"
        "w = RecordWriter(sys.argv[1])\n"
        "for i in range(5): w.write({'prompt': str(i), 'response': 'r', 'reward': 0, 'cost': 0})\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    records, report = read(path)
    assert len(records) == 5 and not report.problems


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        next(read_records("no/such/records.jsonl"))


def test_text():
    assert text_of("plain") == "plain" and text_of([]) == ""
    assert text_of([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]) == "a"


def test_half_a_character_in_a_name_is_escaped(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"prompt": "p", "response": "r", "cost": 1, "model": "m\\ud83d", "category": "\\ud83d\\ude00"}\n')
    (record,) = read_records(path)
    assert record["model"] == "m\\ud83d" and record["category"] == "😀"


def test_a_line_beyond_all_measure_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_rsa.storage.lines.LONGEST_LINE", 100)
    path = tmp_path / "records.jsonl"
    path.write_text('{"prompt": "p", "response": "r", "cost": 1}\n{"prompt": "' + "x" * 1000 + '"}\n')
    report = ReadReport()
    assert len(list(read_records(path, report))) == 1
    assert report.unreadable == 1 and "longer than" in str(report)
