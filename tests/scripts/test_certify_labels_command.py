"""`trl-rsa audit draw` and `trl-rsa certify --labels`, as a user walks it: draw, label, certify, verify."""

import csv
import json

import numpy as np
import pytest

from tests.audits import laws
from trl_rsa.scripts._command import run_command
from trl_rsa.storage.digests import response_key
from trl_rsa.storage.records import RecordWriter


GRADES = ("safe", "minor", "moderate", "severe")


@pytest.fixture
def walk(tmp_path):
    """Records of 1,500 responses with a learned cost, and what people would say of each."""
    scores, harm = laws.graded([0.97, 0.02, 0.008, 0.002], 0.5)(np.random.default_rng(0), 1500)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for i, score in enumerate(scores):
            writer.write({"prompt": f"p{i}", "response": f"r{i}", "cost": float(score), "model": "m"})
    grade = {response_key(f"p{i}", f"r{i}"): GRADES[list(laws.COSTS).index(h)] for i, h in enumerate(harm)}
    return tmp_path, grade


def draw(folder, name="labels.jsonl", labels="500"):
    return run_command(
        "audit-plan", ["draw", str(folder / "records.jsonl"), "--labels", labels, "--output", str(folder / name)]
    )


def certify(folder, *options, labels="labels.jsonl"):
    return run_command(
        "certify", ["--records", str(folder / "records.jsonl"), "--labels", str(folder / labels), *options]
    )


def fill_in(path, grade):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"grade": grade[row["id"]], "labeller": "Ada"}) + "\n" for row in rows))
    return rows


def test_the_walk(walk, capsys):
    folder, grade = walk
    assert draw(folder) == 0
    assert "--drawn 500 --uniform 0.85" in capsys.readouterr().out
    rows = fill_in(folder / "labels.jsonl", grade)
    assert all(set(row) == {"id", "prompt", "response", "grade", "labeller"} for row in rows)  # no cost to follow
    assert certify(folder, "--drawn", "500", "--budget", "7") == 0
    out = capsys.readouterr().out
    assert f"People labelled {len(rows)} of 1500 responses" in out and "not a human judgement" not in out
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["audit"]["n_missing"] == 0 and not certificate["own_seed"]
    assert certificate["bounds"] == [-1, 10]

    verify = ["--verify", str(folder / "certificate.json"), "--drawn", "500"]
    assert certify(folder, *verify) == 0
    assert "follows from" in capsys.readouterr().out
    assert certify(folder, *verify[:-1], "501") == 3
    assert "audit is" in capsys.readouterr().out
    assert run_command("certify", ["--records", str(folder / "records.jsonl"), *verify[:2]]) == 2
    assert "--labels" in capsys.readouterr().err


def test_what_the_responses_were_drawn_under_and_how_many_were_cut(walk, capsys):
    folder, grade = walk
    path = folder / "records.jsonl"
    rows = [json.loads(line) | {"under": "at temperature 0.2", "finished": False} for line in path.open()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(folder)
    fill_in(folder / "labels.jsonl", grade)
    assert certify(folder, "--drawn", "500", "--budget", "7") == 0
    out = capsys.readouterr().out
    assert "at temperature 0.2" in out and "1500 of 1500 responses were cut before they ended" in out
    verify = ["--verify", str(folder / "certificate.json"), "--drawn", "500"]
    assert certify(folder, *verify) == 0
    path.write_text("".join(json.dumps(row | {"under": None}) + "\n" for row in rows))
    capsys.readouterr()
    assert certify(folder, *verify) == 3
    assert "drawn at temperature 0.2 in the certificate and as usual in the records" in capsys.readouterr().out


def test_the_same_from_a_spreadsheet_with_a_second_labeller(walk, capsys):
    folder, grade = walk
    draw(folder)
    rows = fill_in(folder / "labels.jsonl", grade)
    with (folder / "labels.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["id", "grade", "labeller"])
        writer.writerows([row["id"], grade[row["id"]].upper(), "Ada"] for row in reversed(rows))
        writer.writerows([row["id"], 3, "Bo"] for row in rows[:20])
        writer.writerows([row["id"], 0, "Bo"] for row in rows[:20])  # Bo thinks again: the last counts
    assert certify(folder, "--drawn", "500", "--budget", "7", labels="labels.csv") == 0
    audit = json.loads((folder / "certificate.json").read_text())["audit"]
    assert audit["n_several"] == 20 and audit["n_disagreed"] < 20


def test_labels_that_are_missing(walk, capsys):
    folder, grade = walk
    draw(folder)
    rows = fill_in(folder / "labels.jsonl", grade)
    lines = (folder / "labels.jsonl").read_text().splitlines(keepends=True)
    (folder / "labels.jsonl").write_text("".join(lines[:-100]))
    assert certify(folder, "--drawn", "500", "--budget", "7") == 3
    assert "100 responses that were drawn have no label" in capsys.readouterr().out
    assert json.loads((folder / "certificate.json").read_text())["audit"]["n_labelled"] == len(rows) - 100


def test_a_draw_that_a_ladder_has_written(walk):
    from trl_rsa.audits.label_files import draw_labels
    from trl_rsa.evaluation.costs import costs_of_model
    from trl_rsa.storage.records import read_records

    folder, grade = walk
    found = costs_of_model(read_records(folder / "records.jsonl"), "records.jsonl")
    drawn = draw_labels(found, 500, 0.7, 5)
    names = np.array(found.responses)[drawn.chosen]
    requests = [{"id": name.rpartition("-")[0], "draw": 0} for name in names.tolist()]
    content = {
        "probabilities": drawn.probabilities.tolist(),
        "least": drawn.least,
        "seed": 5,
        "requests": requests,
    }
    (folder / "requests.json").write_text(json.dumps(content))
    lines = [{"id": row["id"], "grade": grade[row["id"]], "labeller": "Ada"} for row in requests]
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert certify(folder, "--draw", str(folder / "requests.json"), "--budget", "7") == 0
    by_file = json.loads((folder / "certificate.json").read_text())
    options = [
        "--drawn",
        "500",
        "--uniform",
        "0.7",
        "--seed",
        "5",
        "--budget",
        "7",
        "--output",
        str(folder / "c.json"),
    ]
    assert certify(folder, *options) == 0
    assert json.loads((folder / "c.json").read_text())["audit"] == by_file["audit"] and by_file["own_seed"]
    # Of other records.
    (folder / "requests.json").write_text(json.dumps(content | {"probabilities": [0.5]}))
    assert certify(folder, "--draw", str(folder / "requests.json"), "--again") == 2


@pytest.mark.parametrize(
    ("line", "options", "sentence"),
    [
        ({"id": "x", "grade": "awful"}, ["--drawn", "500"], "is no grade of the scale"),
        ({"grade": 0}, ["--drawn", "500"], "no id"),
        ({"id": "x", "grade": 0}, ["--drawn", "500"], "none of the responses that were drawn has one"),
        ({"id": "x", "grade": 0}, [], "Set either --drawn"),
        ({"id": "x", "grade": 0}, ["--drawn", "0"], "at least one label"),
        ({"id": "x", "grade": 0}, ["--draw", "absent.json"], "no draw of an audit"),
        ({"id": "x", "grade": 0}, ["--drawn", "5", "--harm_scale", "a"], "name=cost"),
    ],
)
def test_errors(walk, capsys, line, options, sentence):
    folder, _ = walk
    (folder / "labels.jsonl").write_text(json.dumps(line) + "\n")
    assert certify(folder, *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "certificate.json").exists()


def test_a_draw_does_not_write_over_labels(walk, capsys):
    folder, _ = walk
    assert draw(folder) == 0 and draw(folder) == 2
    assert "may hold labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--drawn", "5"], "You set drawn without labels, but the certificate would be about the scorer's cost."),
        (["--uniform", "0.5"], "You set uniform without labels"),
        (["--labels", "l.jsonl", "--drawn", "5", "--method", "dkw"], "You set method=dkw with labels, but a bound on"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(walk, options, said, capsys):
    folder, _ = walk
    base = ["--records", str(folder / "records.jsonl"), "--scorer", "s", "--bounds", "-1", "10", "--budget", "2"]
    assert run_command("certify", [*base, *options]) == 2
    assert said in capsys.readouterr().err and not (folder / "certificate.json").exists()


def test_what_verify_is_told_must_be_what_the_certificate_says(walk, capsys):
    folder, _ = walk
    base = ["--records", str(folder / "records.jsonl")]
    run_command("certify", [*base, "--scorer", "s", "--bounds", "-1", "10", "--budget", "2"])
    check = [*base, "--verify", str(folder / "certificate.json")]
    capsys.readouterr()
    assert run_command("certify", [*check, "--budget", "2", "--bounds", "-1", "10"]) == 0
    assert run_command("certify", [*check, "--budget", "3"]) == 2
    assert "You set budget=3.0 with verify, but the certificate is about budget=2" in capsys.readouterr().err


def test_a_draw_is_in_the_order_of_prompts_however_the_records_came():
    from trl_rsa.scripts._labelled import in_the_order_of_a_draw

    records = [{"prompt_number": p, "draw": d} for p, d in ((3, 0), (0, 1), (0, 0), (2, 0))]
    assert [tuple(r.values()) for r in in_the_order_of_a_draw(iter(records))] == [(0, 0), (0, 1), (2, 0), (3, 0)]
    assert in_the_order_of_a_draw([{"draw": 1}, {"draw": 0}]) == [{"draw": 1}, {"draw": 0}]


def test_a_pilot_of_another_draw_is_said(walk, capsys):
    folder, grade = walk
    records, labels = str(folder / "records.jsonl"), folder / "labels.jsonl"
    words = ["draw", records, "--labels", "300", "--seed", "5", "--output", str(labels)]
    assert run_command("audit-plan", words) == 0
    fill_in(labels, grade)
    capsys.readouterr()
    plan = ["plan", records, str(labels), "--drawn", "300", "--labels", "200", "--repeats", "1", "--prompts", "500"]
    assert run_command("audit-plan", plan) == 0
    assert "labels are of responses that this draw did not choose" in capsys.readouterr().err
    assert run_command("audit-plan", [*plan, "--draw_seed", "5"]) == 0
    assert "did not choose" not in capsys.readouterr().err
    assert run_command("audit-plan", ["draw", records, "--labels", "9", "--output", str(folder / "l.csv")]) == 2
    assert "End the name in .jsonl." in capsys.readouterr().err


def test_rows_without_prompts_cannot_be_labelled(tmp_path, capsys):
    """The draw would follow from their number alone; labels were paired with other rows' costs."""
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for i in range(60):
            row = {"prompt": f"row {i}", "response": f"r{i}", "cost": -1.0 + (i % 20 == 7), "unnamed_prompt": True}
            writer.write(row)
    (tmp_path / "labels.jsonl").write_text('{"id": "x", "grade": 0}\n')
    records, labels = str(tmp_path / "records.jsonl"), str(tmp_path / "labels.jsonl")
    assert draw(tmp_path, "asked.jsonl", "20") == 2
    assert "Give the rows a column prompt." in capsys.readouterr().err and not (tmp_path / "asked.jsonl").exists()
    assert run_command("audit-plan", ["plan", records, labels]) == 2
    assert "Give the rows a column prompt." in capsys.readouterr().err
    assert certify(tmp_path, "--drawn", "20") == 2
    error = capsys.readouterr().err
    assert "You ask for people's labels of rows that name no prompts" in error and error.count("\n") == 1
    assert certify(tmp_path, "--draw", "absent.json") == 2
    assert "Give the rows a column prompt." in capsys.readouterr().err


def test_verify_compares_how_several_labels_count(walk, capsys):
    folder, grade = walk
    draw(folder)
    fill_in(folder / "labels.jsonl", grade)
    assert certify(folder, "--drawn", "500", "--budget", "7", "--combine", "median") == 0
    verify = ["--verify", str(folder / "certificate.json"), "--drawn", "500"]
    assert certify(folder, *verify, "--combine", "median") == 0
    capsys.readouterr()
    assert certify(folder, *verify, "--combine", "mean") == 2
    assert "You set combine=mean with verify, but the certificate is about combine=median" in capsys.readouterr().err


def test_labels_above_the_bounds_are_in_the_statement(walk, capsys):
    """The worst grade costs 10 and counts as 9."""
    folder, grade = walk
    draw(folder)
    rows = fill_in(folder / "labels.jsonl", grade)
    severe = sum(grade[row["id"]] == "severe" for row in rows)
    assert severe and certify(folder, "--drawn", "500", "--budget", "7", "--bounds", "-1", "9") == 0
    said = capsys.readouterr()
    assert f"counting each label above 9 as 9 ({severe} of {len(rows)} are above it). People labelled" in said.out
    assert f"{severe} of {len(rows)} labels are above 9" in said.err
