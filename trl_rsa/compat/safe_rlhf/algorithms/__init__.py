"""`safe_rlhf.algorithms`: modules that a launcher starts."""
