"""Preference pairs from a written constitution: a model compares, or criticises and revises. Start at `run.py`."""
