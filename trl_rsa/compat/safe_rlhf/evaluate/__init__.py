"""Safe RLHF's evaluations: `python -m trl_rsa.compat.safe_rlhf.evaluate.arena`."""
