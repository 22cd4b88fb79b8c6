"""The built-in programs. They run inside containers, started by `run.py`, with the standard library alone."""
