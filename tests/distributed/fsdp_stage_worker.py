"""The worker of a launched stage, with FSDP2 on a CPU: `python -m fsdp_stage_worker FOLDER`."""

import sys
from pathlib import Path

import fsdp_on_cpu


if __name__ == "__main__":
    fsdp_on_cpu.enable()
    from trl_rsa.training.worker import main

    sys.exit(main(Path(sys.argv[1])))
