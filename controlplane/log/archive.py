"""Old events moved out of the database into files, whole segments at a time, so that nothing becomes unprovable.

A segment is a range of positions: a whole partition on PostgreSQL, a range of the same kind on SQLite. It is written to a file
(JSON Lines, zstd), read back, checked link by link against the hash chains, and only then removed from ``events``, in the transaction
that records it in ``archived_segments`` with the digest of its file. What remains behind in the database is where every
chain stood at the segment's end, so a verification of the table begins there and still proves that no position is missing; with the
files at hand, :meth:`Archive.verify` proves the rest from position 1.

Whoever folds from position 1 needs the files from then on, so no event may be archived that no copy of the folded state covers:
``through`` is the caller's word for that. Archiving takes the rights of the tables' owner, which the control plane's role lacks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import zstandard
from blake3 import blake3
from sqlalchemy import Connection, delete, insert, select, text

from controlplane.log import chain, filed
from controlplane.log.database import Database
from controlplane.log.engine import make_ready
from controlplane.log.filed import FORMAT, MOMENTS, UNREADABLE, Segment, rows_of
from controlplane.log.read import record_of_row
from controlplane.log.records import ArchiveError, Recorded
from controlplane.log.schema import archived_heads, archived_segments, events, log_head, utc_text
from controlplane.log.upcast import UPCASTS, Upcasts
from process import faultpoints
from protocol.failures import Failure
from protocol.ids import Position

SEGMENT_POSITIONS: Final = 100_000
"""Positions in a segment on SQLite; on PostgreSQL it is the partition's size."""

_PAGE: Final = 1000
_encode = msgspec.json.Encoder().encode

Heads = dict[str, tuple[int, str]]


class Archive:
    """The archive of one log, in one folder. Made by :meth:`open`; closed with :meth:`close`."""

    def __init__(self, database: Database, folder: Path, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock

    @classmethod
    async def open(cls, url: str, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Self:
        """Open the log at ``url`` as its owner; ``folder`` must exist.

        Raises:
            LogUnavailableError: the database cannot be used.
        """
        archive = cls(Database(url), folder, clock)
        try:
            await make_ready(archive._database.engine)
        except BaseException:
            await archive.close()
            raise
        return archive

    async def close(self) -> None:
        """Give back every connection."""
        await self._database.close()

    async def segments(self) -> list[Segment]:
        """List what is archived, oldest first."""
        return await self._database.read(filed.segments)

    async def archive(self, through: Position, *, segment_positions: int = SEGMENT_POSITIONS) -> list[Segment]:
        """Archive every whole segment up to position ``through``; the newest event always stays.

        If it is killed, a file may be left that no row speaks of; the next time it is written anew.

        Raises:
            ArchiveError: a segment is not as it was written; nothing of it was removed.
            LogUnavailableError: the database cannot be used, or readers held the table for too long.
            OSError: the file cannot be written.
        """
        done: list[Segment] = []
        while True:
            size = await self._database.read(_segment_size) or segment_positions
            known = await self._database.read(filed.segments)
            first = known[-1].last_position + 1 if known else 1
            last = first + size - 1
            head = await self._database.read(lambda connection: connection.scalar(select(log_head.c.position)) or 0)
            if last > through or last >= head:
                return done
            done.append(await self._archive_one(first, last, known[-1].hash if known else chain.FIRST))

    async def verify(self) -> chain.Verification:
        """Check every archived file and then the table: together, every event from position 1 to the newest."""
        segments = await self.segments()
        problems = await asyncio.to_thread(lambda: list(self._file_problems(segments)))
        table = await self._database.read(chain.verify)
        return chain.Verification(
            events=table.events + table.archived, archived=table.archived, problems=(*problems, *table.problems)
        )

    def recorded(self, segment: Segment, upcasts: Upcasts = UPCASTS) -> Iterator[Recorded]:
        """Read a segment's events, for a fold from position 1."""
        for row in filed.verified_rows(self._folder, segment):
            yield record_of_row(row, upcasts)

    async def _archive_one(self, first: int, last: int, previous: str) -> Segment:
        name = f"events-{first:012d}-{last:012d}.jsonl.zst"
        path = self._folder / name
        before = await self._database.read(_heads)
        after, moments = await self._database.read(lambda connection: _write(connection, path, first, last, before))
        problems = await asyncio.to_thread(lambda: list(_check(path, first, last, dict(before), after)))
        if problems:
            raise _refusal(problems[0])
        content = await asyncio.to_thread(path.read_bytes)
        values: dict[str, Any] = {
            "first_position": first,
            "last_position": last,
            "file": name,
            "file_bytes": len(content),
            "file_digest": blake3(content).hexdigest(),
            "heads_digest": chain.heads_digest(after),
            "first_recorded_at": moments[0],
            "last_recorded_at": moments[1],
            "archived_at": self._clock(),
        }
        values["hash"] = chain.segment_link(previous, values)
        await self._database.write(lambda connection: _remove(connection, values, after))
        faultpoints.reach("log.archive.after-commit")
        return Segment(**values)

    def _file_problems(self, segments: Iterable[Segment]) -> Iterator[chain.Problem]:
        heads: Heads = {}
        for segment in segments:
            path = self._folder / segment.file
            try:
                digest = blake3(path.read_bytes()).hexdigest()
            except OSError as problem:
                yield chain.Problem(segment.first_position, f"the file {segment.file} cannot be read: {problem}")
                return
            if digest != segment.file_digest:
                yield chain.Problem(segment.first_position, f"the file {segment.file} is not the one that was archived")
                return
            yield from _check(path, segment.first_position, segment.last_position, heads, None)
            if chain.heads_digest(heads) != segment.heads_digest:
                yield chain.Problem(segment.last_position, f"the chains do not end as recorded behind {segment.file}")


def _segment_size(connection: Connection) -> int | None:
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.execute(text("SELECT events_in_partition()")).scalar_one())


def _heads(connection: Connection) -> Heads:
    return {row.stream: (row.version, row.hash) for row in connection.execute(select(archived_heads))}


def _write(
    connection: Connection, path: Path, first: int, last: int, before: Mapping[str, tuple[int, str]]
) -> tuple[Heads, tuple[datetime, datetime]]:
    """Write the file and make it durable; answer where the chains end, and the first and the last moment."""
    heads = dict(before)
    moments: list[datetime] = []
    position = first - 1
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as raw:
        with zstandard.ZstdCompressor(level=9, write_checksum=True).stream_writer(raw, closefd=False) as out:
            out.write(_encode({"format": FORMAT, "first_position": first, "last_position": last}) + b"\n")
            while position < last:
                page = select(events).where(events.c.position > position, events.c.position <= last)
                rows = connection.execute(page.order_by(events.c.position).limit(_PAGE)).mappings().all()
                if not rows:
                    raise _refusal(chain.Problem(position + 1, "events are missing from here"))
                for row in rows:
                    for what in chain.row_problems(row, position, heads):
                        raise _refusal(chain.Problem(row["position"], what))
                    heads[row["stream"]] = (row["version"], row["hash"])
                    position = row["position"]
                    out.write(_encode({**row, **{name: utc_text(row[name]) for name in MOMENTS}}) + b"\n")
                moments += [rows[0]["recorded_at"], rows[-1]["recorded_at"]]
        raw.flush()
        os.fsync(raw.fileno())
    unfinished.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return heads, (moments[0], moments[-1])


def _check(path: Path, first: int, last: int, heads: Heads, wanted: Heads | None) -> Iterator[chain.Problem]:
    """Read a file back and follow its chains on from ``heads``, which are moved to the file's end."""
    position = first - 1
    try:
        with path.open("rb") as file:
            for row in rows_of(file):
                for what in chain.row_problems(row, position, heads):
                    yield chain.Problem(row["position"], f"{path.name}: {what}")
                heads[row["stream"]] = (row["version"], row["hash"])
                position = row["position"]
    except UNREADABLE as problem:
        yield chain.Problem(position + 1, f"{path.name} cannot be read: {problem}")
        return
    if position != last:
        yield chain.Problem(position, f"{path.name} ends at position {position}, not {last}")
    if wanted is not None and wanted != heads:
        yield chain.Problem(last, f"{path.name} was not written as it was read")


def _remove(connection: Connection, values: Mapping[str, Any], heads: Mapping[str, tuple[int, str]]) -> None:
    first, last = values["first_position"], values["last_position"]
    connection.execute(select(log_head.c.position).with_for_update())
    newest = connection.execute(
        select(archived_segments.c.last_position).order_by(archived_segments.c.last_position.desc()).limit(1)
    ).scalar()
    if (newest or 0) + 1 != first:
        raise _refusal(chain.Problem(first, "somebody else archived at the same time"))
    connection.execute(insert(archived_segments), [dict(values)])
    connection.execute(delete(archived_heads))
    connection.execute(
        insert(archived_heads), [{"stream": name, "version": end[0], "hash": end[1]} for name, end in heads.items()]
    )
    if connection.dialect.name == "sqlite":
        connection.execute(delete(events).where(events.c.position.between(first, last)))
    else:
        part = f"events_{(first - 1) // (last - first + 1):06d}"
        connection.exec_driver_sql(f"ALTER TABLE events DETACH PARTITION {part}")
        connection.exec_driver_sql(f"DROP TABLE {part}")
    faultpoints.reach("log.archive.before-commit")


def _refusal(problem: chain.Problem) -> ArchiveError:
    return ArchiveError(
        Failure(
            code="archive-refused",
            cause=f"position {problem.position}: {problem.what}",
            advice="Nothing was removed. Verify the log; archive when it is sound.",
        )
    )
