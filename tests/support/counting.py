"""Workloads that count into a file, and what their file must look like: every number once, in order, none missing."""

from __future__ import annotations

from pathlib import Path

from support.stack import Stack, until


def counting(path: str) -> str:
    """A shell script that appends the next number to a file for ever."""
    return f"i=0; while :; do i=$((i+1)); echo $i >>{path}; sleep 0.05; done"


def numbers(path: Path) -> list[int]:
    """The complete lines of a file, each of which must be the next number."""
    text = path.read_text() if path.exists() else ""
    found = [int(line) for line in text[: text.rfind("\n") + 1].split()]
    assert found == list(range(1, len(found) + 1))
    return found


def counts(path: Path, beyond: int = 5) -> int:
    """Wait until it counts beyond a number; return how far it came."""
    until(lambda: len(numbers(path)) > beyond, saying=f"{path} counts beyond {beyond}")
    return len(numbers(path))


def restored(stack: Stack, checkpoint_id: str) -> int:
    """How often a snapshot was chosen for an id."""
    return stack.types(checkpoint_id).count("incarnation.restore-chosen")
