"""Rungs until a budget is met: the constraint, the scheduler of the multiplier, and the climb."""
