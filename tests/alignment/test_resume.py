"""SIGKILL in stage two, then the same command again: the same weights as without the kill, and nothing repeated."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from align_and_die import make_plan
from safetensors.torch import load_file

from trl_rsa import align
from trl_rsa.training.checkpoints import MARKER, newest_complete_checkpoint


SCRIPT = Path(__file__).with_name("align_and_die.py")


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_path, data, tmp_path_factory):
    """Final weights and metrics per kind of tuning, run once each."""
    done = {}

    def run(peft):
        if peft not in done:
            folder = tmp_path_factory.mktemp("uninterrupted")
            alignment = align(make_plan(tiny_model_path, data, str(folder), peft))
            done[peft] = final_weights(folder), alignment.manifest["stages"][1]["metrics"]
        return done[peft]

    return run


CASES = ["full-training", "full-saving", "peft-saving", "peft-final"]


@pytest.fixture(scope="module")
def killed(tiny_model_path, data, tmp_path_factory):
    """A folder with what each case left when it was killed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(SCRIPT), tiny_model_path, data, str(folder), *CASES]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600)
    statuses = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("ended: ")]
    assert statuses == [[case, str(-signal.SIGKILL)] for case in CASES], ended.stderr[-2000:]
    return folder


def final_weights(output_dir):
    (file,) = Path(output_dir, "02-safe").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.parametrize("case", CASES)
def test_killed_and_started_again_it_ends_the_same(case, tiny_model_path, data, uninterrupted, killed):
    tuning, _, when = case.partition("-")
    peft, folder = tuning == "peft", killed / case
    expected, expected_metrics = uninterrupted(peft)
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert [stage["status"] for stage in stages] == ["complete", "running"]
    if when == "saving":
        newest = folder / "02-safe" / "checkpoint-4"
        assert newest.exists() and not (newest / MARKER).exists(), "the kill should leave a broken newest checkpoint"

    lines = []
    alignment = align(make_plan(tiny_model_path, data, str(folder), peft), log=lines.append)
    resumed_from = {"training": 2, "saving": 2, "final": 6}[when]
    assert any(f"resumed from checkpoint-{resumed_from}" in line for line in lines)
    assert any("[1/2] helpful: complete already" in line for line in lines)
    resumed = final_weights(folder)
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name
    metrics = alignment.manifest["stages"][1]["metrics"]
    assert metrics.keys() == expected_metrics.keys()
    assert metrics == pytest.approx(expected_metrics)


def test_a_broken_newest_checkpoint_is_passed_over(tmp_path):
    for step in (2, 10, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / MARKER).write_text('{"files": {}}')
    (tmp_path / "checkpoint-old").mkdir()
    assert newest_complete_checkpoint(tmp_path).name == "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists()
    assert (tmp_path / "checkpoint-old").exists(), "only the trainer's own folders are touched"
    assert newest_complete_checkpoint(tmp_path / "nothing") is None
