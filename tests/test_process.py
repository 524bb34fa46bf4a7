"""A process of ours ends as any other, without taking the interpreter apart."""

import subprocess
import sys

import pytest


START = """
import atexit, gc, os, sys, threading, time
from trl_rsa import _process

class Left:
    def __del__(self, write=os.write):
        write(1, b"taken apart")

sys.left = Left()

def main():
    assert not gc.isenabled()
    _process.imported()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    _process.imported()
    return work()
"""


def run(work: str) -> "subprocess.CompletedProcess[str]":
    code = f"{START}\ndef work():\n    {work}\n\n_process.run(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("status", [0, 3])
def test_handlers_and_threads_end_first(status):
    ended = run(
        "atexit.register(print, 'handler');"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start();"
        f"print('work'); return {status}"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "work\nthread\nhandler\n", "")


@pytest.mark.parametrize(("work", "status"), [("raise SystemExit(5)", 5), ("raise RuntimeError('a bug')", 1)])
def test_an_exception_ends_it_as_always(work, status):
    ended = run(work)
    assert ended.returncode == status and ("a bug" in ended.stderr) == (status == 1)


@pytest.mark.parametrize("module", ["trl_rsa.cli", "trl_rsa.training.__main__"])
def test_handlers_of_what_the_command_line_imports_are_called(module):
    """`logging` is imported with it, and writes at the end what is held back."""
    code = (
        f"import {module}, logging.handlers, sys; from trl_rsa import _process\n"
        "def main():\n"
        "    held = logging.handlers.MemoryHandler(9, target=logging.StreamHandler(sys.stdout))\n"
        "    logging.getLogger('kept').addHandler(held)\n"
        "    main.held = held\n"
        "    logging.getLogger('kept').warning('held back')\n"
        "    return 0\n"
        "_process.run(main)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "held back\n"


def test_outside_of_it_nothing_is_frozen():
    code = "import gc; from trl_rsa import _process; _process.imported(); print(gc.isenabled(), gc.get_freeze_count())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "True 0\n"
