"""The command line, the one-machine stack, containers in the foreground, and the demonstration.

The top of the house: it may use both sides, and nothing imports it.
"""
