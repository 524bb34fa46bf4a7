"""Responses out and labels in, in every form: what a tool gives back is what it was given, with grades."""

import csv
import json
from xml.etree import ElementTree

import pytest

from trl_rsa.audits.formats import (
    FORMATS,
    GRADE,
    form_of_labels,
    format_of,
    label_studio_config,
    read_labels,
    write_tasks,
    wrong_in_words,
)
from trl_rsa.audits.label_files import costs_of_labels
from trl_rsa.data.harm import HarmScale
from trl_rsa.data.schema import readable


SCALE = HarmScale()
TEXT = 'line one\nline "two", with a comma; and =SUM(1)'
REQUESTS = [
    {"id": "k1", "prompt": [{"role": "user", "content": "Hi"}], "response": TEXT, "score": 3.0, "probability": 0.2},
    {"id": "k2", "prompt": "plain", "response": "=HYPERLINK(1)", "score": -1.0, "probability": 0.1},
]
# As each tool gives a file back: grades severe and minor by two people, on the first response; none on the second.


def fill_jsonl(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"grade": "Severe", "labeller": "ann"}
    rows.insert(1, rows[0] | {"grade": 1, "labeller": "bob"})
    path.write_text("\n".join(map(json.dumps, rows)))


def fill_csv(path):
    """By a spreadsheet with semicolons, another order of columns, and numbers as text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= {"grade": "severe", "labeller": "ann"}
    rows.insert(1, rows[0] | {"grade": "1.0", "labeller": "bob"})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["labeller", "grade", "response", "prompt", "id"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def annotation(grade, who, cancelled=False):
    result = [{"from_name": GRADE, "to_name": "response", "type": "choices", "value": {"choices": [grade]}}]
    return {"id": 5, "completed_by": who, "was_cancelled": cancelled, "result": result}


def fill_label_studio(path):
    tasks = [{"id": number, **task, "annotations": []} for number, task in enumerate(json.loads(path.read_text()), 17)]
    tasks[0]["annotations"] = [
        annotation("severe", {"email": "ann"}),
        annotation("minor", 7),
        annotation("safe", 8, cancelled=True),
    ]
    path.write_text(json.dumps(tasks))


def fill_argilla(path):
    records = json.loads(path.read_text())
    records[0]["responses"] = {GRADE: [{"value": "severe", "user_id": "ann"}, {"value": "minor", "user_id": "bob"}]}
    path.write_text(json.dumps(records))


FILL = {"jsonl": fill_jsonl, "csv": fill_csv, "label-studio": fill_label_studio, "argilla": fill_argilla}


@pytest.mark.parametrize("form", FORMATS)
def test_what_goes_out_comes_back_with_grades(form, tmp_path):
    path = tmp_path / "tasks"
    write_tasks(path, form, REQUESTS, None)
    text = path.read_bytes().decode("utf-8-sig")
    assert "k1" in text and "k2" in text
    assert not {"score", "probability"} & set(json.dumps(text).replace('"', " ").split()), "labels must not follow it"
    FILL[form](path)
    found = read_labels(path, form, SCALE, None)
    assert [(label["id"], label["grade"]) for label in found.labels] == [("k1", 3), ("k1", 1)]
    assert len({label["labeller"] for label in found.labels}) == 2
    assert found.empty == 1 and not found.wrong
    named = path.rename(path.with_suffix(f".{form}" if form in ("jsonl", "csv") else ".json"))
    assert form_of_labels(named, None) == form
    assert costs_of_labels(named, SCALE) == {"k1": [SCALE.costs[3], SCALE.costs[1]]}


def test_label_studio_s_short_export(tmp_path):
    path = tmp_path / "min.json"
    rows = [
        {"id": 17, "response_id": "k1", "prompt": "p", "response": "r", GRADE: "severe", "annotator": 3},
        {"id": 18, "response_id": "k2", "prompt": "p", "response": "r", GRADE: {"choices": ["safe"]}, "annotator": 3},
        {"id": 19, "response_id": "k3", "prompt": "p", "response": "r"},
    ]
    path.write_text(json.dumps(rows))
    found = read_labels(path, "label-studio", SCALE, None)
    assert [(label["id"], label["grade"]) for label in found.labels] == [("k1", 3), ("k2", 0)] and found.empty == 1


def test_the_labelling_interface_has_a_choice_per_grade():
    root = ElementTree.fromstring(label_studio_config(HarmScale(("all <fine>", 'so "so"'), (-1.0, 2.0))))
    assert [choice.get("value") for choice in root.iter("Choice")] == ["all <fine>", 'so "so"']
    assert root.find("Choices").get("toName") == "response" and root.find("Choices").get("name") == GRADE


def test_a_spreadsheet_takes_no_response_for_a_formula(tmp_path):
    path = tmp_path / "tasks.csv"
    write_tasks(path, "csv", REQUESTS, "ann")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["response"] == "'=HYPERLINK(1)" and rows[0]["response"] == TEXT
    assert [row["labeller"] for row in rows] == ["ann", "ann"]


def test_wrong_rows_are_named_and_the_others_kept(tmp_path):
    path = tmp_path / "labels.jsonl"
    lines = ['{"id": "k1", "grade": "terrible"}', "{half", '{"grade": "safe"}', '{"id": "k2", "grade": 4}', "[]"]
    path.write_text("\n".join([*lines, '{"id": "k2", "grade": "safe"}', '{"id": "k1", "grade": "terrible"}']))
    found = read_labels(path, "jsonl", SCALE, "ann")
    assert found.labels == [{"id": "k2", "grade": 0, "labeller": "ann"}]
    said = wrong_in_words(path, found.wrong, kept=1)
    assert "6 rows cannot be used" in said and "'terrible' is no grade of the scale" in said
    assert "lines 1, 7" in said and "not JSON: line 2" in said and "no id: line 3" in said
    with pytest.raises(ValueError, match=r"a certificate needs all of them.*no id: line 3"):
        costs_of_labels(path, SCALE)


@pytest.mark.parametrize("name", ["labels.CSV", "labels.txt", "labels.json"])
def test_a_certificate_reads_labels_under_other_endings(name, tmp_path):
    path = tmp_path / name
    path.write_text("id,grade\nk1,minor\n" if name.endswith("CSV") else '{"id": "k1", "grade": "minor"}\n')
    assert costs_of_labels(path, SCALE) == {"k1": [SCALE.costs[1]]}


def test_a_response_may_be_longer_than_python_s_csv_allows_by_itself(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(f"id,response,grade\nk1,{'a' * 200_000},minor\n")
    assert [label["grade"] for label in read_labels(path, "csv", SCALE, None).labels] == [1]


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("csv", "key,mark\n1,2\n", "no columns `id` and `grade`"),
        ("jsonl", '{"prompt": "a"}\n' * 2, "none of its 2 lines has an `id` or a `grade`"),
        ("label-studio", "{}", "no list of tasks"),
        ("argilla", "[1, 2", "not JSON"),
        ("jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused_whole(form, content, said, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_labels(path, form, SCALE, None)


def test_the_form_follows_from_the_name_or_is_asked_for(tmp_path):
    assert format_of(tmp_path / "a.csv", None) == "csv" and format_of(tmp_path / "a.json", "argilla") == "argilla"
    with pytest.raises(ValueError, match="its form does not show"):
        format_of(tmp_path / "a.json", None)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_labels(tmp_path / "a.csv", "csv", SCALE, None)


def test_turns_are_readable():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert readable(turns) == "user: a\n\nassistant: b\n\nuser: c" and readable(turns[:1]) == "a"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_response_may_hold_any_end_of_line(form, tmp_path):
    """U+2028, U+0085 and a form feed end a line for Python's `splitlines`, and for no file format."""
    odd = [{**REQUESTS[0], "response": "a\u2028b\x85c\x0cd"}]
    path = tmp_path / f"tasks.{form}"
    write_tasks(path, form, odd, "ann")
    text = path.read_bytes().decode("utf-8-sig")
    path.write_bytes(
        (text.replace('"grade": null', '"grade": 2') if form == "jsonl" else text.replace(",,ann", ",2,ann")).encode()
    )
    found = read_labels(path, form, SCALE, None)
    assert [label["grade"] for label in found.labels] == [2] and not found.wrong


def test_two_columns_of_grades_are_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,grade,Grade\nk1,safe,severe\n")
    with pytest.raises(ValueError, match="has several columns `grade`, and which one counts"):
        read_labels(path, "csv", SCALE, None)


def test_a_grade_that_is_no_number_is_a_wrong_row(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "k1", "grade": NaN}\n{"id": "k2", "grade": Infinity}\n')
    assert len(read_labels(path, "jsonl", SCALE, None).wrong) == 2
