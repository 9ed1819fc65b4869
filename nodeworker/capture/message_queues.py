"""POSIX message queues, which CRIU does not dump, found before anything is frozen.

A queue that is open but has no name any more is found by CRIU itself. One that has a name hinders every dump, open or not
(criu/filesystems.c, ``mqueue_dump``: "mqueue isn't empty"), so closing it is not enough.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nodeworker.domain import criu_failures
from woodfrog.protocol.failures import Failure, FailureError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def refuse(first: int) -> None:
    """Refuse a container in which there is a queue.

    Args:
        first: the container's first process.

    Raises:
        FailureError: ``posix-queue``, naming one.
    """
    with suppress(OSError):  # it has ended
        lines = Path(f"/proc/{first}/mountinfo").read_text(errors="surrogateescape").splitlines()
        for mount, _, rest in (line.partition(" - ") for line in lines):
            if rest.startswith("mqueue ") and (queues := _listed(first, *mount.split(" ")[2:5])):
                row = criu_failures.rule("posix-queue")
                raise FailureError(
                    Failure(
                        row.code,
                        f"the container has a POSIX message queue /{queues[0]}, which CRIU cannot dump",
                        row.advice,
                    )
                )


def _listed(first: int, device: str, _root: str, place: str) -> list[str]:
    """List what is in a mount, unless the container has put something else at its place."""
    folder = os.open(f"/proc/{first}/root{place}", _FOLDER)
    try:
        found = os.fstat(folder).st_dev
        same = f"{os.major(found)}:{os.minor(found)}" == device
        return sorted(os.listdir(folder)) if same else []  # noqa: PTH208 -- a descriptor has no Path
    finally:
        os.close(folder)
