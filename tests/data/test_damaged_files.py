"""Files that are bombs or ruins: counted, or one sentence with the file's name."""

import gzip
import json

import pytest

from trl_rsa.data import load_preferences


ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_a_compressed_line_of_gigabytes_is_one_broken_row(tmp_path):
    """Here of 20 MB: it is never held whole, so that its length does not matter."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(json.dumps(ROW).encode() + b'\n{"prompt": "')
        for _ in range(20):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n')
    assert path.stat().st_size < 1 << 20
    counts = load_preferences(str(path)).counts
    assert counts.rows_used == 1 and counts.skipped == {"the line is longer than 16 MiB": 1}


def test_an_array_that_no_memory_holds_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_rsa.data.files.LARGEST_ARRAY", 1000)
    path = tmp_path / "array.json"
    path.write_text(json.dumps([ROW] * 100))
    with pytest.raises(ValueError, match=r"array\.json is a JSON array of more than"):
        load_preferences(str(path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_parquet_is_named(tmp_path, damage):
    from datasets import Dataset

    path = tmp_path / "pairs.parquet"
    Dataset.from_list([ROW] * 50).to_parquet(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-300:-8] = bytes(292)
    else:
        content = b"PAR1 and nothing else PAR1"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pairs\.parquet cannot be read as parquet"):
        load_preferences(str(path))
