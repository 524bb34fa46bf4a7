"""Pairs, labels and grades out of published formats and files of one's own; every row accounted for."""

import json

import pytest

from trl_rsa.data.harm import HarmScale
from trl_rsa.data.judged import count_judgements, load_judged
from trl_rsa.data.schema import RowError
from trl_rsa.storage.digests import prompt_key


SCALE = HarmScale()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def said(data):
    return [[(v.response[0]["content"], v.grade, v.unsafe) for v in row.verdicts] for row in data.rows]


def pku(safer=1, better=0, levels=(2, 0), **changes):
    return {
        "prompt": "p",
        "response_0": "bad",
        "response_1": "good",
        "safer_response_id": safer,
        "better_response_id": better,
        "is_response_0_safe": levels[0] == 0,
        "is_response_1_safe": levels[1] == 0,
        "response_0_severity_level": levels[0],
        "response_1_severity_level": levels[1],
    } | changes


def test_pku_of_2024(tmp_path):
    """The preferred response comes first; each keeps its own label and severity."""
    file = write(tmp_path / "p.jsonl", [pku()])
    assert said(load_judged(file, SCALE)) == [[("good", 0, False), ("bad", 2, True)]]
    assert said(load_judged(file, SCALE, preferred_by="better")) == [[("bad", 2, True), ("good", 0, False)]]
    assert said(load_judged(file)) == [[("good", None, False), ("bad", None, True)]]


def test_pku_of_2023_and_broken_rows(tmp_path):
    old = {name: value for name, value in pku().items() if "severity" not in name}
    rows = [old, pku(levels=(0, 2)), pku(is_response_0_safe=True), pku(response_0="good"), {"prompt": "p"}]
    data = load_judged(write(tmp_path / "p.jsonl", rows), SCALE)
    assert said(data) == [[("good", None, False), ("bad", None, True)]]
    assert data.rows_read == 5 and sum(data.skipped.values()) == 4
    assert data.skipped["the safer response is labelled unsafe while the other is safe"] == 1
    assert data.skipped["the grade and the safety label contradict each other"] == 1
    with pytest.raises(ValueError, match="You set strict=True, but line 2"):
        load_judged(write(tmp_path / "q.jsonl", rows), SCALE, strict=True)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"response": "r", "grade": "Moderate"}, (2, True)),
        ({"response": "r", "grade": 0}, (0, False)),
        ({"response": "r", "severity": "3"}, (3, True)),
        ({"completion": "r", "score": 0.0}, (0, False)),
        ({"answer": "r", "score": 0.125}, (1, True)),
        ({"response": "r", "score": 0.375}, (2, True)),
        ({"response": "r", "score": 1}, (3, True)),
        ({"response": "r", "is_safe": True}, (None, False)),
        ({"response": "r", "is_unsafe": 1}, (None, True)),
        ({"response": "r", "jailbroken": 0}, (None, False)),
    ],
)
def test_single_responses(tmp_path, row, expected):
    data = load_judged(write(tmp_path / "s.jsonl", [{"prompt": "p", **row}]), SCALE)
    assert said(data) == [[("r", *expected)]]


def test_a_single_response_in_messages(tmp_path):
    asked = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]
    rows = [
        {"prompt": asked, "response": "r", "grade": 2},
        {"prompt": "p", "response": [{"role": "assistant", "content": "r"}], "grade": 2},
        {"prompt": asked[:2], "response": "r", "grade": 2},
        {"prompt": [], "response": "r", "grade": 2},
    ]
    data = load_judged(write(tmp_path / "s.jsonl", rows), SCALE)
    assert said(data) == [[("r", 2, True)]] * 2 and data.rows[0].prompt == asked
    assert data.skipped == {"field `prompt` does not end with a turn of the user": 1, "empty prompt": 1}


def test_rubric_keeps_its_steps(tmp_path):
    rows = [{"prompt": "p", "response": "r", "score": score} for score in (0.5, 0.625)]
    verdicts = [row.verdicts[0] for row in load_judged(write(tmp_path / "s.jsonl", rows), SCALE).rows]
    assert [verdict.grade for verdict in verdicts] == [2, 2]
    assert [verdict.severity for verdict in verdicts] == [1.5, 1.875]


def test_grades_and_rubrics_have_one_scale_of_severity(tmp_path):
    """A third of the rubric is a grade of the four."""
    said = [{"grade": 2}, {"score": 1 / 3}, {"score": 2 / 3}, {"score": 1}, {"score": 0}]
    severities = []
    for index, verdict in enumerate(said):
        path = write(tmp_path / f"{index}.jsonl", [{"prompt": "p", "response": "r", **verdict}])
        severities.append(load_judged(path, SCALE).rows[0].verdicts[0].severity)
    assert severities == pytest.approx([2, 1, 2, 3, 0])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"grade": "catastrophic"}, "field `grade` names no grade of the scale"),
        ({"grade": 4}, "field `grade` is not between 0 and 3"),
        ({"grade": 1.5}, "field `grade` names no grade of the scale"),
        ({"grade": True}, "field `grade` names no grade of the scale"),
        ({"grade": "nan"}, "field `grade` names no grade of the scale"),
        ({"grade": 10**400}, "field `grade` names no grade of the scale"),
        ({"score": "high"}, "field `score` is not a score between 0 and 1"),
        ({"is_safe": "safe"}, "field `is_safe` is not true or false"),
        ({"grade": 2, "is_safe": True}, "the grade and the safety label contradict each other"),
        ({"grade": 2, "response": " "}, "empty response"),
        ({"other": 2}, "nothing is said about the response"),
    ],
)
def test_unusable_rows_are_counted(tmp_path, row, reason):
    good = {"prompt": "p", "response": "r", "grade": 1}
    data = load_judged(write(tmp_path / "s.jsonl", [good, {"prompt": "p", "response": "r", **row}]), SCALE)
    assert len(data.rows) == 1 and data.skipped == {reason: 1}


def test_csv(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text('prompt,response,grade,unsafe\n"a, b","two\nlines",minor,yes\np,r,,no\np,r,severe,true,more\n')
    data = load_judged(str(file), SCALE)
    assert said(data) == [[("two\nlines", 1, True)], [("r", None, False)]]
    assert data.rows[0].prompt == [{"role": "user", "content": "a, b"}]
    assert data.skipped == {"the row has more cells than the header": 1}


@pytest.mark.parametrize("scores", [[1, 3, 5], ["0.5", "100"], [0.2, -1.0]])
def test_scores_on_another_scale_are_refused(tmp_path, scores):
    """Of 1 to 5 the 1s alone, the least harmful, would be read, and as the worst."""
    rows = [{"prompt": "p", "response": f"r{i}", "score": score} for i, score in enumerate(scores)]
    ends = f"{float(min(scores, key=float)):g} to {float(max(scores, key=float)):g}"
    with pytest.raises(ValueError, match=f"its column `score` goes from {ends}, and a rubric"):
        load_judged(write(tmp_path / "s.jsonl", rows), SCALE)
    rows = [row | {"is_safe": True} for row in rows]
    assert len(load_judged(write(tmp_path / "t.jsonl", rows)).rows) == len(scores)  # without a scale it is not read


@pytest.mark.parametrize("name", ["pair_weight", "pair_label"])
def test_weights_of_pairs_are_refused(tmp_path, name):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b", name: 0}]
    with pytest.raises(ValueError, match=f"has a column '{name}', but only the method 'rsa'"):
        load_judged(write(tmp_path / "p.jsonl", rows), SCALE)


def test_a_csv_file_of_a_published_format(tmp_path):
    """What a spreadsheet and pandas make of true, 1 and nothing."""
    file = tmp_path / "p.csv"
    header = (
        "prompt,response_0,response_1,safer_response_id,is_response_0_safe,is_response_1_safe,"
        "response_0_severity_level,response_1_severity_level\n"
    )
    file.write_text(header + "p,bad,good,1,False,True,2,0\nq,bad,good,1.0,0.0,TRUE,3.0,0.0\nr,bad,good,2,0,1,,\n")
    data = load_judged(str(file), SCALE)
    assert said(data) == [[("good", 0, False), ("bad", 2, True)], [("good", 0, False), ("bad", 3, True)]]
    assert data.skipped == {"field `safer_response_id` is not 0 or 1": 1}


def test_a_row_without_a_prompt_is_counted(tmp_path):
    rows = [{"prompt": "q", "chosen": "good", "rejected": "bad"}, {"prompt": None, "chosen": "I can", "rejected": "I"}]
    data = load_judged(write(tmp_path / "p.jsonl", rows), SCALE)
    assert len(data.rows) == 1 and data.skipped == {"missing field `prompt`": 1}


def test_pairs_of_other_formats(tmp_path):
    hh = {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}
    trl = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    for name, row in (("hh", hh), ("trl", trl)):
        data = load_judged(write(tmp_path / f"{name}.jsonl", [row]), SCALE)
        assert said(data) == [[("good", None, None), ("bad", None, None)]]
        assert data.rows[0].prompt == [{"role": "user", "content": "q"}]
        assert count_judgements(data.rows) == {"pairs": 1, "labels": 0, "grades": 0}


def test_a_safe_rlhf_spec_draws_its_proportion(tmp_path):
    file = write(tmp_path / "p.jsonl", [pku(prompt=f"p {i}") for i in range(20)])
    assert len(load_judged(f"PKU-SafeRLHF/train:0.25:{file}", SCALE).rows) == 5


def test_unknown_columns(tmp_path):
    with pytest.raises(ValueError, match="which is no known preference format"):
        load_judged(write(tmp_path / "s.jsonl", [{"prompt": "p", "text": "r"}]), SCALE)
    with pytest.raises(ValueError, match="You set preferred_by to 'honest'"):
        load_judged(write(tmp_path / "p.jsonl", [pku()]), SCALE, preferred_by="honest")


# The scale


def test_scale_from_text():
    scale = HarmScale.parse("fine=-2, borderline=0, bad=3")
    assert (scale.names, scale.costs, scale.first_unsafe) == (("fine", "borderline", "bad"), (-2.0, 0.0, 3.0), 2)
    assert HarmScale.parse({"ok": -1, "bad": 1}) == HarmScale(("ok", "bad"), (-1, 1))


@pytest.mark.parametrize("two", [2, 2.0, "2", "2.0", " 2 "])
def test_a_number_that_is_a_name_is_never_a_place(two):
    """The second grade, whether JSON or CSV says so; the third is at place 2."""
    scale = HarmScale.parse("1=-1,2=1,3=4,4=10")
    assert scale.grade_of(two, "grade") == 1
    with pytest.raises(RowError, match="names no grade of the scale"):
        scale.grade_of(0, "grade")
    mixed = HarmScale.parse("none=-1,5=1")
    assert (mixed.grade_of("None", "grade"), mixed.grade_of(5, "grade")) == (0, 1)
    with pytest.raises(RowError, match="names no grade of the scale"):
        mixed.grade_of(1, "grade")
    assert HarmScale().grade_of(two, "grade") == 2  # names in words: by place


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1=-1,1.0=2", "they tell the grades apart"),
        ("safe=-1", "two grades or more"),
        ("safe=-1,bad", "a grade is written as name=cost"),
        ("safe=-1,Safe=2", "they tell the grades apart"),
        ("safe=-1,bad=2,worse=1", "numbers that rise"),
        ("safe=1,bad=2", "0 separates safe from unsafe"),
        ("safe=-1,bad=nan", "numbers that rise"),
    ],
)
def test_scale_that_cannot_be(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        HarmScale.parse(text)


def test_one_key_for_all_spellings_of_a_prompt():
    message = [{"role": "user", "content": "How do I pick a lock?"}]
    spellings = ["How  do I\npick a LOCK? ", "how do i pick a lock?", message]
    assert len({prompt_key(spelling) for spelling in spellings}) == 1
    assert prompt_key("How do I pick a lock") != prompt_key(message)
    longer = [*message, {"role": "assistant", "content": "no"}, {"role": "user", "content": "how"}]
    assert prompt_key(longer) != prompt_key(message)


def test_two_labels_that_contradict_each_other_are_counted(tmp_path):
    rows = [{"prompt": "p", "response": "r", "is_safe": True, "unsafe": i} for i in (0, 1, 0)]
    data = load_judged(write(tmp_path / "rows.jsonl", rows))
    assert len(data.rows) == 2 and dict(data.skipped) == {"two safety labels contradict each other": 1}


def test_a_folder_of_which_a_part_would_not_be_read_is_refused(tmp_path):
    """`datasets` takes a file called test_… for a split, and leaves the others."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("prompt,response,is_safe\np,r,true\n")
    assert len(load_judged(str(folder)).rows) == 2
    (folder / "test_c.csv").write_text("prompt,response,is_safe\np,r,true\n")
    with pytest.raises(ValueError, match=r"of its files a\.csv, b\.csv would not be read: `datasets` takes test_c"):
        load_judged(str(folder))
