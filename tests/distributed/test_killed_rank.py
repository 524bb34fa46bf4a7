"""SIGKILL of one rank of two: the job ends with an error, not a hang, and resumes to the same weights."""

import shutil
import time

import pytest
import torch
from launching import launch
from safetensors.torch import load_file


pytestmark = [pytest.mark.slow, pytest.mark.engines, pytest.mark.kills]


@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_job_ends_and_resumes(launched, one_at_a_time, folder, engine):
    finished = launched(engine)
    shutil.rmtree(finished / "full-killed", ignore_errors=True)
    with one_at_a_time():
        began = time.monotonic()
        killed = launch(engine, str(folder), engine, "--kill", "full")
        took = time.monotonic() - began
        assert killed.returncode not in (0, None), "it should end by itself, and with an error"
        assert "SIGKILL" in killed.output or "Signal 9" in killed.output, killed.output[-3000:]
        assert took < 120
        checkpoints = sorted(path.name for path in (finished / "full-killed").glob("checkpoint-*/complete.json"))
        assert len(checkpoints) == 2
        resumed = launch(engine, str(folder), engine, "--resume", "full")
        assert resumed.returncode == 0, resumed.output[-3000:]
    expected = load_file(finished / "full" / "final" / "model.safetensors")
    weights = load_file(finished / "full-killed" / "final" / "model.safetensors")
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights.items())
