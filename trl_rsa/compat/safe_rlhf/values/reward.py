"""`safe_rlhf.values.reward`: trains a reward model with Safe RLHF's arguments, for its `*ForScore` layout."""

import sys

from trl_rsa.compat.safe_rlhf.values._main import train


if __name__ == "__main__":
    sys.exit(train("reward"))
