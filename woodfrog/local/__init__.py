"""Containers on one machine without an engine: ``woodfrog dev``, ``woodfrog run`` and the demonstration."""
