"""SIGKILL in a KTO and in an RLOO stage, then the same command again: the same weights and multipliers as without."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods_and_die import make_plan
from safetensors.torch import load_file

from trl_rsa import align


SCRIPT = Path(__file__).with_name("methods_and_die.py")
METHODS = ["kto", "rloo"]


@pytest.fixture(scope="module")
def killed(tiny_model_path, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(SCRIPT), tiny_model_path, data, str(folder), *METHODS]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600)
    statuses = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("ended: ")]
    assert statuses == [[method, str(-signal.SIGKILL)] for method in METHODS], ended.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_started_again_it_ends_the_same(method, tiny_model_path, data, killed, tmp_path):
    expected = align(make_plan(tiny_model_path, data, str(tmp_path), method), log=lambda line: None)
    lines = []
    resumed = align(make_plan(tiny_model_path, data, str(killed / method), method), log=lines.append)
    assert any("resumed from checkpoint-4" in line for line in lines)
    one, two = (load_file(Path(alignment.model, "model.safetensors")) for alignment in (expected, resumed))
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor), name
    metrics = [
        {name: value for name, value in alignment.manifest["stages"][0]["metrics"].items() if "time" not in name}
        for alignment in (expected, resumed)
    ]
    assert metrics[0] == metrics[1]
    if method == "rloo":
        states = [
            json.loads(Path(alignment.model, "checkpoint-6", "multipliers.json").read_text())
            for alignment in (expected, resumed)
        ]
        assert states[0] == states[1] and states[0]["multipliers"]["cost"]["multiplier"] != 1.0
