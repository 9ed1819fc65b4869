"""One log carried from a database into another, so that an installation which outgrows SQLite keeps its history and its snapshots.

A new, empty log knows no snapshot and no container that runs: every protected container would start cold after its next end. What
is carried over is therefore the log itself, row by row: positions, event ids and hashes stay what they were, so the stream AUDIT goes on
behind it, reports that workers send again are recognised, and the chains prove afterwards that nothing was changed on the way.

First the lead of the old log is taken, which fences off whoever still held it. A control plane that takes it back meanwhile, and so
could append what nobody carries over, is noticed at the end. Events come over in pages, each with the rows that follow from it in one
transaction: whatever interrupts the carrying, it is simply done again, and goes on where the new log ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from controlplane.log import append, chain, read
from controlplane.log.admin.migrate import upgrade
from controlplane.log.projections import fold, rebuild
from controlplane.log.records import MoveRefusedError
from controlplane.log.schema import archived_segments, events, log_head, streams
from controlplane.log.side_tables import dead_letters
from controlplane.log.sql import statements
from controlplane.log.sql.database import Database
from controlplane.log.sql.engine import is_there, make_ready
from controlplane.log.upcast import UPCASTS
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Position

_PAGE: Final = 1000
_LETTERS_AT_ONCE: Final = 500
_COLUMNS: Final = tuple(events.columns.keys())
_STOP = "Stop every control plane first (on Kubernetes: kubectl scale deployment/<name>-controlplane --replicas=0), then do it again."

Rows = Sequence[dict[str, Any]]


class Moved(msgspec.Struct, frozen=True):
    """What a carrying over did."""

    events: int
    """How many events came over; 0 if they were there already."""
    position: Position
    """Where the new log ends."""


async def move(source_url: str, target_url: str) -> Moved:
    """Carry the log at ``source_url`` over into the database at ``target_url``; both are migrated first.

    The target may hold the beginning of the same log, or the whole of it and more: then nothing is left to do. No control plane may
    run on either meanwhile. It writes as the owner of the target's tables, or as the control plane's role.

    Raises:
        MoveRefusedError: there is nothing to carry over, the target holds another log, or somebody works on the source.
        LogUnavailableError: a database cannot be used.
    """
    if not is_there(source_url):
        return await _nothing_there(target_url)
    await upgrade(source_url)
    await upgrade(target_url)
    source, target = Database(source_url), Database(target_url)
    try:
        await make_ready(source.engine)
        await make_ready(target.engine)
        return await _carry(source, target)
    finally:
        await source.close()
        await target.close()


async def _nothing_there(target_url: str) -> Moved:
    await upgrade(target_url)
    target = Database(target_url)
    try:
        held = await target.read(read.head)
    finally:
        await target.close()
    if held == 0:
        raise _refused(
            "there is no log where one is to be carried over from, and the new database is empty",
            "Check where the old log lies. To begin with an empty one, do not ask for anything to be carried over.",
        )
    return Moved(0, held)


async def _carry(source: Database, target: Database) -> Moved:
    if await source.read(_archived):
        raise _refused(
            "events of the old log have been archived, and only a log that is whole in its table can be carried over",
            "Keep the old database, or begin with an empty one.",
        )
    end, held = await source.read(read.head), await target.read(read.head)
    common = Position(min(end, held))
    if common and await source.read(lambda each: _hash(each, common)) != await target.read(
        lambda each: _hash(each, common)
    ):
        raise _refused(
            "the new database holds another log already",
            "Name a database that is empty. To keep the log that is there, do not ask for anything to be carried over.",
        )
    if held >= end > 0:
        return Moved(0, held)
    await _make_projections_writable(target)
    epoch = await source.write(append.take_lead)
    end = await source.read(read.head)
    position = held
    while rows := await source.read(partial(_page, after=position)):
        await target.write(partial(_put, rows=rows))
        position = Position(rows[-1]["position"])
    letters = await source.read(_letters)
    await target.write(lambda each: _put_letters(each, letters))
    if (await source.read(_epoch), await source.read(read.head)) != (epoch, end):
        raise _refused("a control plane took the lead of the old log while it was carried over", _STOP)
    await target.write(lambda each: _raise_epoch(each, epoch))
    await _prove(source, target)
    return Moved(position - held, position)


async def _make_projections_writable(target: Database) -> None:
    """Fold what the new log holds already, mostly nothing, by this version of the code, as opening it would."""
    if await target.read(rebuild.stale):
        await target.write(rebuild.begin)
        while await target.write(lambda each: rebuild.build(each, UPCASTS)):
            pass


async def _prove(source: Database, target: Database) -> None:
    found = await target.read(chain.verify)
    if not found.sound or await source.read(_ends) != await target.read(_ends):
        problem = found.problems[0].what if found.problems else "its chains do not end where the old log's do"
        raise _refused(
            f"what came over is not what was there: {problem}",
            "Verify the old log (woodfrog log verify), then carry it over into another, empty database.",
        )


def _archived(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(archived_segments)).scalar_one())


def _hash(connection: Connection, position: Position) -> str | None:
    return connection.execute(select(events.c.hash).where(events.c.position == position)).scalar()


def _epoch(connection: Connection) -> int:
    return int(connection.execute(select(log_head.c.epoch)).scalar_one())


def _ends(connection: Connection) -> dict[str, tuple[int, str]]:
    return {row.stream: (row.version, row.hash) for row in connection.execute(select(streams))}


def _page(connection: Connection, after: Position) -> Rows:
    page = select(events).where(events.c.position > after).order_by(events.c.position).limit(_PAGE)
    return [dict(row) for row in connection.execute(page).mappings()]


def _put(connection: Connection, rows: Rows) -> None:
    """Write events as they were, with what follows from them."""
    head = connection.execute(select(log_head.c.position).with_for_update()).scalar_one()
    if head != rows[0]["position"] - 1:
        raise _refused("another process writes to the new database at the same time", _STOP)
    insertion = statements.insertion(connection.dialect, events)
    writes = [insertion.of([tuple(row[name] for name in insertion.names) for row in rows])]
    generation = rebuild.writable(connection)
    assert generation is not None
    records = [read.record_of([row[name] for name in _COLUMNS], UPCASTS) for row in rows]
    statements.write(connection, writes + fold.project(connection, records, generation))
    connection.execute(update(log_head).values(position=rows[-1]["position"]))


def _letters(connection: Connection) -> Rows:
    return [dict(row) for row in connection.execute(select(dead_letters).order_by(dead_letters.c.number)).mappings()]


def _put_letters(connection: Connection, letters: Rows) -> None:
    known = set(connection.execute(select(dead_letters.c.letter_id)).scalars())
    new = [letter for letter in letters if letter["letter_id"] not in known]
    for first in range(0, len(new), _LETTERS_AT_ONCE):
        connection.execute(insert(dead_letters), new[first : first + _LETTERS_AT_ONCE])


def _raise_epoch(connection: Connection, epoch: int) -> None:
    """Let no epoch that was fenced off on the old log ever lead on the new one."""
    connection.execute(update(log_head).where(log_head.c.epoch < epoch).values(epoch=epoch))


def _refused(cause: str, advice: str) -> MoveRefusedError:
    return MoveRefusedError(Failure(code="move-refused", cause=cause, advice=advice))
