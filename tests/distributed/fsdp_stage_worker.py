"""The worker of a launched stage, with FSDP2 on a CPU: `python -m fsdp_stage_worker FOLDER`."""

import fsdp_on_cpu

from trl_rsa import _process
from trl_rsa.training.__main__ import main


def sharded() -> int:
    fsdp_on_cpu.enable()
    return main()


if __name__ == "__main__":
    _process.run(sharded)
