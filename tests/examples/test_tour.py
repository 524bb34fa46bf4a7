"""examples/tour.ipynb: committed without outputs, and run from its first cell to its last, on a smaller world."""

import json
from pathlib import Path

import matplotlib
import pytest
from cpu_args import CPU_ARGS

from trl_rsa.sandbox import PolicySettings, SandboxSettings


NOTEBOOK = Path(__file__).parents[2] / "examples/tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_outputs_are_stripped():
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_RSA_CACHE", str(tmp_path / "cache"))
    matplotlib.use("Agg")
    policy = PolicySettings(hidden_size=64, intermediate_size=128, steps=60)
    splits = {"train": 100, "decide": 150, "certify": 150, "test": 100}
    small = {
        "settings": SandboxSettings(policy, splits=splits),
        "args": {
            **CPU_ARGS,
            "max_steps": 10,
            "per_device_train_batch_size": 8,
            "max_length": 128,
            "save_strategy": "no",
        },
        "rungs": {"max_rungs": 1, "sampling": {"max_new_tokens": 48}, "batch_size": 200, "max_walk_backs": 0},
    }
    names = {}
    for cell in CODE:
        exec("".join(cell["source"]), names)
        if "sizes" in cell["metadata"].get("tags", ()):
            assert small.keys() <= names.keys()
            names |= small
    out = capsys.readouterr().out
    assert names["certificate"]["statement"] in out
    assert {"worst.png", "survival.png", "tradeoff.png", "ladder.png"} <= {
        path.name for path in Path("runs/tour/plots").iterdir()
    }
    assert Path("runs/tour/report.html").is_file()
