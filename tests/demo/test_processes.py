"""Rows of the demo side by side: results as they come, one core, an error, and a demo that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trl_rsa.demo import processes
from trl_rsa.demo.processes import side_by_side
from trl_rsa.ladder.progress import ProgressLog


def squared(number):
    return number**2, os.getpid()


def noisy(number):
    import logging

    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm %d", number)


def refused(number):
    raise ValueError(f"no {number}")


def collect(call, numbers):
    return {work: result for work, result, _ in side_by_side(call, [(n,) for n in numbers], ProgressLog(print))}


def test_each_result_with_its_work_from_other_processes(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 2)
    found = collect(squared, [1, 2, 3])
    assert {work: square for work, (square, _) in found.items()} == {1: 1, 2: 4, 3: 9}
    assert os.getpid() not in {process for _, process in found.values()}


@pytest.mark.parametrize(("cores", "numbers"), [(1, [2, 3]), (8, [2])])
def test_one_core_or_one_row_needs_no_process(monkeypatch, cores, numbers):
    monkeypatch.setattr(processes, "cores", lambda: cores)
    assert collect(squared, numbers) == {n: (n**2, os.getpid()) for n in numbers}


def test_other_processes_are_as_quiet_as_the_command(monkeypatch, capfd):
    monkeypatch.setattr(processes, "cores", lambda: 2)
    assert collect(noisy, [1, 2]) == {1: None, 2: None}
    assert "Failed to load" not in capfd.readouterr().err


def test_an_error_ends_it(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 2)
    with pytest.raises(ValueError, match="no 2"):
        collect(refused, [2, 2])


SCRIPT = """
import time
from pathlib import Path
from trl_rsa.demo import processes
from trl_rsa.ladder.progress import ProgressLog

def wait(folder, name):
    import os
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    processes.cores = lambda: 2
    list(processes.side_by_side(wait, [(FOLDER, "a"), (FOLDER, "b")], ProgressLog(print)))
"""


@pytest.mark.slow
def test_a_killed_demo_leaves_nothing_behind(tmp_path):
    script = tmp_path / "demo.py"
    script.write_text(SCRIPT.replace("FOLDER", repr(str(tmp_path))))
    root = str(Path(__file__).parents[2])
    demo = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    files = [tmp_path / name for name in "ab"]
    _wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    demo.send_signal(signal.SIGKILL)
    demo.wait()
    _wait_until(lambda: not any(_lives(int(file.read_text())) for file in files))


def _lives(process: int) -> bool:
    """A process that has ended and that nobody has asked about yet counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
