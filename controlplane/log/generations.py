"""Projections rebuilt beside the ones that are shown, while appends and readers go on.

Every row of a projection belongs to a generation, and the views show one. A rebuild writes the next generation in slices,
each in a transaction of its own between appends; the last slice, which holds the head of the log, catches up with it and
shows the new generation by changing one number. What is shown no more is then deleted, again in slices. A rebuild that was
interrupted goes on where it was, in whatever process.

Rows that another version of the fold wrote are left as they are by appends: a fold may rely on what it wrote itself and on
nothing else. The views then stand still until the rebuild that opening the log begins has caught up.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Table, bindparam, delete, select, update

from controlplane.log import projections, read, statements
from controlplane.log.schema import PROJECTIONS, log_head, projection_state
from controlplane.log.upcast import Upcasts
from protocol.ids import Position

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
    return int(generation) if version == projections.VERSION else None


def begin(connection: Connection) -> None:
    """Begin a rebuild, unless one by this version of the fold is under way: then that is gone on with."""
    (_, shown, building, version, _), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    if building is None or version != projections.VERSION:
        statements.plain(connection.dialect, _BUILD).run(
            connection,
            new_generation=max(shown, building or 0) + 1,
            new_version=projections.VERSION,
            new_position=0,
        )


def build(connection: Connection, upcasts: Upcasts) -> bool:
    """Fold one slice more; answer whether a rebuild is still under way. The slice that reaches the head ends it."""
    head = read.head(connection)
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    if building is None or version != projections.VERSION:
        return False
    if head - position <= SLICE_EVENTS:
        statements.plain(connection.dialect, _LOCK_HEAD).run(connection)  # from here on no append until this ends
    (_, _, building, version, position), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    if building is None or version != projections.VERSION:
        return False  # another process was quicker
    last = head - position <= SLICE_EVENTS
    while records := read.read(connection, Position(position), SLICE_EVENTS, upcasts):
        statements.write(connection, projections.project(connection, records, building))
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


def sweep(connection: Connection) -> bool:
    """Delete some rows that are neither shown nor being built; answer whether there may be more."""
    (_, shown, building, _, _), *_ = statements.plain(connection.dialect, _LOCK_STATE).run(connection)
    kept = {shown, building} - {None}
    return any(_sweep(connection, table, kept) for table in PROJECTIONS)


def stale(connection: Connection) -> bool:
    """Tell whether a rebuild is needed, or was begun and not ended."""
    (version, _, building, _, _), *_ = statements.plain(connection.dialect, _STATE).run(connection)
    return version != projections.VERSION or building is not None


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
