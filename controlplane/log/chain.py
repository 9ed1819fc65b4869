"""The proof that nobody changed the log: a hash chain through every stream, and arithmetic over positions and versions.

Each event's hash covers the hash of its stream's event before and all of its own fields, so a change, a removal or an
insertion anywhere breaks every later link of the stream. The head of each chain is kept in ``streams`` and the number of all
events in ``log_head``, so that events cut off at the end are missed, too. What this cannot show is a log rewritten as a
whole by somebody who may write the database; against that, compare with the AUDIT stream or a copy of the heads.
"""

from __future__ import annotations

import msgspec
from blake3 import blake3
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.log.schema import events, log_head, streams, utc_text
from protocol.events import Event

FIRST = "0" * 64
"""What a stream's first event is chained to."""

_MAX_PROBLEMS = 100
_BATCH = 1000
_encode = msgspec.json.Encoder().encode


def link(previous: str, row: Row[*tuple[object, ...]] | dict[str, object]) -> str:
    """Compute an event's hash from its stream's hash before and its row of ``events``."""
    fields = row if isinstance(row, dict) else row._mapping  # noqa: SLF001 - the public name of a Row's mapping
    occurred_at, recorded_at = fields["occurred_at"], fields["recorded_at"]
    canonical = _encode(
        [
            previous,
            fields["position"],
            fields["stream"],
            fields["version"],
            fields["event_id"],
            fields["type"],
            fields["schema_version"],
            fields["data"],
            fields["metadata"],
            utc_text(occurred_at),  # type: ignore[arg-type]
            utc_text(recorded_at),  # type: ignore[arg-type]
        ]
    )
    return blake3(canonical).hexdigest()


def command_of(event: Event) -> str | None:
    """Tell which command an event belongs to, as the column ``command_id`` of ``events`` does."""
    command = getattr(event, "command", None)
    command_id = getattr(event, "command_id", None) if command is None else command.command_id
    return None if command_id is None else str(command_id)


class Problem(msgspec.Struct, frozen=True):
    """One thing that is not as it was written. ``position`` is 0 where it concerns no single event."""

    position: int
    what: str


class Verification(msgspec.Struct, frozen=True):
    """What a verification found; at most a hundred problems are told."""

    events: int
    problems: tuple[Problem, ...]

    @property
    def sound(self) -> bool:
        """Whether the log is exactly as it was written."""
        return not self.problems


async def verify(connection: AsyncConnection) -> Verification:
    """Check every event, from the first to the newest. Reads the whole log; memory grows with the number of streams."""
    head = (await connection.execute(select(log_head.c.position))).scalar_one()
    kept_heads = {row.stream: (row.version, row.hash) for row in await connection.execute(select(streams))}
    ends: dict[str, tuple[int, str]] = {}
    problems: list[Problem] = []
    count, last = 0, 0
    while len(problems) < _MAX_PROBLEMS:
        rows = (
            await connection.execute(
                select(events).where(events.c.position > last).order_by(events.c.position).limit(_BATCH)
            )
        ).all()
        if not rows:
            break
        for row in rows:
            if row.position != last + 1:
                problems.append(Problem(row.position, f"positions {last + 1} to {row.position - 1} are missing"))
            version, previous = ends.get(row.stream, (0, FIRST))
            if row.version != version + 1:
                problems.append(Problem(row.position, f"{row.stream} goes from version {version} to {row.version}"))
            if row.hash != link(previous, row):
                problems.append(Problem(row.position, f"the hash of {row.stream} version {row.version} does not fit"))
            problems.extend(_column_problems(row))
            ends[row.stream] = (row.version, row.hash)
            last = row.position
        count += len(rows)
    else:
        return Verification(events=count, problems=tuple(problems[:_MAX_PROBLEMS]))
    if last != head:
        problems.append(Problem(0, f"the log ends at position {last}, its head says {head}"))
    problems.extend(
        Problem(0, f"stream {stream} ends at {ends.get(stream, (0, FIRST))}, its head says {kept_heads.get(stream)}")
        for stream in sorted(ends.keys() | kept_heads.keys())
        if ends.get(stream) != kept_heads.get(stream)
    )
    return Verification(events=count, problems=tuple(problems[:_MAX_PROBLEMS]))


def _column_problems(row: Row[*tuple[object, ...]]) -> list[Problem]:
    try:
        data = msgspec.json.decode(row.data)
    except msgspec.DecodeError:
        return [Problem(row.position, "its data is not JSON")]
    command_id = data.get("command", data).get("command_id")
    if row.command_id != command_id:
        return [Problem(row.position, f"its column command_id is {row.command_id!r}, its data say {command_id!r}")]
    return []
