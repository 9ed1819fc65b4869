"""The log read as one, though its oldest events may be in files: whoever reads in order need not know where each lies.

The table is asked first, since nearly all that is read lies there. Files are read in a thread, outside of any transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from controlplane.log import read
from controlplane.log.archive import reader
from controlplane.log.archive.reader import ArchiveReader, Row
from controlplane.log.records import ArchivedRangeError
from controlplane.log.sql.database import Database
from woodfrog.protocol.ids import Position

T = TypeVar("T")


class TieredLog:
    """The events of one log: in its table and, if ``archive`` is given, in the files in that directory."""

    def __init__(self, database: Database, archive: Path | None) -> None:
        self._database = database
        self._filed = ArchiveReader(archive) if archive is not None else None

    async def learn(self) -> int:
        """Hear what has been archived; answer up to which position events can be read from files.

        Raises:
            ArchiveUnusableError: the records of that are not as they were written.
        """
        if self._filed is None:
            return 0
        self._filed.learn(await self._database.read(reader.segments))
        return self._filed.through

    async def filed_page(self, after: Position, limit: int) -> list[Row]:
        """Read up to ``limit`` events behind a position from files; none where they are not, or no files are at hand.

        Raises:
            ArchiveUnusableError: a file is not what was archived.
        """
        return [] if self._filed is None else await asyncio.to_thread(self._filed.page, after, limit)

    async def in_order(
        self, after: Position, limit: int, kept: Callable[[Connection], T], taken: Callable[[list[Row]], T]
    ) -> T:
        """Read a page of events from the table by ``kept`` or, where they are archived, from files through ``taken``.

        Raises:
            ArchivedRangeError: they are archived, and their files are not at hand.
            ArchiveUnusableError: a file is not what was archived.
        """
        if self._filed is None:
            return await self._database.read(kept)
        if after >= self._filed.through:
            try:
                return await self._database.read(kept)
            except ArchivedRangeError:
                if after >= await self.learn():
                    raise
        return taken(await self.filed_page(after, limit))

    async def of_stream(self, stream: str) -> list[Row]:
        """Read every archived event of one stream, from all files. Raises as :meth:`in_order` does."""
        if self._filed is None:
            raise read.archived(1, await self._database.read(reader.through))
        await self.learn()
        return await asyncio.to_thread(self._filed.of_stream, stream)

    def close(self) -> None:
        """Close what is open."""
        if self._filed is not None:
            self._filed.close()
