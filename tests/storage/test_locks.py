"""One writer at a time; the second one is told who the first is; a killed one leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from trl_rsa.storage.locks import LockedError, hold_file, hold_folder


HOLD = """
import sys, time
from trl_rsa.storage.locks import hold_file, hold_folder
with (hold_file if sys.argv[1].endswith("json") else hold_folder)(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    started = []

    def start(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("name", "hold"), [("run-1.2", hold_folder), ("certificate.json", hold_file)])
def test_the_second_process_is_told_who_the_first_is(other_process, tmp_path, name, hold):
    process = other_process(tmp_path / name)
    with pytest.raises(LockedError, match=rf"the process {process.pid} on \S+ \(since 20"), hold(tmp_path / name):
        pass


def test_the_lock_of_a_killed_process_is_free(other_process, tmp_path):
    process = other_process(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with hold_folder(tmp_path / "run"):
        pass


def test_a_thread_may_hold_it_again_and_another_may_not(tmp_path):
    refused = []

    def try_it():
        try:
            with hold_folder(tmp_path):
                pass
        except LockedError as error:
            refused.append(str(error))

    with hold_folder(tmp_path):
        with hold_folder(tmp_path):
            pass
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert len(refused) == 1 and str(os.getpid()) in refused[0]
    with hold_folder(tmp_path):
        pass


def test_the_file_itself_is_not_touched(tmp_path):
    with hold_file(tmp_path / "certificate.json"):
        assert not (tmp_path / "certificate.json").exists()


def test_nothing_is_left_behind(tmp_path):
    with hold_file(tmp_path / "certificate.json"), hold_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
    with hold_folder(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists(), "nothing was written there"


COUNT = """
import sys
from pathlib import Path
from trl_rsa.storage.locks import LockedError, hold_file
path, done = Path(sys.argv[1]), 0
while done < 200:
    try:
        with hold_file(path):
            path.write_text(str(int(path.read_text()) + 1))
            done += 1
    except LockedError:
        pass
"""


def test_several_processes_never_meet(tmp_path):
    """Each adds 1 two hundred times; one lost update would show. The lock file comes and goes all the while."""
    path = tmp_path / "count"
    path.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert path.read_text() == "600"
