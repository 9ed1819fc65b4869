"""The one transaction in which events become facts: positions, versions, hashes, events and projections, all or nothing.

Positions are gapless because they are counted in a single row that the transaction holds: SQLite admits one writer at a
time, PostgreSQL locks the row until the end (``FOR UPDATE``), and a rollback gives the numbers back. Reading on from a
position therefore never misses an event that commits late. The same row holds the epoch, so that whoever lost the lead
is fenced off by the database, however late it notices itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Dialect, bindparam, select, update

from controlplane.log import chain
from controlplane.log.projections import fold, rebuild
from controlplane.log.read import record_of
from controlplane.log.records import (
    ArchivedEventError,
    EventConflictError,
    ExpectedVersionError,
    NewEvent,
    Recorded,
    StaleEpochError,
)
from controlplane.log.schema import UtcTime, events, log_head, streams, utc_text
from controlplane.log.schema import event_ids as taken_ids
from controlplane.log.sql import statements
from controlplane.log.sql.values import Write
from controlplane.log.sql.write_cache import WriteCache
from controlplane.log.upcast import Upcasts
from woodfrog.protocol import wire
from woodfrog.protocol.events import SCHEMA_VERSION, event_type, stream_of
from woodfrog.protocol.ids import Epoch, Position, Version
from woodfrog.service import faultpoints

_LOCK_HEAD: Final = select(log_head.c.position, log_head.c.epoch).with_for_update()
_READ_EPOCH: Final = select(log_head.c.epoch)
_MOVE_HEAD: Final = (
    update(log_head).where(log_head.c.epoch == bindparam("leading")).values(position=bindparam("new_position"))
)
_SET_EPOCH: Final = update(log_head).values(epoch=bindparam("new_epoch"))


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """An event as far as it can be made ready without the database, and so before the transaction begins."""

    new: NewEvent
    event_id: str
    stream: str
    type: str
    data: str
    metadata: str
    command_id: str | None
    occurred_at: str

    @classmethod
    def of(cls, new: NewEvent) -> Prepared:
        """Encode.

        Raises:
            ValueError: ``occurred_at`` has no offset from UTC.
        """
        event = new.event
        return cls(
            new,
            wire.encode(new.event_id)[1:-1].decode(),
            stream_of(event),
            event_type(event),
            wire.encode(event).decode(),
            wire.encode(new.metadata).decode(),
            chain.command_of(event),
            utc_text(new.occurred_at),
        )


class Request(msgspec.Struct, frozen=True):
    """A batch that is recorded whole or not at all, by whom, and the versions that streams must have before it."""

    batch: Sequence[Prepared]
    epoch: Epoch
    expected: Mapping[str, Version]
    recorded_at: datetime | None = None
    """When it was decided; by default the moment of the transaction."""


Answer = list[Recorded] | EventConflictError | ExpectedVersionError | StaleEpochError


def append(
    connection: Connection,
    requests: Sequence[Request],
    *,
    recorded_at: datetime,
    upcasts: Upcasts,
    recall: WriteCache,
    looking: bool = True,
) -> list[Answer]:
    """Append batches in the writing transaction that ``connection`` is in, as if each had come alone, in their order.

    Answers one list of records for each, in its batch's order, or why nothing of that batch is written. An event whose id is
    recorded already with the same stream and payload is answered with that record and written no second time; its metadata and
    times are not compared, because a repeated decision has later ones. The expected versions are those before the batch;
    they are not asked for if nothing of the batch is new. If the transaction is rolled back, ``recall`` must forget.

    Not ``looking`` takes every event for a new one, as nearly all are; nothing may be ``expected`` then. One that is recorded already makes the database refuse
    (:data:`~controlplane.log.sql.engine.CONTRADICTIONS`), and the batches come again, this time looking.
    """
    ((position, epoch),) = statements.plain(connection.dialect, _LOCK_HEAD).run(connection)
    recall.begin(position, epoch)
    event_ids = [one.event_id for request in requests for one in request.batch] if looking else []
    known = recorded_before(connection, event_ids, upcasts)
    page = _Page(position, epoch, known, _ends(connection, requests, recall.ends), recorded_at)
    answers = [page.take(request) for request in requests]
    if page.recorded:
        writes = [page.write(connection.dialect)]
        generation = rebuild.writable(connection)
        if generation is not None:
            writes += fold.project(connection, page.recorded, generation, recall)
        statements.write(connection, writes)
        statements.plain(connection.dialect, _MOVE_HEAD).run(
            connection, leading=epoch, new_position=page.recorded[-1].position
        )
        page.tell_ends(recall.ends)
        recall.end(page.recorded[-1].position, epoch)
    faultpoints.reach("log.append.before-commit")
    return answers


class _Page:
    """What one transaction writes: filled batch by batch in memory, and then written at once."""

    def __init__(
        self,
        position: int,
        epoch: int,
        known: Mapping[UUID, Recorded],
        ends: dict[str, tuple[int, str]],
        recorded_at: datetime,
    ) -> None:
        self._position = position
        self._epoch = epoch
        self._known = {str(event_id): record for event_id, record in known.items()}
        self._ends = ends
        self._recorded_at = recorded_at
        self._prepared: list[Prepared] = []
        self.recorded: list[Recorded] = []

    def take(self, request: Request) -> Answer:
        """Give a batch its places, or say why it has none."""
        if request.epoch != self._epoch:
            return StaleEpochError(request.epoch, Epoch(self._epoch))
        known = self._known
        fresh: dict[str, Prepared] = {}
        for one in request.batch:
            before = known.get(one.event_id)
            if before is not None:
                if before.event != one.new.event:
                    return EventConflictError(one.new.event_id, before.position)
            elif (same := fresh.setdefault(one.event_id, one)) is not one and same.new.event != one.new.event:
                return EventConflictError(one.new.event_id, None)
        if fresh:
            for name, version in request.expected.items():
                actual = self._ends.get(name, (0, ""))[0]
                if actual != version:
                    return ExpectedVersionError(name, version, Version(actual))
            for event_id, one in fresh.items():
                known[event_id] = self._place(one, request.recorded_at or self._recorded_at)
        return [known[one.event_id] for one in request.batch]

    def tell_ends(self, ends: dict[str, tuple[int, str]]) -> None:
        """Add where the streams end that were written to, as those written last."""
        for record in self.recorded:
            ends.pop(record.stream, None)
            ends[record.stream] = self._ends[record.stream]

    def write(self, dialect: Dialect) -> Write:
        """Tell how the events are written; triggers keep their ids and the ends of their streams."""
        text = UtcTime.is_text(dialect)
        return statements.insertion(dialect, events).of_stored(
            [
                (
                    record.position,
                    record.stream,
                    record.version,
                    one.event_id,
                    one.type,
                    SCHEMA_VERSION,
                    one.data,
                    one.metadata,
                    one.command_id,
                    one.occurred_at if text else record.occurred_at,
                    utc_text(record.recorded_at) if text else record.recorded_at,
                    record.hash,
                )
                for one, record in zip(self._prepared, self.recorded, strict=True)
            ],
        )

    def _place(self, one: Prepared, recorded_at: datetime) -> Recorded:
        new, stream = one.new, one.stream
        version, previous = self._ends.get(stream, (0, chain.FIRST))
        version += 1
        self._position += 1
        link = chain.link(
            previous,
            position=self._position,
            stream=stream,
            version=version,
            event_id=one.event_id,
            event_type=one.type,
            schema_version=SCHEMA_VERSION,
            data=one.data,
            metadata=one.metadata,
            occurred_at=one.occurred_at,
            recorded_at=utc_text(recorded_at),
        )
        self._ends[stream] = (version, link)
        record = Recorded(
            Position(self._position),
            stream,
            Version(version),
            new.event_id,
            new.event,
            new.metadata,
            new.occurred_at,
            recorded_at,
            link,
        )
        self._prepared.append(one)
        self.recorded.append(record)
        return record


def _ends(
    connection: Connection, requests: Sequence[Request], recalled: Mapping[str, tuple[int, str]]
) -> dict[str, tuple[int, str]]:
    names = {one.stream for request in requests for one in request.batch}
    for request in requests:
        names |= request.expected.keys()
    ends = {name: recalled[name] for name in names & recalled.keys()}
    found = statements.find(connection, streams, ("stream",), [(name,) for name in sorted(names - ends.keys())])
    ends.update((name, (version, link)) for name, version, link in found)
    return ends


def take_lead(connection: Connection) -> Epoch:
    """Raise the epoch by one, in the writing transaction that ``connection`` is in."""
    ((_, before),) = statements.plain(connection.dialect, _LOCK_HEAD).run(connection)
    epoch = Epoch(before + 1)
    statements.plain(connection.dialect, _SET_EPOCH).run(connection, new_epoch=epoch)
    return epoch


def check_lead(connection: Connection, epoch: Epoch) -> None:
    """Raise :class:`StaleEpochError` unless ``epoch`` leads."""
    ((current,),) = statements.plain(connection.dialect, _READ_EPOCH).run(connection)
    if current != epoch:
        raise StaleEpochError(epoch, Epoch(current))


def held_before(connection: Connection, event_ids: Sequence[str]) -> set[UUID]:
    """Find those of the ids under which an event was recorded, whether it has been archived since or not."""
    wanted = [(event_id,) for event_id in sorted(set(event_ids))]
    return {UUID(str(event_id)) for event_id, _ in statements.find(connection, taken_ids, ("event_id",), wanted)}


def recorded_before(connection: Connection, event_ids: Sequence[str], upcasts: Upcasts) -> dict[UUID, Recorded]:
    """Find those of the events that are in the log, by their ids.

    Raises:
        ArchivedEventError: one of them is recorded, but no longer to be compared with.
    """
    if not event_ids:
        return {}
    wanted = [(event_id,) for event_id in sorted(set(event_ids))]
    held = {position: event_id for event_id, position in statements.find(connection, taken_ids, ("event_id",), wanted)}
    if not held:
        return {}
    positions = [(position,) for position in sorted(held)]
    found = [record_of(row, upcasts) for row in statements.find(connection, events, ("position",), positions)]
    for archived in held.keys() - {record.position for record in found}:
        raise ArchivedEventError(UUID(str(held[archived])), Position(archived))
    return {record.event_id: record for record in found}
