"""SIGKILL anywhere on the ladder, then the same command again: it ends as it would have without."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


SCRIPT = Path(__file__).with_name("climb_and_die.py")
# In the order in which a climb comes by.
PLACES = (
    "sampling",
    "deciding",
    "scoring",
    "training",
    "saving",
    "the end of training",
    "between rungs",
    "walking back",
    "certifying",
)


# Of an audited ladder, those that are its own, and what comes between them.
AUDITED = ("labelling", "confirming", "calibrating", "deciding", "between rungs", "certifying")


def climb(model, folder, kind, places=PLACES):
    """How the starts ended, by folder and place."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), model, str(folder), kind, *places],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [line.rpartition(": ") for line in ended.stdout.splitlines() if line.startswith(("whole, ", "again, "))]
    statuses = {place: int(status) for place, _, status in lines}
    killed = dict.fromkeys((f"again, {place}" for place in places), -signal.SIGKILL)
    assert statuses == {"whole, nowhere": 0, **killed, "again, nowhere": 0}, ended.stderr[-3000:]


def result(folder):
    observations = [json.loads(line) for line in (folder / "constraint.jsonl").read_text().splitlines()]
    for entry in observations:
        del entry["time"], entry["model"]
    ladder = json.loads((folder / "manifest.json").read_text())["ladder"]
    certificate = json.loads((folder / "certificate-cost.json").read_text())
    (weights,) = Path(ladder["model"]).glob("*.safetensors")
    data = [rung["data"] for rung in ladder["rungs"]]
    return (
        observations,
        (certificate["bound"], certificate["attempt"]),
        data,
        load_file(weights),
        Path(ladder["model"]),
    )


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_everywhere_it_ends_the_same(kind, tiny_model_path, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    climb(tiny_model_path, tmp_path, kind)
    observations, certificate, data, weights, model = result(whole)
    assert [entry["action"] for entry in observations] == ["next_rung", "walk_back", "stop"], (
        "every place should be met"
    )
    other_observations, other_certificate, other_data, other_weights, other_model = result(again)
    assert other_observations == observations and other_certificate == certificate and other_data == data
    assert other_model.name == model.name and other_weights.keys() == weights.keys()
    assert all(torch.equal(other_weights[name], weights[name]) for name in weights)
    # The rest of the card has TRL's tags, whose order changes from process to process.
    section, expected = (card_of(folder).partition("## Risk of harm")[2] for folder in (other_model, model))
    assert section == expected.replace(str(whole), str(again))
    assert section.count("CERTIFIED. ") == 1 and section.count("## ") == 1


@pytest.mark.slow
@pytest.mark.kills
def test_an_audited_ladder_ends_the_same_and_asks_for_no_label_twice(tiny_model_path, tmp_path):
    climb(tiny_model_path, tmp_path, "audited", AUDITED)
    whole, again = (result(tmp_path / name) for name in ("whole", "again"))
    assert whole[0] == again[0] and whole[1] == again[1] and whole[2] == again[2]
    assert all(torch.equal(whole[3][name], again[3][name]) for name in whole[3])
    audit = whole[0][-1]["constraints"]["cost"]["audit"]
    assert audit["calibrated"] and 24 < audit["labels"] <= 90 and audit["missing"] == 0
    assert audit["agreement"]["disagreed"] > 0, "each tenth label is wrong"
    labels = {}
    for name in ("whole", "again"):
        lines = (tmp_path / name / "ladder/audit-cost/labels.jsonl").read_text().splitlines()
        labels[name] = [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
        pairs = [(line["id"], line["labeller"]) for line in labels[name]]
        assert len(pairs) == len(set(pairs))
    assert labels["whole"] == labels["again"]
    confirmed = sorted((tmp_path / "again/ladder/audit-cost").glob("requests-*-decide-3.json"))
    assert confirmed and json.loads(confirmed[0].read_text())["requests"]
    certificate = json.loads((tmp_path / "whole/certificate-cost.json").read_text())
    assert certificate["audit"]["n_labelled"] > 10 and "as people label it" in certificate["statement"]


def card_of(folder):
    return (folder / "README.md").read_text()
