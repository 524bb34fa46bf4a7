"""What every process of a launched group runs: `python -m trl_rsa.training FOLDER`, as launched.py asks."""

import sys
from pathlib import Path

from trl_rsa import _process


def main() -> int:
    from trl_rsa.training import worker

    _process.imported()
    return worker.main(Path(sys.argv[1]))


if __name__ == "__main__":
    _process.run(main)
