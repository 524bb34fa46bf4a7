"""What a stage can do: a method per file, each on TRL's own trainer and configuration; table.py lists them."""
