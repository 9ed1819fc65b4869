"""Archived events read back from their files, so that whoever folds from position 1 still can.

A file is believed for its digest alone: the row of ``archived_segments`` that has it is chained to the rows before, and the file's
events were followed link by link before that row was written (:mod:`controlplane.log.archive.writer`). So the rows are checked once, a file
each time that it is opened, before the first event of it is handed out.

Whoever folds reads page after page. A file is one stream of compressed bytes, so a reader is kept where it stands for whoever goes
on from there; some are, since a rebuild and a relay may read at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import zstandard
from blake3 import blake3
from sqlalchemy import Connection, func, select

from controlplane.log import chain
from controlplane.log.records import ArchiveUnusableError
from controlplane.log.schema import archived_segments
from woodfrog.protocol.failures import Failure

FORMAT: Final = "woodfrog-events/1"
MOMENTS: Final = ("occurred_at", "recorded_at")
UNREADABLE: Final = (OSError, ValueError, LookupError, zstandard.ZstdError)
"""What reading a file that is damaged may raise."""

_BLOCK_BYTES: Final = 1 << 20
_READERS: Final = 4

Row = dict[str, Any]
"""A row of ``events``, by its columns' names."""


class Segment(msgspec.Struct, frozen=True):
    """One archived range; ``file`` is a name within the archive's folder."""

    first_position: int
    last_position: int
    file: str
    file_bytes: int
    file_digest: str
    heads_digest: str
    first_recorded_at: datetime
    last_recorded_at: datetime
    archived_at: datetime
    hash: str


def segments(connection: Connection) -> list[Segment]:
    """List what is archived, oldest first."""
    rows = connection.execute(select(archived_segments).order_by(archived_segments.c.first_position)).mappings()
    return [Segment(**{str(name): value for name, value in row.items()}) for row in rows]


def through(connection: Connection) -> int:
    """Tell the position of the newest archived event, 0 if there is none."""
    return connection.scalar(select(func.max(archived_segments.c.last_position))) or 0


class ArchiveReader:
    """The archived events of one log, in one folder. Blocks while it reads; may be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: Sequence[Segment] = ()
        self._readers: dict[int, Iterator[Row]] = {}
        """By the position that each gives next, the one that was used last at the end."""
        self._lock = threading.Lock()

    @property
    def through(self) -> int:
        """The position of the newest archived event that is known here, 0 if there is none."""
        return self._segments[-1].last_position if self._segments else 0

    def learn(self, known: Sequence[Segment]) -> None:
        """Take in which files there are.

        Raises:
            ArchiveUnusableError: the rows that say so are not as they were written.
        """
        for problem in chain.segment_problems([msgspec.structs.asdict(one) for one in known]):
            raise _unusable(f"position {problem.position}: {problem.what}")
        with self._lock:
            if known != self._segments:
                self._segments = known
                self._readers.clear()  # none of them knows what follows

    def page(self, after: int, limit: int) -> list[Row]:
        """Read up to ``limit`` archived events behind position ``after``, in order; none behind the newest.

        Raises:
            ArchiveUnusableError: their file is not there, or not the one that was archived.
        """
        with self._lock:
            if after >= self.through:
                return []
            reader = self._readers.pop(after + 1, None) or self._open(after)
            try:
                rows = list(islice(reader, limit))
            except UNREADABLE as problem:
                raise _unusable(f"the archived event at position {after + 1} cannot be read: {problem}") from problem
            if not rows or rows[0]["position"] != after + 1:
                raise _unusable(f"the archived event at position {after + 1} is missing")
            last = rows[-1]["position"]
            if last < self.through:
                self._readers[last + 1] = reader
                while len(self._readers) > _READERS:
                    del self._readers[next(iter(self._readers))]
            return rows

    def of_stream(self, stream: str) -> list[Row]:
        """Read every archived event of one stream; all files are gone through for it. Raises as :meth:`page` does."""
        found: list[Row] = []
        for segment in self._segments:
            try:
                found.extend(verified_rows(self.folder, segment, stream=stream))
            except UNREADABLE as problem:
                raise _unusable(f"the file {segment.file} cannot be read: {problem}") from problem
        return found

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._readers.clear()

    def _open(self, after: int) -> Iterator[Row]:
        """Read on behind a position, through all files that follow."""
        for segment in self._segments:
            if segment.last_position > after:
                yield from (row for row in verified_rows(self.folder, segment) if row["position"] > after)


def verified_rows(folder: Path, segment: Segment, *, stream: str | None = None) -> Iterator[Row]:
    """Read a segment's file, or one stream's events in it, after making sure that it is the one that was archived.

    Raises:
        ArchiveUnusableError: it is not, or it is not there.
    """
    try:
        file = (folder / segment.file).open("rb")
    except OSError as problem:
        raise _unusable(f"the file {segment.file} cannot be read: {problem.strerror}") from problem
    with file:
        if digest(file) != segment.file_digest:
            raise _unusable(f"the file {segment.file} is not the one that was archived")
        file.seek(0)
        yield from rows_of(file, stream=stream)


def digest(file: BinaryIO) -> str:
    """Compute the digest of the rest of a file."""
    found = blake3()
    while block := file.read(_BLOCK_BYTES):
        found.update(block)
    return found.hexdigest()


def rows_of(raw: BinaryIO, *, stream: str | None = None) -> Iterator[Row]:
    """Read the rows in a segment's file, or those of one stream, whatever they are. Raises one of :data:`UNREADABLE`."""
    needle = b"" if stream is None else msgspec.json.encode(stream)
    with zstandard.ZstdDecompressor().stream_reader(raw) as unpacked:
        lines = _lines(unpacked)
        header = msgspec.json.decode(next(lines, b"{}"))
        if header.get("format") != FORMAT:
            raise ValueError(f"it does not begin as {FORMAT} does")
        for line in lines:
            if needle not in line:
                continue
            row = msgspec.json.decode(line)
            if stream is not None and row["stream"] != stream:
                continue
            yield {**row, **{name: datetime.fromisoformat(row[name]) for name in MOMENTS}}


def _lines(stream: zstandard.ZstdDecompressionReader) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _unusable(cause: str) -> ArchiveUnusableError:
    return ArchiveUnusableError(
        Failure(
            code="archive-unusable",
            cause=cause,
            advice="Name the directory that holds the archive's files, or bring the file back from a copy of that directory.",
        )
    )
