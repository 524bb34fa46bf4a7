"""The sampling benchmark in miniature: it runs, and every method draws what it should."""

import csv

from benchmarks.sampling import main


def test_miniature(tiny_model_path, tmp_path):
    """Two prompts; in the equal batch each of three responses has exactly four tokens."""
    output = tmp_path / "out" / "sampling.csv"
    sizes = ["--prompts", "2", "--max_new_tokens", "6", "--batch_size", "3", "--equal_tokens", "4", "--repeats", "2"]
    main(["--model", tiny_model_path, "--dtypes", "float32", "--output", str(output), *sizes])
    rows = list(csv.DictReader(output.open()))
    assert [(row["part"], row["method"]) for row in rows] == [
        *(("ladder", method) for method in ("before", "ours", "ours, 32 at a time")),
        *((part, method) for part in ("equal batch", "adapter") for method in ("plain", "before", "ours")),
    ]
    assert [int(row["tokens"]) for row in rows[3:]] == [12] * 6
    assert rows[1]["tokens"] == rows[2]["tokens"] and 8 <= int(rows[1]["tokens"]) <= 48
    assert all(float(row["ratio"]) == 1 for row in rows if row["method"] == row["against"])
    assert all(float(row["lowest"]) <= float(row["tokens_per_second"]) <= float(row["highest"]) for row in rows)
