"""Two certifications at once do not spend the error once: the second one is refused while one holds the ledger."""

import subprocess
import sys

import pytest

from trl_rsa.evaluation.certificate import certify
from trl_rsa.storage.locks import LockedError


HOLD = """
import sys, time
from trl_rsa.storage.locks import hold_file
with hold_file(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_certify_is_told_who_holds_the_ledger(tmp_path):
    path = tmp_path / "certificate.json"
    arguments = {"prompts": [f"p{i}" for i in range(40)], "bounds": (-5.0, 5.0), "scorer": "s", "ledger_path": path}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"the process {process.pid} on"):
            certify([-1.0] * 40, 0.0, **arguments)
        assert not path.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert certify([-1.0] * 40, 0.0, **arguments).attempt == 1
