"""Copies of the domain's state, so that a restart folds the last events and not all of them.

A cache and nothing else: what a copy holds was folded from the log and can be again, so one that is of another form, not
whole, or not of this log is as good as none. A copy is whole once its row is in ``state_copies``; it is of this log if the
event at its position has the hash that it had when the copy was taken.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from controlplane.log.schema import events, state_copies, state_copy_parts
from woodfrog.protocol.ids import Position

KEPT: Final = 2
"""How many whole copies are kept: the newest, and the one before for whoever reads it just now."""


def put(connection: Connection, position: Position, part: int, data: bytes) -> None:
    """Write one part of a copy, in place of one that an interrupted copy left."""
    if part == 0:
        connection.execute(delete(state_copies).where(state_copies.c.position == position))
        connection.execute(delete(state_copy_parts).where(state_copy_parts.c.position == position))
    connection.execute(insert(state_copy_parts).values(position=position, part=part, data=data))


def end(connection: Connection, position: Position, form: str, parts: int) -> None:
    """Declare a copy whole, and drop what is no longer needed."""
    event_hash = connection.execute(select(events.c.hash).where(events.c.position == position)).scalar_one()
    connection.execute(insert(state_copies).values(position=position, form=form, event_hash=event_hash, parts=parts))
    whole = connection.execute(select(state_copies.c.position).order_by(state_copies.c.position.desc())).scalars().all()
    for table in (state_copies, state_copy_parts):
        connection.execute(delete(table).where(table.c.position.not_in(whole[:KEPT])))


def covered(connection: Connection, form: str) -> Position:
    """Tell up to which position a whole copy of this form covers this log, 0 if there is none.

    The event at that position itself must stay in the table: by it, a copy is known to be of this log.
    """
    held = select(func.count()).where(state_copy_parts.c.position == state_copies.c.position).scalar_subquery()
    return Position(
        connection.scalar(
            select(func.max(state_copies.c.position))
            .join(events, (events.c.position == state_copies.c.position) & (events.c.hash == state_copies.c.event_hash))
            .where(state_copies.c.form == form, state_copies.c.parts == held)
        )
        or 0
    )


def newest(connection: Connection, form: str) -> tuple[Position, list[bytes]] | None:
    """Find the newest whole copy of this form and this log."""
    held = (
        select(state_copies.c.position, state_copies.c.parts)
        .join(events, (events.c.position == state_copies.c.position) & (events.c.hash == state_copies.c.event_hash))
        .where(state_copies.c.form == form)
        .order_by(state_copies.c.position.desc())
        .limit(1)
    )
    found = connection.execute(held).one_or_none()
    if found is None:
        return None
    parts = connection.execute(
        select(state_copy_parts.c.data)
        .where(state_copy_parts.c.position == found.position)
        .order_by(state_copy_parts.c.part)
    )
    data = [bytes(part) for part in parts.scalars()]
    return (Position(found.position), data) if len(data) == found.parts else None
