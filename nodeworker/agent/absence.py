"""What the runtime noted while no worker was there: stop signals that took no snapshot, and the ends of containers, also of those that never ran.

Every verb but ``create`` goes on without the worker. What it cannot be told then, or does not confirm, the runtime leaves in a file for
each container, a line for each word with its time (``Verb.note``), so that the history says when it happened, and why a snapshot is
missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nodeworker.settings import Settings
from woodfrog.protocol.ids import ContainerId

STOP: Final = "stop"
DELETED: Final = "deleted"
NEVER_RAN: Final = "never-ran"
"""Deleted before any of its processes went on."""
ENDS: Final = frozenset({DELETED, NEVER_RAN})


def noted(settings: Settings) -> list[tuple[ContainerId, list[tuple[str, datetime]]]]:
    """Read what was noted of each container, oldest word first."""
    try:
        paths = sorted(settings.missed.iterdir())
    except FileNotFoundError:
        return []
    return [(ContainerId(path.name), list(_words(path))) for path in paths]


def forget(settings: Settings, container_id: ContainerId) -> None:
    """Remove what was noted of a container."""
    (settings.missed / container_id).unlink(missing_ok=True)


def _words(path: Path) -> Iterator[tuple[str, datetime]]:
    for line in path.read_text(errors="replace").splitlines():
        word, _, seconds = line.partition("\t")
        with suppress(ValueError, OverflowError, OSError):
            yield word, datetime.fromtimestamp(float(seconds), UTC)
