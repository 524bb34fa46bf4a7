"""Writes its process id to a file and sleeps: `python -m sleeper FILE`."""

import os
import sys
import time
from pathlib import Path

from trl_rsa.training.launcher import end_with_parent


if __name__ == "__main__":
    end_with_parent()
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(300)
