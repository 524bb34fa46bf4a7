"""Prompt sets: the published column layouts, and rows that cannot be used."""

import json

import pytest

from trl_rsa.evaluation.prompt_sets import load_prompts


@pytest.fixture
def write(tmp_path):
    def run(name: str, content) -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return run


def test_beavertails_evaluation(write):
    """The 700 prompts' file, and the arena's, are one JSON array like this. Whether they are benign is not said."""
    rows = [
        {"prompt": "one?", "category": "animal_abuse", "category_id": 0},
        {"prompt": "two?", "category": "controversial_topics,politics", "category_id": 2},
    ]
    assert load_prompts(write("prompts.json", rows)).rows == [
        {"prompt": "one?", "category": "animal_abuse", "benign": None},
        {"prompt": "two?", "category": "controversial_topics,politics", "benign": None},
    ]


def test_beavertails_categories():
    row = {"prompt": "one?", "response": "no", "category": {"b": True, "a": True, "c": False}}
    assert load_prompts([row]).rows == [{"prompt": "one?", "category": "a,b", "benign": None}]


def test_harmbench(write):
    header = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    body = 'Do X,standard,illegal,,,x\n"Do Y, now",contextual,,"context","Once,\nthere was",y\n'
    assert load_prompts(write("harmbench.csv", header + body)).rows == [
        {"prompt": "Do X", "category": "illegal", "benign": False},
        {"prompt": "Once,\nthere was\n\n---\n\nDo Y, now", "category": "contextual", "benign": False},
    ]


@pytest.mark.parametrize(
    ("header", "labels"), [("id,prompt,type,label,focus,note\n", ("safe", "unsafe")), ("id,prompt,type\n", None)]
)
def test_xstest(write, header, labels):
    rows = [["1", "kill a process", "homonyms"], ["2", "kill a person", "contrast_homonyms"]]
    if labels:
        rows = [[*row, label, "", ""] for row, label in zip(rows, labels, strict=True)]
    path = write("xstest.csv", "\ufeff" + header + "\n".join(",".join(row) for row in rows))
    assert load_prompts(path).rows == [
        {"prompt": "kill a process", "category": "homonyms", "benign": True},
        {"prompt": "kill a person", "category": "contrast_homonyms", "benign": False},
    ]


def test_text_and_lines(write):
    assert [row["prompt"] for row in load_prompts(write("p.txt", "one\n\n  two \n")).rows] == ["one", "two"]
    lines = '{"prompt": "one", "benign": true}\n{"prompt": "two", "benign": 0}\n'
    assert [row["benign"] for row in load_prompts(write("p.jsonl", lines)).rows] == [True, False]
    assert [row["benign"] for row in load_prompts(write("p.csv", "prompt,benign\na,True\nb,0\nc,\n")).rows] == [
        True,
        False,
        None,
    ]


@pytest.mark.parametrize(("name", "text"), [("p.txt", "one\ntwo\n"), ("p.csv", "prompt\none\n"), ("P.TXT", "one\n")])
def test_utf_16_is_not_read_letter_by_letter(tmp_path, name, text):
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / name).write_text(text, encoding=encoding)
        with pytest.raises(ValueError, match=r"holds NUL characters, as a file in UTF-16 does\. Save it as UTF-8"):
            load_prompts(tmp_path / name)


def test_a_column_that_stands_twice_is_refused(write):
    with pytest.raises(ValueError, match=r"p\.csv', but it has two columns prompt\. Rename or remove one"):
        load_prompts(write("p.csv", "prompt,category,prompt\na,x,b\n"))


def test_messages():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    found = load_prompts([{"prompt": turns}, {"prompt": [*turns, {"role": "user", "content": "bye", "name": "x"}]}])
    assert [row["prompt"] for row in found.rows] == [[*turns, {"role": "user", "content": "bye"}]]
    assert found.skipped == {"prompt does not end with a turn of the user": 1}


def test_datasets_and_named_columns():
    from datasets import Dataset

    dataset = Dataset.from_dict({"question": ["one", "two"], "category": ["a", None]})
    assert load_prompts(dataset, column="question").rows == [
        {"prompt": "one", "category": "a", "benign": None},
        {"prompt": "two", "category": None, "benign": None},
    ]


def test_unusable_rows_are_counted(write):
    lines = ['{"prompt": "one"}', '{"prompt": "one"}', '{"prompt": " "}', '{"prompt": 3}', '{"x": 1}', "[]", "{"]
    lines.append('{"prompt": "\\ud83d"}')
    found = load_prompts(write("p.jsonl", "\n".join(lines)))
    assert len(found.rows) == 1
    assert found.skipped == {
        "prompt seen before": 1,
        "empty prompt": 1,
        "prompt is neither text nor messages": 1,
        "no prompt": 1,
        "not a JSON object": 1,
        "the line is not valid JSON": 1,
        "text is not valid Unicode": 1,
    }
    assert str(found).startswith("1 prompt from ") and "1 × empty prompt" in str(found)


def test_limit_draws_by_seed():
    rows = [{"prompt": str(i)} for i in range(100)]
    drawn = [[row["prompt"] for row in load_prompts(rows, limit=10, seed=seed).rows] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0], key=int) and len(set(drawn[0])) == 10
    assert drawn[0] != [str(i) for i in range(10)]
    assert len(load_prompts(rows, limit=1000).rows) == 100


@pytest.mark.parametrize(("draw", "n"), [("", 8), (":", 8), (":0.25", 2), (":3/-1", 3), (":99/-1", 8)])
def test_names_of_safe_rlhf(write, draw, n):
    """With a file in the place of the Hub; proportion and number count distinct prompts, drawn by seed."""
    rows = [{"prompt": f"prompt {i % 8}", "response_0": "a", "response_1": "b"} for i in range(16)]
    path = write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    spec = f"PKU-SafeRLHF/test{draw or ':'}:{path}"
    found = load_prompts(spec, seed=1)
    assert len(found.rows) == n and found.skipped == {"prompt seen before": 8}
    assert found.rows == load_prompts(spec, seed=1).rows == sorted(found.rows, key=lambda row: row["prompt"])
    assert len(load_prompts(spec, limit=1).rows) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.jsonl", '{"question": "one"}\n', r"the columns question and no prompt that can be used \(no prompt\)"),
        ("p.csv", "prompt\n", "has no rows"),
        ("p.txt", "\n\n", "has no rows"),
    ],
)
def test_file_without_prompts(write, name, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_prompts(write(name, content))


def test_other_errors(write, tmp_path):
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(FileNotFoundError):
            load_prompts(str(tmp_path / name))
    with pytest.raises(ValueError, match="You set the limit of prompts to 0"):
        load_prompts([{"prompt": "a"}], limit=0)


def test_types_of_other_files_are_not_those_of_xstest(write):
    """`type` names a category anywhere; what is benign is as given, or not known."""
    path = write("p.csv", "prompt,type,benign\nHow to make a bomb?,weapons,false\nHow to bake?,cooking,yes\nA?,b,\n")
    assert [row["benign"] for row in load_prompts(path).rows] == [False, True, None]
    path = write("q.csv", "prompt,type\nHow to make a bomb?,weapons\nHow do I kill a process?,homonyms\n")
    assert [row["benign"] for row in load_prompts(path).rows] == [None, True]


def test_a_prompt_is_not_cut_at_a_comma(write):
    found = load_prompts(write("p.csv", 'prompt\nHow do I pick a lock, please?\n"A, b"\nC\n'))
    assert [row["prompt"] for row in found.rows] == ["A, b", "C"] and found.skipped == {"too many fields": 1}


def test_benign_in_other_words_is_counted(write):
    found = load_prompts(write("p.csv", "prompt,benign\na,perhaps\nb,no\n"))
    assert [row["benign"] for row in found.rows] == [False]
    assert found.skipped == {"benign is neither true nor false": 1}
