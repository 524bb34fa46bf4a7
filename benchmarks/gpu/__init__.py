"""One prepared run for a machine with a GPU: see README.md beside this file."""
