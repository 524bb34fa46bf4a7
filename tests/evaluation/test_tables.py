"""Tables as records: the same records whatever the file, and nothing that is wrong with a row goes unnoticed."""

import gzip

import pytest

from trl_rsa.evaluation import tables
from trl_rsa.evaluation.tables import read_responses
from trl_rsa.storage.records import FIELDS, ReadReport, RecordWriter, read_records


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_a_csv_gives_the_records_that_jsonl_gives(tmp_path):
    rows = [
        {"prompt": "p", "response": "a, b", "cost": 1.5, "reward": None, "model": "m", "seed": 3, "benign": True},
        {"prompt": "q", "response": "", "cost": -2.0, "reward": 0.5, "model": "m", "seed": 4, "benign": False},
    ]
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        for row in rows:
            writer.write(row)
    text = 'Prompt, response ,cost,reward,model,seed,benign\np,"a, b",1.5,,m,3,true\nq,,-2,0.5,m,4,0\n'
    found = list(read_responses(write(tmp_path / "r.csv", text)))
    assert found == list(read_records(tmp_path / "r.jsonl"))
    assert list(read_responses(tmp_path / "r.jsonl")) == found


def test_whether_a_response_was_cut_is_read_however_it_is_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"prompt": list("pqrs"), "response": list("abcd"), "cost": [1.0] * 4, "finished": [0.0, 1.0, 7.0, None]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "r.parquet"))
    text = "prompt,response,cost,finished\np,a,1,no\nq,b,1,1.0\nr,c,1,maybe\ns,d,1,\n"
    for path in (tmp_path / "r.parquet", write(tmp_path / "r.csv", text)):
        report = ReadReport()
        assert [row.get("finished") for row in read_responses(path, report)] == [False, True, None, None]
        assert report.problems["finished is not true or false"] == 1


def test_parquet_with_messages_and_numbers_for_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    prompt = [{"role": "user", "content": "p"}]
    rows = {
        "prompt": [prompt, prompt],
        "response": ["a", "b"],
        "cost": [1, None],
        "model": [7, 7],
        "topic": ["t", "u"],
    }
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "r.parquet"))
    report = ReadReport()
    found = list(read_responses(tmp_path / "r.parquet", report, ("cost",)))
    assert [(r["prompt"], r["cost"], r["model"], r["topic"]) for r in found] == [
        (prompt, 1.0, "7", "t"),
        (prompt, None, "7", "u"),
    ]
    assert dict(report.problems) == {"no cost": 1}


def test_a_gzipped_table(tmp_path):
    for name, between in (("r.csv.gz", ","), ("R.TSV.GZ", "\t")):
        content = gzip.compress(between.join(["prompt", "cost"]).encode() + f"\np{between}1.5\n".encode() * 5000)
        (tmp_path / name).write_bytes(content)
        found = list(read_responses(tmp_path / name))
        assert len(found) == 5000 and {(r["prompt"], r["cost"]) for r in found} == {("p", 1.5)}
        (tmp_path / name).write_bytes(content[:-12])
        with pytest.raises(ValueError, match="ends early or is damaged"):
            list(read_responses(tmp_path / name))


def test_what_is_wrong_with_a_row_is_counted(tmp_path):
    lines = ["prompt,cost", "p,1", ",2", "q,high", "r,inf", "s,", "t,1,2,3", "u"]
    report = ReadReport()
    found = list(read_responses(write(tmp_path / "c.csv", "\n".join(lines)), report, ("cost",)))
    assert [r["cost"] for r in found] == [1.0, None, None, None, None]
    assert (report.read, report.unreadable) == (5, 2)
    assert dict(report.problems) == {
        "no prompt": 1,
        "cost is not a number": 1,
        "cost is not finite": 1,
        "no cost": 2,
        "too many fields": 1,
    }
    assert "line 3: no prompt" in report.examples


def test_rows_as_prompts(tmp_path):
    found = list(read_responses(write(tmp_path / "c.csv", "cost\n1\n1\n"), rows_are_prompts=True))
    assert len({r["prompt"] for r in found}) == 2 and all(r["unnamed_prompt"] for r in found)
    assert set(FIELDS) <= set(found[0])


@pytest.mark.parametrize(
    ("content", "encoding", "sentence"),
    [
        ("prompt,cost\np,1\n", "utf-16", "is not UTF-8"),
        ("prompt,cost\nmodèle,1\n", "latin-1", "Save it as UTF-8"),
        ("prompt,cost,Cost\np,1,2\n", "utf-8", "two columns cost"),
        ("prompt,cost,note,note\np,1,a,b\n", "utf-8", "two columns note"),
        ("cost\n1\n", "utf-8", "no column prompt"),
    ],
)
def test_sentences(tmp_path, content, encoding, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(read_responses(write(tmp_path / "c.csv", content, encoding)))


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_responses(tmp_path / "c.csv"))
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_responses(tmp_path / "d.csv"))
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        list(read_responses(write(tmp_path / "c.parquet", "nonsense")))
    with pytest.raises(ValueError, match="has a column prompt"):
        list(read_responses(write(tmp_path / "c.csv", "prompt,cost\np,1\n"), rows_are_prompts=True))


def test_the_columns_of_parquet_are_named_once_for_the_file(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path, named = tmp_path / "r.parquet", []
    datasets.Dataset.from_dict({"prompt": list("abc"), "Cost": [1.0, 2.0, 3.0]}).to_parquet(str(path))
    monkeypatch.setattr(tables, "refuse_same_names", lambda names, _: named.append(names))
    assert [record["cost"] for record in read_responses(path, None, ("cost",))] == [1.0, 2.0, 3.0]
    assert named == [["prompt", "cost"]]


def test_a_parquet_file_is_not_gzipped(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"prompt": ["a"]}).to_parquet(str(tmp_path / "r.parquet"))
    path = tmp_path / "r.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "r.parquet").read_bytes()))
    with pytest.raises(ValueError, match=r"a Parquet file is not gzipped.*Unpack it with gunzip"):
        list(read_responses(path))


def test_a_first_row_with_too_many_fields_hides_no_column(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("prompt,cost\na,1,2\nb,3\n")
    report = ReadReport()
    assert [record["cost"] for record in read_responses(path, report, ("cost",), ("cost",))] == [3.0]
    assert report.unreadable == 1
