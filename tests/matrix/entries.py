"""Why a program is not restored out of the box, by hand: the page holds one for each such row."""

from __future__ import annotations

from typing import Final

from matrix.program import Entry

ENTRIES: Final[dict[str, Entry]] = {
    "sqlite": Entry(
        cause="After the restore a process of the three ended with an error, and the container with it. Why is not known yet.",
        fault="Not known.",
        needed="To find out; a database that one process writes to continues.",
    ),
    "sqlite-wal": Entry(
        cause="Each process maps the file -shm and holds locks of fcntl on it. CRIU sets locks again before it opens, maps and closes "
        "the mapped files, and by closing them the process loses its locks: two processes would write at once. One process alone continues.",
        fault="CRIU's.",
        needed="Locks that are set after the mappings, in CRIU, or by Woodfrog between restore and start; until then "
        "PRAGMA journal_mode=DELETE, or one process that writes.",
    ),
}
