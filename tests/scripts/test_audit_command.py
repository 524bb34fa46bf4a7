"""`trl-rsa audit next|import|status` on the files of a run, without a model."""

import json

import pytest

from trl_rsa.audits.queue import AUDIT, AuditQueue
from trl_rsa.cli import main
from trl_rsa.data.harm import HarmScale
from trl_rsa.storage.digests import response_key
from trl_rsa.storage.files import write_json


SCALE = HarmScale()


def a_run(folder, *constraints, n=6, scale=SCALE):
    for name in constraints:
        audit = folder / "ladder" / f"audit-{name}"
        write_json(audit / AUDIT, {"harm_scale": scale.to_dict(), "second": "unsafe", "budget": 50, "seed": 0})
        requests = [
            {"id": response_key(f"p{i}", f"answer {i}"), "prompt": f"p{i}", "response": f"answer {i}", "draw": 0}
            | {"score": float(i), "probability": 0.5, "prompt_number": i}
            for i in range(n)
        ]
        about = {"observation": 0, "split": "decide", "round": 1, "model": "m", "seed": 0, "least": 0.5, "time": "now"}
        AuditQueue(audit, scale, "unsafe", 50, 0).add_draw(
            {**about, "probabilities": [0.5] * 12, "requests": requests}
        )
    return folder


def run(*words):
    return main(["audit", *map(str, words)])


def test_out_to_label_studio_and_in_again(tmp_path, capsys):
    folder, tasks = a_run(tmp_path / "run", "cost"), tmp_path / "tasks.json"
    assert run("next", folder, "--output", tasks, "--format", "label-studio", "--limit", 4) == 0
    said = capsys.readouterr().out
    assert "4 of 6 responses" in said and "safe (0), minor (1)" in said and "tasks.xml" in said
    assert "Choice value=" in (tmp_path / "tasks.xml").read_text()
    export = json.loads(tasks.read_text())
    for task in export:
        result = [{"from_name": "grade", "value": {"choices": ["severe"]}}]
        task["annotations"] = [{"completed_by": who, "result": result} for who in (1, 2)]
    tasks.write_text(json.dumps(export))
    assert run("import", folder, tasks, "--format", "label-studio") == 0
    assert "8 labels read" in (said := capsys.readouterr().out) and "2 labels are missing." in said
    assert run("status", folder) == 0
    said = capsys.readouterr().out
    assert "8 of at most 50 labels" in said and "4 of 6 responses have a label" in said and "severe 4" in said
    assert "4 responses with several labels, 0 of them disagree" in said


def test_grades_whose_names_are_numbers_have_no_other_numbers(tmp_path, capsys):
    """Grade 2 of 1 to 4 is the one called so: a labeller is not told that it is number 1."""
    folder, file = a_run(tmp_path / "run", "cost", scale=HarmScale.parse("1=-1,2=1,3=4,4=10")), tmp_path / "t.csv"
    assert run("next", folder, "--output", file) == 0
    assert "Grades: 1, 2, 3, 4\n" in capsys.readouterr().out
    file.write_text(f"id,grade\n{response_key('p0', 'answer 0')},2.0\n")
    assert run("import", folder, file) == 0 and run("status", folder) == 0
    assert "1 0, 2 1, 3 0, 4 0" in capsys.readouterr().out


def test_wrong_rows_are_named_and_the_others_read(tmp_path, capsys):
    folder, file = a_run(tmp_path / "run", "cost"), tmp_path / "labels.csv"
    known = response_key("p0", "answer 0")
    file.write_text(f"id,grade\n{known},safe\n{known},nasty\nnever-drawn,safe\n")
    assert run("import", folder, file, "--labeller", "ann") == 3
    said = capsys.readouterr().out
    assert "1 labels read" in said and "'nasty' is no grade" in said and "line 3" in said
    assert "the id was never drawn: line 4" in said


def test_a_second_label_is_for_someone_else(tmp_path, capsys):
    folder, file = a_run(tmp_path / "run", "cost", n=2), tmp_path / "labels.jsonl"
    assert run("next", folder, "--output", file, "--labeller", "ann") == 0
    rows = [json.loads(line) | {"grade": "severe"} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert run("import", folder, file) == 0
    file.unlink()
    assert run("next", folder, "--output", file, "--labeller", "ann") == 0 and not file.exists()
    assert "by another labeller than ann: 2" in capsys.readouterr().out
    assert run("next", folder, "--output", file, "--labeller", "bob") == 0 and file.exists()


def test_labels_that_are_filled_in_are_not_written_over(tmp_path, capsys):
    folder, file = a_run(tmp_path / "run", "cost", n=2), tmp_path / "labels.csv"
    assert run("next", folder, "--output", file) == 0
    file.write_text(before := file.read_text().replace(",,", ",severe,"))
    assert run("next", folder, "--output", file) == 2 and file.read_text() == before
    assert "this file holds 2 labels that were not imported. Import it first" in capsys.readouterr().err
    assert run("import", folder, file) == 0
    assert run("next", folder, "--output", file, "--labeller", "bob") == 0 and file.read_text() != before
    notes = tmp_path / "notes.csv"
    notes.write_text("my,notes\n")
    assert run("next", folder, "--output", notes, "--labeller", "bob") == 2 and notes.read_text() == "my,notes\n"
    assert "this file exists, and is no file of labels. Name another" in capsys.readouterr().err


def test_the_labels_of_another_person_are_not_written_over(tmp_path, capsys):
    """Bob says what Ann has said: his labels are his own."""
    folder, tasks = a_run(tmp_path / "run", "cost"), tmp_path / "tasks.jsonl"

    def fill(name):
        rows = [json.loads(line) | {"grade": "severe", "labeller": name} for line in tasks.read_text().splitlines()]
        tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert run("next", folder, "--output", tasks, "--labeller", "ann") == 0
    fill("ann")
    assert run("import", folder, tasks) == 0
    assert run("next", folder, "--output", tasks, "--labeller", "bob") == 0, "ann's labels are read"
    fill("bob")
    before = tasks.read_text()
    capsys.readouterr()
    assert run("next", folder, "--output", tasks, "--labeller", "bob") == 2
    assert "this file holds 6 labels that were not imported" in capsys.readouterr().err
    assert tasks.read_text() == before


def test_a_file_beside_the_tasks_is_not_written_over(tmp_path, capsys):
    folder, tasks = a_run(tmp_path / "run", "cost"), tmp_path / "tasks.json"
    (tmp_path / "tasks.xml").write_text("mine")
    assert run("next", folder, "--output", tasks, "--format", "label-studio") == 2
    assert (tmp_path / "tasks.xml").read_text() == "mine" and not tasks.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("next", "RUN", "--output", "x.csv"), "the audits of RUN are cost, honest"),
        (("status", "RUN", "--constraint", "kind"), "You set constraint to 'kind'"),
        (("next", "RUN", "--constraint", "cost", "--output", "x.json"), "its form does not show"),
        (("next", "RUN", "--constraint", "cost", "--output", "x.csv", "--limit", "0"), "You set limit to 0"),
        (("import", "RUN", "none.csv", "--constraint", "cost"), "no such file"),
        (("status", "NONE"), "it has no audit yet"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "RUN", "cost", "honest")
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
