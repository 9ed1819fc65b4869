"""Rehearsals: a snapshot is restored into a container that never runs, looked at, and removed, before it counts as valid.

``rehearsals`` decides and bounds, in the worker; everything that mounts, restores or could hang happens in a process of its own
(``python -m nodeworker.rehearsal``), whose namespaces and processes end with it, and which ends with the worker.
"""
