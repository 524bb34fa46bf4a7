"""Starts the worker on the processes of an engine, and makes sure that it ends."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine_cases import processes


WORKER = Path(__file__).with_name("engine_worker.py")
# A launch takes some 20 seconds on two quiet cores; DeepSpeed's first one also compiles for up to a minute.
TIMEOUT = 280


@dataclass
class Launch:
    """How a launch ended."""

    returncode: int | None  # None: it was killed at the timeout
    output: str


def launch(engine: str, *arguments: str) -> Launch:
    """Runs the worker on the engine's processes; nothing of it is left when this returns."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes(engine)}", str(WORKER)]
    root = Path(__file__).parents[2]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'support'}"}
    # The test worker's own place among pytest's processes must not reach the launched ones.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, *command, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
        return Launch(process.returncode, output)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # torchrun passes it on to its workers
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        return Launch(None, output)


def why_not(engine: str) -> str | None:
    """Why an engine cannot run here."""
    if engine.startswith("zero"):
        if importlib.util.find_spec("deepspeed") is None:
            return "deepspeed is not installed"
        if shutil.which("g++") is None:
            return "DeepSpeed compiles an operator at its first start, and there is no g++"
    return None
