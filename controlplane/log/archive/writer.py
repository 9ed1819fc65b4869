"""Old events moved out of the database into files, whole segments at a time, so that nothing becomes unprovable.

A segment is a range of positions: a whole partition on PostgreSQL, a range of the same kind on SQLite. It is written to a file
(JSON Lines, zstd), read back, checked link by link against the hash chains, and only then removed from ``events``, in the transaction
that records it in ``archived_segments`` with the digest of its file. What remains behind in the database is where every
chain stood at the segment's end, so a verification of the table begins there and still proves that no position is missing; with the
files at hand, :meth:`Archive.verify` proves the rest from position 1.

Whoever folds from position 1 needs the files from then on (:mod:`controlplane.log.archive.tiered`). So that nobody has to in everyday life, no
event is archived that no copy of the folded state covers, nor while the tables behind the views are to be folded anew; both are
settled in the transaction that removes, which holds the head of the log: a control plane may lead meanwhile, and waits for it as
for another append. Archiving takes the rights of the tables' owner, which the control plane's role lacks.

A file's name has a part of its digest, so that nobody who archives the same events at the same time, or once more after an
interruption, ever replaces a file by another one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec
import zstandard
from sqlalchemy import Connection, delete, func, insert, select, text

from controlplane.log import cached_states, chain
from controlplane.log.archive import reader
from controlplane.log.archive.reader import FORMAT, MOMENTS, UNREADABLE, Segment, digest, rows_of
from controlplane.log.file_permissions import PRIVATE_FILE, keep_files_private
from controlplane.log.progress import Progress
from controlplane.log.projections import rebuild
from controlplane.log.read import record_of_row
from controlplane.log.records import ArchiveError, Recorded
from controlplane.log.schema import archived_heads, archived_segments, events, log_head, projection_state, utc_text
from controlplane.log.sql.database import Database
from controlplane.log.sql.engine import make_ready
from controlplane.log.upcast import UPCASTS, Upcasts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Position
from woodfrog.service import faultpoints

SEGMENT_POSITIONS: Final = 100_000
"""Positions in a segment on SQLite; on PostgreSQL it is the partition's size."""

_PAGE: Final = 1000
_NAME_DIGITS: Final = 16
_OWNER: Final = (
    "SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = 'events'::regclass"
)
_encode = msgspec.json.Encoder().encode

Heads = dict[str, tuple[int, str]]


class Due(msgspec.Struct, frozen=True):
    """A segment that may be archived."""

    first_position: int
    last_position: int
    first_recorded_at: datetime
    last_recorded_at: datetime


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
            files = [segment.file for segment in await archive.segments()]
            await asyncio.to_thread(keep_files_private, folder, files)
        except BaseException:
            await archive.close()
            raise
        return archive

    async def close(self) -> None:
        """Give back every connection."""
        await self._database.close()

    async def segments(self) -> list[Segment]:
        """List what is archived, oldest first."""
        return await self._database.read(reader.segments)

    async def due(
        self,
        *,
        through: Position | None = None,
        before: datetime | None = None,
        segment_positions: int = SEGMENT_POSITIONS,
    ) -> list[Due]:
        """List the whole segments, not archived yet, that end at ``through`` and were recorded ``before``; the newest event stays."""
        return await self._database.read(lambda connection: list(_due(connection, through, before, segment_positions)))

    async def check_allowed(self, last: Position, form: str) -> None:
        """Make sure that everything up to position ``last`` may be archived; the events themselves are not looked at.

        Raises:
            ArchiveError: it may not, see :meth:`archive`.
        """
        await self._database.read(lambda connection: _check_allowed(connection, last, form))

    async def copy(self, form: str) -> tuple[Position, list[bytes]] | None:
        """Find the newest copy of the state of this ``form``."""
        return await self._database.read(lambda connection: cached_states.newest(connection, form))

    async def archive(
        self,
        through: Position,
        *,
        form: str,
        segment_positions: int = SEGMENT_POSITIONS,
        progress: Progress | None = None,
    ) -> list[Segment]:
        """Archive every whole segment up to position ``through``; the newest event always stays.

        ``form`` names the copies of the state that the control plane can read: one must cover all that goes. If it is killed, a file
        may be left that no row speaks of; the next time it is written anew.

        Raises:
            ArchiveError: a segment is not as it was written, not covered, or may not be removed; nothing of it was.
            LogUnavailableError: the database cannot be used, or readers held the table for too long.
            OSError: the file cannot be written.
        """
        wanted = await self.due(through=through, segment_positions=segment_positions)
        if not wanted:
            return []
        await self.check_allowed(Position(wanted[-1].last_position), form)
        counted = progress or Progress()
        counted.begin(wanted[-1].last_position - wanted[0].first_position + 1, passes=2)  # each is read back
        done: list[Segment] = []
        for one in wanted:
            known = await self.segments()
            previous = known[-1].hash if known else chain.FIRST
            done.append(await self._archive_one(one.first_position, one.last_position, previous, form, counted))
        return done

    async def verify(self, progress: Progress | None = None) -> chain.Verification:
        """Check every archived file and then the table: together, every event from position 1 to the newest."""
        segments = await self.segments()
        counted = progress or Progress()
        problems = await asyncio.to_thread(lambda: list(self._file_problems(segments, counted)))
        table = await self._database.read(lambda connection: chain.verify(connection, counted))
        return chain.Verification(
            events=table.events + table.archived, archived=table.archived, problems=(*problems, *table.problems)
        )

    def recorded(self, segment: Segment, upcasts: Upcasts = UPCASTS) -> Iterator[Recorded]:
        """Read a segment's events, for a fold from position 1."""
        for row in reader.verified_rows(self._folder, segment):
            yield record_of_row(row, upcasts)

    async def _archive_one(self, first: int, last: int, previous: str, form: str, progress: Progress) -> Segment:
        before = await self._database.read(_heads)
        unfinished = self._folder / f"events-{first:012d}-{last:012d}.{os.getpid()}-{secrets.token_hex(4)}.unfinished"
        try:
            after, moments = await self._database.read(
                lambda connection: _write(connection, unfinished, first, last, before, progress)
            )
            values = await asyncio.to_thread(_place, unfinished, first, last, before, after, progress)
        except FileNotFoundError as problem:
            if str(problem.filename) == str(unfinished) and self._folder.is_dir():  # swept away by whoever was quicker
                raise _overtaken() from problem
            raise
        finally:
            unfinished.unlink(missing_ok=True)
        values |= {
            "heads_digest": chain.heads_digest(after),
            "first_recorded_at": moments[0],
            "last_recorded_at": moments[1],
            "archived_at": self._clock(),
        }
        values["hash"] = chain.segment_link(previous, values)
        await self._database.write(lambda connection: _remove(connection, values, after, form))
        faultpoints.reach("log.archive.after-commit")
        await asyncio.to_thread(_sweep, self._folder, first, last)
        return Segment(**values)

    def _file_problems(self, segments: Iterable[Segment], progress: Progress) -> Iterator[chain.Problem]:
        heads: Heads = {}
        for segment in segments:
            try:
                with (self._folder / segment.file).open("rb") as file:
                    if digest(file) != segment.file_digest:
                        what = f"the file {segment.file} is not the one that was archived"
                        yield chain.Problem(segment.first_position, what)
                        return
                    ends = segment.first_position, segment.last_position
                    yield from _check(file, segment.file, *ends, heads, progress)
            except OSError as problem:
                yield chain.Problem(segment.first_position, f"the file {segment.file} cannot be read: {problem}")
                return
            if chain.heads_digest(heads) != segment.heads_digest:
                yield chain.Problem(segment.last_position, f"the chains do not end as recorded behind {segment.file}")


def _due(
    connection: Connection, through: Position | None, before: datetime | None, segment_positions: int
) -> Iterator[Due]:
    size = _segment_size(connection) or segment_positions
    head = connection.execute(select(log_head.c.position)).scalar_one()
    first = reader.through(connection) + 1
    most = head - 1 if through is None else min(through, head - 1)
    while first + size - 1 <= most:
        last = first + size - 1
        recorded = select(func.min(events.c.recorded_at), func.max(events.c.recorded_at))
        since, until = connection.execute(recorded.where(events.c.position.between(first, last))).one()
        if before is not None and until is not None and until >= before:
            return
        yield Due(first, last, since, until)
        first = last + 1


def _segment_size(connection: Connection) -> int | None:
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.execute(text("SELECT events_in_partition()")).scalar_one())


def _heads(connection: Connection) -> Heads:
    return {row.stream: (row.version, row.hash) for row in connection.execute(select(archived_heads))}


def _write(
    connection: Connection,
    unfinished: Path,
    first: int,
    last: int,
    before: Mapping[str, tuple[int, str]],
    progress: Progress,
) -> tuple[Heads, tuple[datetime, datetime]]:
    """Write the file and make it durable; answer where the chains end, and the first and the last moment."""
    heads = dict(before)
    moments: list[datetime] = []
    position = first - 1
    with open(unfinished, "xb", opener=_private) as raw:
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
                progress.done += len(rows)
        raw.flush()
        faultpoints.reach("log.archive.before-sync")
        os.fsync(raw.fileno())
    return heads, (moments[0], moments[-1])


def _place(unfinished: Path, first: int, last: int, before: Heads, after: Heads, progress: Progress) -> dict[str, Any]:
    """Read the file back, and give it its name if it is what it should be; answer what is to be recorded of it."""
    heads = dict(before)
    with unfinished.open("rb") as file:
        found = digest(file)
        name = f"events-{first:012d}-{last:012d}-{found[:_NAME_DIGITS]}.jsonl.zst"
        for problem in _check(file, name, first, last, heads, progress):
            raise _refusal(problem)
    if heads != after:
        raise _refusal(chain.Problem(last, f"{name} was not written as it was read"))
    size = unfinished.stat().st_size
    unfinished.rename(unfinished.with_name(name))
    folder = os.open(unfinished.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    faultpoints.reach("log.archive.file-placed")
    return {
        "first_position": first,
        "last_position": last,
        "file": name,
        "file_bytes": size,
        "file_digest": found,
    }


def _sweep(folder: Path, first: int, last: int) -> None:
    """Remove what was left by whoever began to write this segment, too, and was killed."""
    for left in folder.glob(f"events-{first:012d}-{last:012d}.*.unfinished"):
        left.unlink(missing_ok=True)


def _check(
    file: BinaryIO, name: str, first: int, last: int, heads: Heads, progress: Progress
) -> Iterator[chain.Problem]:
    """Read a file back and follow its chains on from ``heads``, which are moved to the file's end."""
    position = first - 1
    file.seek(0)
    try:
        for row in rows_of(file):
            for what in chain.row_problems(row, position, heads):
                yield chain.Problem(row["position"], f"{name}: {what}")
            heads[row["stream"]] = (row["version"], row["hash"])
            position = row["position"]
            progress.done += 1
    except UNREADABLE as problem:
        yield chain.Problem(position + 1, f"{name} cannot be read: {problem}")
        return
    if position != last:
        yield chain.Problem(position, f"{name} ends at position {position}, not {last}")


def _check_allowed(connection: Connection, last: int, form: str) -> None:
    """Make sure that the events up to position ``last`` may be removed.

    Raises:
        ArchiveError: they may not.
    """
    if connection.dialect.name != "sqlite":
        owner, owns = connection.execute(text(_OWNER)).one()
        if not owns:
            raise ArchiveError(
                Failure(
                    code="archive-not-owner",
                    cause=f"the role that removes events must own the log's tables, and {owner} does",
                    advice="Name the database's URL as that role, by --database-url.",
                )
            )
    if rebuild.stale(connection):
        raise ArchiveError(
            Failure(
                code="archive-refused",
                cause="the tables behind the views are to be folded from all events first, or are just now",
                advice="Wait until the control plane of this version has done so, or run `woodfrog log rebuild`.",
            )
        )
    covered = cached_states.covered(connection, form)
    if covered <= last:
        raise ArchiveError(
            Failure(
                code="archive-uncovered",
                cause=f"no copy of the state that this version can read covers position {last}: "
                + (f"the newest is of position {covered}" if covered else "there is none"),
                advice="A control plane of this version takes one every 50,000 events, and one when it ends in an orderly way. "
                + (
                    f"Archive what is before position {covered}, or try again later." if covered else "Try again later."
                ),
            )
        )


def _remove(connection: Connection, values: Mapping[str, Any], heads: Mapping[str, tuple[int, str]], form: str) -> None:
    first, last = values["first_position"], values["last_position"]
    connection.execute(select(log_head.c.position).with_for_update())
    connection.execute(select(projection_state.c.version).with_for_update())  # no rebuild begins until this ends
    if reader.through(connection) + 1 != first:
        raise _overtaken()
    _check_allowed(connection, last, form)
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


def _overtaken() -> ArchiveError:
    return ArchiveError(
        Failure(
            code="archive-refused",
            cause="another process archived at the same time",
            advice="Nothing was removed here; run the command again to continue.",
        )
    )


def _refusal(problem: chain.Problem) -> ArchiveError:
    return ArchiveError(
        Failure(
            code="archive-refused",
            cause=f"position {problem.position}: {problem.what}",
            advice="Nothing was removed. Verify the log; archive when it is sound.",
        )
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)
