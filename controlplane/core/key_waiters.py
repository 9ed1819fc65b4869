"""Who waits for something to happen to a key, and is woken when it does.

A start that waits for its predecessor's last dump would have to ask again and again. Its question is held instead, and decided anew
as soon as the log has grown by an event of its key, or a node was lost or came back, which may concern any key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from woodfrog.protocol.events import AnyEvent, NodeLost, NodeReturned
from woodfrog.protocol.ids import CheckpointKey


class KeyWaiters:
    """Those who wait, by the key that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[CheckpointKey, set[asyncio.Event]] = {}

    @contextmanager
    def of(self, key: CheckpointKey) -> Iterator[asyncio.Event]:
        """Give an event that is set once anything happens to ``key`` from now on."""
        stirred = asyncio.Event()
        here = self._waiting.setdefault(key, set())
        here.add(stirred)
        try:
            yield stirred
        finally:
            here.discard(stirred)
            if not here and self._waiting.get(key) is here:
                del self._waiting[key]

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Wake whoever waits for one of these, which are in the log now."""
        if not self._waiting:
            return
        for event in events:
            if isinstance(event, NodeLost | NodeReturned):
                for each in self._waiting.values():
                    _wake(each)
            elif (key := getattr(event, "key", None)) in self._waiting:
                _wake(self._waiting[key])


def _wake(waiting: set[asyncio.Event]) -> None:
    for each in waiting:
        each.set()
