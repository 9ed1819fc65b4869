"""Looking now and then at which store is there: a file system may be mounted after the worker started, or another one.

A store that does not answer must hold up nothing: each look is a thread that nobody waits for longer than a moment.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from msgspec.structs import replace

from nodeworker.errors import failure_of
from nodeworker.store.identity import StoreIdentity
from nodeworker.threads import in_daemon_thread
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure, FailureError

_log = structlog.get_logger(component="store")

_EVERY_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0


class StoreWatch:
    """Keeps the identity of a store up to date."""

    def __init__(self, identity: StoreIdentity) -> None:
        self._identity = identity
        self._reported: str | None = None
        """Code of the failure that was logged last."""

    def add_to(self, facts: NodeFacts) -> NodeFacts:
        """Return a node's facts with its store, as it was last known."""
        return facts if self._identity.last is None else replace(facts, store=self._identity.last)

    async def run(self) -> None:
        """Look until cancelled. A look that hangs is waited for here, so that there is never more than one."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            self._note(await in_daemon_thread(self._read))

    async def look(self) -> None:
        """Look once, no longer than a moment."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                self._note(await in_daemon_thread(self._read))
        except TimeoutError:
            _log.warning("the store does not answer", seconds=_LOOK_SECONDS)

    def _read(self) -> Failure | None:
        try:
            self._identity.read()
        except (FailureError, OSError) as problem:
            return failure_of(problem)
        return None

    def _note(self, failure: Failure | None) -> None:
        code = None if failure is None else failure.code
        if code != self._reported and failure is not None:
            _log.warning("the store cannot be identified", failure=str(failure))
        self._reported = code
