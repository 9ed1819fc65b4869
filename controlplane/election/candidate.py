"""One candidate's part in deciding who leads: wait for the lease, hold it, give it back.

A candidate takes a lease that nobody holds, whose holder is provably dead, or that it has seen unchanged for the whole of
the lease's duration on its own monotonic clock. A holder counts its lease from *before* its last successful renewal, so it
knows that the lease has lapsed before anybody else may take it, and sends nothing from then on (:meth:`Election.check`).

A lapsed lease is not a lost lead: while the database is away nobody can take it either, and the holder renews it when the
database is back. The lead is lost when somebody else holds the lease.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.election import holder as holders
from controlplane.election.lease import Lease, LeaseStore, LeaseUnavailableError
from woodfrog.protocol.failures import Failure, FailureError

_log = structlog.get_logger(component="lead")

DURATION_SECONDS: Final = 10.0
RENEW_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
"""With these a standby leads at most 12 s after its leader fell silent: one look late, the duration, one look late."""
_RELEASE_SECONDS: Final = 2.0


class LeadLostError(FailureError):
    """Another control plane holds the lease: this one has to end."""


class LeaseLapsedError(Exception):
    """The lease was not renewed in time: until it is, nothing may be sent."""


class Election:
    """One candidate. :meth:`win`, then :meth:`hold` while leading, then :meth:`release`."""

    def __init__(
        self,
        store: LeaseStore,
        holder: str,
        *,
        duration_seconds: float = DURATION_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        is_dead: Callable[[str], bool] = holders.is_dead,
    ) -> None:
        self._store = store
        self._holder = holder
        self._duration_seconds = duration_seconds
        self._renew_seconds = renew_seconds
        self._look_seconds = look_seconds
        self._clock = clock
        self._is_dead = is_dead
        self._held: Lease | None = None
        self._valid_until = 0.0

    async def win(self) -> None:
        """Wait until this candidate holds the lease."""
        seen: Lease | None = None
        seen_since = self._clock()
        told: str | None = None
        while True:
            try:
                lease = await self._store.read()
                if seen is None or lease.version != seen.version:
                    seen, seen_since = lease, self._clock()
                if self._may_take(lease, self._clock() - seen_since) and await self._take(lease):
                    return
            except LeaseUnavailableError as problem:
                await _log.awarning("the lease cannot be looked at", error=str(problem))
            else:
                if lease.holder != told:
                    told = lease.holder
                    await _log.ainfo("standing by", leader=told, holder=self._holder)
            # Two that look at the same moment would collide at every look.
            await asyncio.sleep(self._look_seconds * random.uniform(0.8, 1.0))  # noqa: S311 - no secret

    def _may_take(self, lease: Lease, unchanged_seconds: float) -> bool:
        if lease.holder in {"", self._holder}:  # its own: taken by a write whose answer got lost
            return True
        return unchanged_seconds >= lease.duration_seconds or self._is_dead(lease.holder)

    async def _take(self, lease: Lease) -> bool:
        began = self._clock()
        taken = await self._store.replace(lease, holder=self._holder, duration_seconds=self._duration_seconds)
        if taken is None:
            return False
        self._held = taken
        self._valid_until = began + self._duration_seconds
        return True

    def check(self) -> None:
        """Make sure that the lease is valid at this very moment: to be called right before anything is sent.

        Raises:
            LeaseLapsedError: it is not.
        """
        late_seconds = self._clock() - self._valid_until
        if self._held is None or late_seconds >= 0:
            raise LeaseLapsedError(f"the lease has lapsed {late_seconds:.1f} s ago")

    async def hold(self) -> None:
        """Renew the lease until cancelled, however often that fails.

        Raises:
            LeadLostError: somebody else holds it.
        """
        while True:
            await asyncio.sleep(self._renew_seconds)
            try:
                await self._renew()
            except LeaseUnavailableError as problem:
                left_seconds = self._valid_until - self._clock()
                await _log.awarning(
                    "the lease was not renewed", error=str(problem), left_seconds=round(left_seconds, 1)
                )

    async def _renew(self) -> None:
        assert self._held is not None, "hold() is for those who won"
        if await self._take(self._held):
            return
        lease = await self._store.read()
        if lease.holder != self._holder:
            self._held = None
            raise LeadLostError(
                Failure(
                    code="lead-lost",
                    cause=f"another control plane leads: {lease.holder or 'one that has ended meanwhile'}",
                    advice="Nothing is wrong if this process was held up, or cut off from its database, for longer than "
                    f"{self._duration_seconds:g} s. Started again, it stands by.",
                )
            )
        await self._take(lease)

    async def release(self) -> None:
        """Give the lease back, so that nobody has to wait for its end; nothing if it is not held."""
        if self._held is None:
            return
        held, self._held = self._held, None
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._store.replace(held, holder="", duration_seconds=self._duration_seconds)
        except (LeaseUnavailableError, TimeoutError) as problem:
            await _log.awarning("the lease could not be given back", error=problem)
