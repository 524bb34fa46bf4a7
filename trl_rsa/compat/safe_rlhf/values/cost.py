"""`safe_rlhf.values.cost`: trains a cost model with Safe RLHF's arguments, for its `*ForScore` layout."""

import sys

from trl_rsa.compat.safe_rlhf.values._main import train


if __name__ == "__main__":
    sys.exit(train("cost"))
