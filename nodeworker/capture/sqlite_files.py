"""SQLite databases that processes have open, and by which SQLite knows them: the device and the number of the file.

A restored file has another number, for it is a copy. SQLite compares them before it begins a journal and then takes its database for a
file that was moved away ("attempt to write a readonly database"); and a connection that is opened later in the same process would not
share the locks of the older ones, so that both might write at once. (os_unix.c, ``fileHasMoved`` and ``findInodeInfo``.)

So the numbers are recorded at the dump, and between restore and start the new ones are written into the memory of the processes:
where a ``unixInodeInfo`` begins with the old device and number, and a ``unixFile`` says that it is that of this very descriptor. The
first fields of both are the same since SQLite 3.7.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from woodfrog.protocol.manifest import DatabaseFile
from woodfrog.service.procfs import descriptors, inside

MOST_FILES: Final = 1000
_MAGIC: Final = b"SQLite format 3\0"
"""sqlite.org/fileformat.html, "The Database Header"."""
_IDENTITY: Final = struct.Struct("<QQ")
"""``unixFileId``: st_dev and st_ino."""
_HELD_BY: Final = struct.Struct("<Qi")
"""``unixFile``: pInode and h, its descriptor, which follow each other."""
_WRITABLE: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw.p ", re.MULTILINE)
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_ENTRY_BYTES: Final = 8
_BLOCK_PAGES: Final = 512
_BLOCK_BYTES: Final = _BLOCK_PAGES * _PAGE_BYTES
_THERE: Final = re.compile(rb"[\x40-\xff]+")
"""Pages that are present or swapped, by the highest bytes of their entries in /proc/PID/pagemap."""
_MOST_BYTES: Final = 16 << 30
"""Of a process's memory that are read."""


def record(pids: Iterable[int]) -> tuple[DatabaseFile, ...]:
    """Record the databases that processes have open; they must be frozen."""
    found = []
    for pid in pids:
        for number, path in descriptors(pid).items():
            if not path.startswith("/"):
                continue
            with suppress(OSError):
                place = Path(f"/proc/{pid}/fd/{number}")
                status = place.stat()
                if stat.S_ISREG(status.st_mode) and _is_database(place) and (process := inside(pid)):
                    found.append(DatabaseFile(process, int(number), status.st_dev, status.st_ino))
                    if len(found) == MOST_FILES:
                        return tuple(found)
    return tuple(found)


def apply(files: Iterable[DatabaseFile], pids: Iterable[int]) -> int:
    """Let stopped processes know their databases again, and return how many files of processes were found in their memory."""
    here = {inside(pid): pid for pid in pids}
    found: dict[int, dict[tuple[bytes, bytes], list[int]]] = {}
    for file in files:
        with suppress(OSError, KeyError, struct.error):
            pid = here[file.process]
            status = Path(f"/proc/{pid}/fd/{file.descriptor}").stat()
            identities = _IDENTITY.pack(file.device, file.inode), _IDENTITY.pack(status.st_dev, status.st_ino)
            if identities[0] != identities[1]:
                found.setdefault(pid, {}).setdefault(identities, []).append(file.descriptor)
    return sum(_rewritten(pid, identities) for pid, identities in found.items())


def _is_database(place: Path) -> bool:
    with place.open("rb", buffering=0) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _rewritten(pid: int, identities: dict[tuple[bytes, bytes], list[int]]) -> int:
    """Write the new identities where the old ones are those of open files; all are looked for before any is written."""
    count = 0
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        places = _found(pid, memory.fileno(), [old for old, _ in identities])
        wanted = {
            _HELD_BY.pack(place, number): (place, new)
            for (old, new), numbers in identities.items()
            for place in places.get(old, ())
            for number in numbers
        }
        written = {wanted[held] for held in _found(pid, memory.fileno(), list(wanted))}
        for place, new in written:
            os.pwrite(memory.fileno(), new, place)
            count += 1
    return count


def _found(pid: int, memory: int, wanted: list[bytes]) -> dict[bytes, list[int]]:
    """Find byte strings in the private memory of a process, as far as they are aligned as C does it."""
    found: dict[bytes, list[int]] = {}
    if not wanted:
        return found
    for start, data in _blocks(pid, memory):
        for each in wanted:
            at = data.find(each)
            while at >= 0:
                if (start + at) % _ENTRY_BYTES == 0:
                    found.setdefault(each, []).append(start + at)
                at = data.find(each, at + 1)
    return found


def _blocks(pid: int, memory: int) -> Iterator[tuple[int, bytes]]:
    """Yield the touched pages of a process in runs that overlap by what is looked for, up to a limit."""
    left = _MOST_BYTES
    for begin, stop in _touched(pid, _IDENTITY.size - _ENTRY_BYTES):
        data = os.pread(memory, stop - begin, begin)
        yield begin, data
        left -= len(data)
        if left <= 0:
            return


def _touched(pid: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Find the runs of private pages that a process has, by their ends.

    A runtime with a heap of its own reserves gigabytes and touches a page here and there: to read the others as well would take minutes.
    """
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for first, last in _WRITABLE.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")):
            end = int(last, 16)
            for start in range(int(first, 16), end, _BLOCK_BYTES):
                pages = (min(start + _BLOCK_BYTES, end) - start) // _PAGE_BYTES
                entries = os.pread(pagemap.fileno(), pages * _ENTRY_BYTES, start // _PAGE_BYTES * _ENTRY_BYTES)
                for run in _THERE.finditer(entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]):
                    # What is looked for may continue in the next block.
                    beyond = overlap if run.end() == pages else 0
                    yield start + run.start() * _PAGE_BYTES, min(start + run.end() * _PAGE_BYTES + beyond, end)
