"""`safe_rlhf.algorithms.ppo_lag` has no twin here: this says in one sentence what does its job."""

import sys


_SENTENCE = (
    "You started ppo_lag, but there is no PPO here: a budget on the cost is met by stages and rungs on preference "
    "pairs. Run trl-rsa migrate SCRIPT: it writes the plan for trl-rsa align, --threshold becoming a budget."
)


if __name__ == "__main__":
    print(f"trl_rsa.compat.safe_rlhf.algorithms.ppo_lag: error: {_SENTENCE}", file=sys.stderr)
    sys.exit(2)
