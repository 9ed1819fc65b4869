"""The lease as an election needs it, wherever it is kept: in a row of the log's database, or in a Kubernetes Lease object."""

from __future__ import annotations

from typing import Protocol

import msgspec


class LeaseUnavailableError(Exception):
    """The lease cannot be read or written now; the attempted write may or may not have been made."""


class Lease(msgspec.Struct, frozen=True):
    """What the lease says.

    No moment is in it: who waits for its end measures with a clock of its own how long it stays the same, as client-go's
    leader election does, so that clocks that differ cannot make two leaders.
    """

    holder: str
    """Who leads, in the words of :mod:`controlplane.election.holder`; empty if nobody does."""
    duration_seconds: float
    """How long others must see the lease unchanged before they may take it."""
    version: str
    """Another one after every write: a counter in SQL, the resourceVersion in Kubernetes. To be compared, not read."""


class LeaseStore(Protocol):
    """Keeps one lease."""

    async def read(self) -> Lease:
        """Tell what the lease says.

        Raises:
            LeaseUnavailableError: if it cannot be read.
        """
        ...

    async def replace(self, before: Lease, *, holder: str, duration_seconds: float) -> Lease | None:
        """Write the lease if it is still what was read before; ``None`` if somebody else has written meanwhile.

        Raises:
            LeaseUnavailableError: if it cannot be written.
        """
        ...
