"""A plan at several settings: each point aligned once, and evaluated once on the same prompts and noise."""
