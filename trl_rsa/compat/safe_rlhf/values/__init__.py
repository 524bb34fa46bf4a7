"""Safe RLHF's reward and cost training: `python -m trl_rsa.compat.safe_rlhf.values.reward` and `….cost`."""
