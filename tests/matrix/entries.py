"""Why a program is not restored out of the box, by hand: the page holds one for each such row."""

from __future__ import annotations

from typing import Final

from matrix.program import Entry

ENTRIES: Final[dict[str, Entry]] = {
    "sqlite-wal": Entry(
        cause="Each process maps the file -shm and holds locks of fcntl on it. CRIU sets locks again before it opens, maps and closes "
        "the mapped files, and by closing them the process loses its locks: two processes would write at once. One process alone continues.",
        fault="CRIU's.",
        needed="Locks that are set after the mappings, in CRIU, or by Woodfrog between restore and start; until then "
        "PRAGMA journal_mode=DELETE, or one process that writes.",
    ),
    "php-fpm": Entry(
        cause="OPcache of PHP 8.4 keeps 64 MiB for the JIT in the memory that all workers share, executable and read-only, below PHP itself, also while "
        "the JIT is off. CRIU writes its first system call over the lowest executable mapping, and the kernel lets nobody write there.",
        fault="CRIU's: any private code of the process would do.",
        needed="CRIU that looks for private code; until then opcache.jit_buffer_size=0, as in the next row.",
    ),
}
