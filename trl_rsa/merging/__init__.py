"""Averages of models: whole weight updates, never an adapter's factors apart. Start at `merge.py`."""
