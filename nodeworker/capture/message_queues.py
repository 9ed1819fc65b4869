"""POSIX message queues, which CRIU does not dump, found before anything is frozen.

A queue that is open but has no name any more is found by CRIU itself. One that has a name hinders every dump, open or not
(criu/filesystems.c, ``mqueue_dump``: "mqueue isn't empty"), so closing it is not enough.
"""

from __future__ import annotations

import os
from contextlib import suppress

from nodeworker.domain import criu_failures
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.procfs import Mount, mounts

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def refuse(first: int) -> None:
    """Refuse a container in which there is a queue.

    Args:
        first: the container's first process.

    Raises:
        FailureError: ``posix-queue``, naming one.
    """
    with suppress(OSError):  # it has ended
        for mount in mounts(first):
            if mount.kind == "mqueue" and (queues := _listed(first, mount)):
                row = criu_failures.rule("posix-queue")
                raise FailureError(
                    Failure(
                        row.code,
                        f"the container has a POSIX message queue /{queues[0]}, which CRIU cannot dump",
                        row.advice,
                    )
                )


def _listed(first: int, mount: Mount) -> list[str]:
    """List what is in a mount, unless the container has put something else at its place."""
    folder = os.open(f"/proc/{first}/root{mount.place}", _FOLDER)
    try:
        found = os.fstat(folder).st_dev
        same = f"{os.major(found)}:{os.minor(found)}" == mount.device
        return sorted(os.listdir(folder)) if same else []  # noqa: PTH208 -- a descriptor has no Path
    finally:
        os.close(folder)
