"""What an import brings with it: a room that needs no torch must not wait for it."""

import subprocess
import sys

import pytest


TRAINERS = ("transformers", "trl", "accelerate", "datasets", "peft")


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("risk", TRAINERS),
        ("storage.digests", ("torch", "numpy", *TRAINERS)),
        ("storage.files", ("torch", "numpy", *TRAINERS)),
        ("storage.records", ("torch", *TRAINERS)),
        ("storage.provenance", ("torch", *TRAINERS)),
        ("report.write", ("torch", *TRAINERS)),
    ],
)
def test_import_is_light(room, absent):
    code = f"import sys, trl_rsa.{room}; print(*sys.modules.keys() & {set(absent)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
