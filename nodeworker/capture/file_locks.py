"""File locks that a restore would lose without a word, found before anything is frozen.

A lock of fcntl(2) that belongs to a process goes when that process closes *any* descriptor of the file. CRIU sets the locks again and
opens, maps and closes a process's mapped files after that (restore_one_alive_task in criu/cr-restore.c: prepare_file_locks, then
open_vmas), so a lock on a file that its holder has mapped is gone once the process runs. While nobody else uses the file that harms
nobody; else two processes hold what only one may hold. SQLite in WAL mode is such a program: it maps and locks one file in each of
its processes. Locks of flock(2) and those of open file descriptions stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.errors import refusal
from woodfrog.service.procfs import descriptors, named

_OF_A_PROCESS: Final = "POSIX"
_PATH_FIELD: Final = 5
_ADVICE: Final = "Let one process at a time use the file; or have SQLite do without mapped files (PRAGMA journal_mode=DELETE, and no mmap_size)."


def refuse_lost(pids: Iterable[int]) -> None:
    """Refuse processes of which one would lose a lock on a file that another of them uses, too.

    Raises:
        FailureError: ``file-locks-lost``, naming the file and both.
    """
    opened = {pid: _opened(pid) for pid in pids}
    mapped = {pid: _mapped(pid) for pid in opened}
    for pid, files in opened.items():
        for path in sorted(files.keys() & mapped[pid]):
            other = next((each for each in opened if each != pid and path in {*opened[each], *mapped[each]}), None)
            if other is not None and any(_is_locked(pid, number) for number in files[path]):
                cause = (
                    f"{named(pid)} holds a lock on {path}, which it has mapped and {named(other)} uses, too: "
                    "CRIU would lose the lock"
                )
                raise refusal("file-locks-lost", cause, _ADVICE)


def _opened(pid: int) -> dict[str, list[str]]:
    """Return the files that a process has open, each with its descriptors."""
    found: dict[str, list[str]] = {}
    for number, path in descriptors(pid).items():
        if path.startswith("/"):
            found.setdefault(path, []).append(number)
    return found


def _mapped(pid: int) -> set[str]:
    """Return the files that a process has mapped (proc_pid_maps(5))."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
        fields = (line.split(None, _PATH_FIELD) for line in lines)
        return {each[_PATH_FIELD] for each in fields if len(each) > _PATH_FIELD and each[_PATH_FIELD].startswith("/")}
    return set()


def _is_locked(pid: int, number: str) -> bool:
    """Whether the process holds a lock of its own on this file (proc_pid_fdinfo(5))."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        return any(line.startswith("lock:") and _OF_A_PROCESS in line.split() for line in text.splitlines())
    return False
