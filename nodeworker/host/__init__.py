"""The machine that the worker runs on: what it offers, and the CRIU laid down on it."""
