"""Archiving as somebody asks for it: which segments are due, and whether a control plane can start without them.

The log knows that a copy of the state is there; whether it can be read only its own code knows (:mod:`controlplane.core.state_cache`). It is
tried before anything is removed: a copy that cannot be read would be missed when it is too late, at the next start.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from controlplane.core import state_cache
from controlplane.log.archive.reader import Segment
from controlplane.log.archive.writer import SEGMENT_POSITIONS, Archive, Due
from controlplane.log.progress import Progress
from controlplane.log.records import ArchiveError
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Position


async def archive(
    url: str,
    folder: Path,
    *,
    through: Position | None = None,
    before: datetime | None = None,
    segment_positions: int = SEGMENT_POSITIONS,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Due] | list[Segment]:
    """Archive the whole segments up to position ``through`` that were recorded ``before``; answer them, oldest first.

    A dry run looks at everything that stands against it, and changes nothing.

    Raises:
        ArchiveError: it may not be, or a file cannot be written; segments that were archived before stay so.
        LogUnavailableError: the database cannot be used.
    """
    opened = await Archive.open(url, folder)
    try:
        due = await opened.due(through=through, before=before, segment_positions=segment_positions)
        if not due:
            return []
        last = Position(due[-1].last_position)
        await opened.check_allowed(last, state_cache.fingerprint())
        await _check_copy(opened)
        if dry_run:
            return due
        return await opened.archive(
            last, form=state_cache.fingerprint(), segment_positions=segment_positions, progress=progress
        )
    except OSError as problem:
        raise ArchiveError(
            Failure(
                code="archive-unwritable",
                cause=f"a file in {folder} cannot be written: {problem.strerror}",
                advice="Make room there, or name another directory and bring the files that are there already. "
                "Events whose file was not written are still in the database.",
            )
        ) from problem
    finally:
        await opened.close()


async def _check_copy(opened: Archive) -> None:
    found = await opened.copy(state_cache.fingerprint())
    assert found is not None
    try:
        state_cache.decode(found[1])
    except msgspec.DecodeError as problem:
        raise ArchiveError(
            Failure(
                code="archive-uncovered",
                cause=f"the copy of the state of position {found[0]} cannot be read: {problem}",
                advice="Wait until the control plane has taken another, 50,000 events on or when it ends in an orderly way.",
            )
        ) from problem
