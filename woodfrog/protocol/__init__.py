"""What the control plane and the node workers say to each other, and nothing else.

Every message that crosses a process boundary is a :mod:`msgspec` Struct defined here: keys, facts, events, commands,
reports, requests, the snapshot manifest, and the names of NATS subjects. The package does no I/O and imports neither side,
so both may import it and neither needs the other (an import-linter contract in ``pyproject.toml`` holds this).

The words are those of ``docs/explanation/words.md``: id, key, incarnation, dump, capture, snapshot, position, version.
"""
