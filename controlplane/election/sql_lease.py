"""The lease in a row of the log's database: nothing else has to run where there is no Kubernetes."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select, update

from controlplane.election.lease import Lease, LeaseUnavailableError
from controlplane.log.records import LogUnavailableError
from controlplane.log.side_tables import leader_lease
from controlplane.log.sql.engine import open_engine, reading, writing


class SqlLease:
    """A :class:`~controlplane.election.lease.LeaseStore` with a connection of its own.

    So no long transaction of this process stands between it and its lease.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)

    async def read(self) -> Lease:
        """See :meth:`controlplane.election.lease.LeaseStore.read`."""
        try:
            async with reading(self._engine) as connection:
                row = (await connection.execute(select(leader_lease))).one()
        except LogUnavailableError as problem:
            raise LeaseUnavailableError(str(problem)) from problem
        return Lease(holder=row.holder, duration_seconds=row.duration_seconds, version=str(row.version))

    async def replace(self, before: Lease, *, holder: str, duration_seconds: float) -> Lease | None:
        """See :meth:`controlplane.election.lease.LeaseStore.replace`."""
        version = int(before.version) + 1
        change = (
            update(leader_lease)
            .where(leader_lease.c.one == 1, leader_lease.c.version == int(before.version))
            .values(holder=holder, duration_seconds=duration_seconds, version=version, renewed_at=datetime.now(UTC))
        )
        try:
            async with writing(self._engine) as connection:
                written = (await connection.execute(change)).rowcount
        except LogUnavailableError as problem:
            raise LeaseUnavailableError(str(problem)) from problem
        if not written:
            return None
        return Lease(holder=holder, duration_seconds=duration_seconds, version=str(version))

    async def close(self) -> None:
        """Give the connection back."""
        await self._engine.dispose()
