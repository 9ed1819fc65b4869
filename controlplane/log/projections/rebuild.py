"""Projections rebuilt beside the ones that are shown, while appends and readers go on.

Every row of a projection belongs to a generation, and the views show one. A rebuild writes the next generation in slices,
each in a transaction of its own between appends; the last slice, which holds the head of the log, catches up with it and
shows the new generation by changing one number. What is shown no more is then deleted, again in slices. A rebuild that was
interrupted goes on where it was, in whatever process.

Rows that another version of the fold wrote are left as they are by appends: a fold may rely on what it wrote itself and on
nothing else. The views then stand still until the rebuild that opening the log begins has caught up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Table, bindparam, delete, select, update

from controlplane.log import read
from controlplane.log.archive import reader
from controlplane.log.projections import fold
from controlplane.log.records import Recorded
from controlplane.log.schema import PROJECTIONS, log_head, projection_state
from controlplane.log.sql import statements
from controlplane.log.upcast import Upcasts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Position

SLICE_EVENTS: Final = 500
"""How many events are folded in one transaction of a rebuild; an append waits for one at most, some hundredths of a second."""
_SLICE_ROWS: Final = 2000

_STATE: Final = select(
    projection_state.c.version,
    projection_state.c.generation,
    projection_state.c.building_generation,
    projection_state.c.building_version,
    projection_state.c.building_position,
)
_LOCK_STATE: Final = _STATE.with_for_update()
_LOCK_HEAD: Final = select(log_head.c.position).with_for_update()
_BUILD: Final = update(projection_state).values(
    building_generation=bindparam("new_generation"),
    building_version=bindparam("new_version"),
    building_position=bindparam("new_position"),
)
_SHOW: Final = update(projection_state).values(
    version=bindparam("new_version"),
    generation=bindparam("new_generation"),
    building_generation=None,
    building_version=None,
    building_position=None,
)


def writable(connection: Connection) -> int | None:
    """Tell which generation an append writes; ``None`` if that was written by another version of the fold."""
    (version, generation, *_), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    return int(generation) if version == fold.VERSION else None


def begin(connection: Connection, filed_through: int = 0) -> None:
    """Begin a rebuild, unless one by this version of the fold is under way: then that is gone on with.

    ``filed_through`` is the newest position that can be read from files.

    Raises:
        ArchivedRangeError: archived events would have to be folded whose files are not at hand; nothing was begun.
    """
    (_, shown, building, version, position), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    new = building is None or version != fold.VERSION
    archived = reader.through(connection)
    if archived > max(filed_through, 0 if new else position):
        raise read.archived(1 if new else position + 1, archived)
    if new:
        statements.plain(connection.dialect, _BUILD).run(
            connection,
            new_generation=max(shown, building or 0) + 1,
            new_version=fold.VERSION,
            new_position=0,
        )


def built(connection: Connection) -> Position | None:
    """Tell up to which position the rebuild under way has folded; ``None`` if there is none by this version."""
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    return None if building is None or version != fold.VERSION else Position(position)


def build(connection: Connection, upcasts: Upcasts, page: Sequence[Recorded] = ()) -> bool:
    """Fold one slice more; answer whether a rebuild is still under way. The slice that reaches the head ends it.

    ``page`` is a slice that comes from files. It is left alone if another process was quicker.
    """
    if page:
        return _build_filed(connection, page)
    head = read.head(connection)
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    if building is None or version != fold.VERSION:
        return False
    if head - position <= SLICE_EVENTS:
        statements.plain(connection.dialect, _LOCK_HEAD).run(connection)  # from here on no append until this ends
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    if building is None or version != fold.VERSION:
        return False  # another process was quicker
    last = head - position <= SLICE_EVENTS
    while records := read.read(connection, Position(position), SLICE_EVENTS, upcasts):
        statements.write(connection, fold.project(connection, records, building))
        position = records[-1].position
        if not last:
            break
    if last:
        statements.plain(connection.dialect, _SHOW).run(connection, new_version=version, new_generation=building)
    else:
        statements.plain(connection.dialect, _BUILD).run(
            connection, new_generation=building, new_version=version, new_position=position
        )
    return not last


def _build_filed(connection: Connection, page: Sequence[Recorded]) -> bool:
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    if building is None or version != fold.VERSION:
        return False
    if position == page[0].position - 1:
        statements.write(connection, fold.project(connection, page, building))
        statements.plain(connection.dialect, _BUILD).run(
            connection, new_generation=building, new_version=version, new_position=page[-1].position
        )
    return True


def sweep(connection: Connection) -> bool:
    """Delete some rows that are neither shown nor being built; answer whether there may be more."""
    (_, shown, building, _, _), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    kept = {shown, building} - {None}
    return any(_sweep(connection, table, kept) for table in PROJECTIONS)


def stale(connection: Connection) -> bool:
    """Tell whether a rebuild is needed, or was begun and not ended."""
    (version, _, building, _, _), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    return version != fold.VERSION or building is not None


def not_rebuilt(connection: Connection, why: Failure) -> Failure:
    """Say what it means that no rebuild can be had."""
    shown = (
        "another version folded the tables behind the views, which stand still where that version stopped"
        if writable(connection) is None
        else "a rebuild of the tables behind the views cannot be ended; they are up to date all the same"
    )
    return Failure(
        code="views-not-rebuilt",
        cause=f"{shown}: {why.cause}",
        advice="Set WOODFROG_LOG_ARCHIVE to the directory of the archive's files and start the control plane again; "
        "or run `woodfrog log rebuild --archive DIR` where they are.",
    )


def _sweep(connection: Connection, table: Table, kept: set[int]) -> bool:
    found = connection.execute(select(table.c.generation).where(table.c.generation.not_in(kept)).limit(1)).scalar()
    if found is None:
        return False
    old = table.c.generation == found
    bound = connection.execute(
        select(table.c.position).where(old).order_by(table.c.position).offset(_SLICE_ROWS).limit(1)
    ).scalar()
    connection.execute(delete(table).where(old if bound is None else old & (table.c.position <= bound)))
    return True
