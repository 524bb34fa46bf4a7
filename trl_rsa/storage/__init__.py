"""How anything is written down, and read again: records, files, provenance. Standard library and numpy only."""
