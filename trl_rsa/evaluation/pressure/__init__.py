"""What a model does when it is pushed: pressures for an evaluation, and the conditions that a budget may name."""
