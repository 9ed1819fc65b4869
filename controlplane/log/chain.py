"""The proof that nobody changed the log: a hash chain through every stream, and arithmetic over positions and versions.

Each event's hash covers the hash of its stream's event before and all of its own fields, so a change, a removal or an
insertion anywhere breaks every later link of the stream. The head of each chain is kept in ``streams`` and the number of all
events in ``log_head``, so that events cut off at the end are missed, too. What this cannot show is a log rewritten as a
whole by somebody who may write the database; against that, compare with the AUDIT stream or a signed head (:mod:`controlplane.log.heads`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from blake3 import blake3
from sqlalchemy import Connection, select

from controlplane.log.progress import Progress
from controlplane.log.schema import archived_heads, archived_segments, events, log_head, streams, utc_text
from woodfrog.protocol.events import Event

FIRST = "0" * 64
"""What a stream's first event is chained to."""

_MAX_PROBLEMS = 100
_BATCH = 1000
_encode = msgspec.json.Encoder().encode


def link(
    previous: str,
    *,
    position: int,
    stream: str,
    version: int,
    event_id: str,
    event_type: str,
    schema_version: int,
    data: str,
    metadata: str,
    occurred_at: str,
    recorded_at: str,
) -> str:
    """Compute an event's hash from its stream's hash before and its columns, moments as :func:`utc_text` writes them."""
    said = (event_id, event_type, schema_version, data, metadata, occurred_at, recorded_at)
    return blake3(_encode((previous, position, stream, version, *said))).hexdigest()


def _link_of(previous: str, row: Mapping[Any, Any]) -> str:
    return link(
        previous,
        position=row["position"],
        stream=row["stream"],
        version=row["version"],
        event_id=row["event_id"],
        event_type=row["type"],
        schema_version=row["schema_version"],
        data=row["data"],
        metadata=row["metadata"],
        occurred_at=utc_text(row["occurred_at"]),
        recorded_at=utc_text(row["recorded_at"]),
    )


def segment_link(previous: str, row: Mapping[Any, Any]) -> str:
    """Compute an archived segment's hash from that of the segment before and its row of ``archived_segments``."""
    said = [row[name] for name in ("first_position", "last_position", "file_digest", "heads_digest")]
    return blake3(_encode([previous, *said])).hexdigest()


def heads_digest(heads: Mapping[str, tuple[int, str]]) -> str:
    """Compute the digest of where every chain stands."""
    return blake3(_encode(sorted((stream, *end) for stream, end in heads.items()))).hexdigest()


def command_of(event: Event) -> str | None:
    """Tell which command an event belongs to, as the column ``command_id`` of ``events`` does."""
    command = getattr(event, "command", None)
    command_id = getattr(event, "command_id", None) if command is None else command.command_id
    return None if command_id is None else str(command_id)


class _Command(msgspec.Struct):
    command_id: str


class _CommandNamed(msgspec.Struct):
    command_id: str | None = None
    command: _Command | None = None

    @property
    def named(self) -> str | None:
        return self.command_id if self.command is None else self.command.command_id


_command_named = msgspec.json.Decoder(_CommandNamed).decode


class Problem(msgspec.Struct, frozen=True):
    """One thing that is not as it was written. ``position`` is 0 where it concerns no single event."""

    position: int
    what: str


class Verification(msgspec.Struct, frozen=True):
    """What a verification found; at most a hundred problems are told."""

    events: int
    problems: tuple[Problem, ...]
    archived: int = 0
    """How many events before them were archived; their files are not looked at."""

    @property
    def sound(self) -> bool:
        """Whether the log is exactly as it was written."""
        return not self.problems


def verify(connection: Connection, progress: Progress | None = None) -> Verification:
    """Check every event, from the first to the newest. Reads the whole log; memory grows with the number of streams."""
    progress = progress or Progress()
    head = connection.execute(select(log_head.c.position)).scalar_one()
    kept = {row.stream: (row.version, row.hash) for row in connection.execute(select(streams))}
    ends = {row.stream: (row.version, row.hash) for row in connection.execute(select(archived_heads))}
    segments = (
        connection.execute(select(archived_segments).order_by(archived_segments.c.first_position)).mappings().all()
    )
    problems = [*segment_problems(segments), *_heads_problems(segments, ends)]
    archived = segments[-1]["last_position"] if segments else 0
    count, last = 0, archived
    while len(problems) < _MAX_PROBLEMS:
        chosen = select(events).where(events.c.position > last).order_by(events.c.position).limit(_BATCH)
        try:
            rows = connection.execute(chosen).mappings().all()
        except ValueError as problem:  # a moment that is none
            problems.append(Problem(last + 1, f"this event, or one soon after it, cannot be read: {problem}"))
            break
        for row in rows:
            problems.extend(Problem(row["position"], what) for what in row_problems(row, last, ends))
            ends[row["stream"]] = (row["version"], row["hash"])
            last = row["position"]
        count += len(rows)
        progress.done += len(rows)
        if len(rows) < _BATCH:
            problems.extend(Problem(0, what) for what in _end_problems(last, head, ends, kept))
            break
    return Verification(events=count, problems=tuple(problems[:_MAX_PROBLEMS]), archived=archived)


def segment_problems(segments: Sequence[Mapping[Any, Any]]) -> Iterator[Problem]:
    """Tell what is wrong with the rows of ``archived_segments``, given in order."""
    last, previous = 0, FIRST
    for row in segments:
        if row["first_position"] != last + 1:
            yield Problem(last + 1, f"no archived segment begins at position {last + 1}")
        if row["hash"] != segment_link(previous, row):
            yield Problem(row["first_position"], "the row of this archived segment is not as it was written")
        last, previous = row["last_position"], row["hash"]


def _heads_problems(segments: Sequence[Mapping[Any, Any]], heads: Mapping[str, tuple[int, str]]) -> Iterator[Problem]:
    last = segments[-1]["last_position"] if segments else 0
    if heads_digest(heads) != (segments[-1]["heads_digest"] if segments else heads_digest({})):
        yield Problem(last, "the heads of the archived chains are not as they were written")


def row_problems(row: Mapping[Any, Any], last: int, ends: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    """Tell what is wrong with an event that follows position ``last`` and the chains' ``ends``."""
    stream = row["stream"]
    version, previous = ends.get(stream, (0, FIRST))
    if row["position"] != last + 1:
        yield f"positions {last + 1} to {row['position'] - 1} are missing"
    if row["version"] != version + 1:
        yield f"{stream} goes from version {version} to {row['version']}"
    if row["hash"] != _link_of(previous, row):
        yield f"the hash of {stream} version {row['version']} does not fit"
    try:
        command_id = _command_named(row["data"]).named
    except msgspec.DecodeError:
        yield "its data are not an event"
    else:
        if row["command_id"] != command_id:
            yield f"its column command_id is {row['command_id']!r}, its data say {command_id!r}"


def _end_problems(
    last: int, head: int, ends: Mapping[str, tuple[int, str]], kept: Mapping[str, tuple[int, str]]
) -> Iterator[str]:
    if last != head:
        yield f"the log ends at position {last}, its head says {head}"
    for stream in sorted(ends.keys() | kept.keys()):
        if ends.get(stream) != kept.get(stream):
            yield f"{stream} ends at {ends.get(stream, (0, FIRST))}, its head says {kept.get(stream, (0, FIRST))}"
