"""One process of a launched command: `python -m trl_rsa.scripts._rank COMMAND ARGUMENTS`. It ends with its parent."""

import sys

from trl_rsa.scripts._command import run_command
from trl_rsa.training.launcher import end_with_parent


if __name__ == "__main__":
    end_with_parent()
    sys.exit(run_command(sys.argv[1], sys.argv[2:], launched=True))
