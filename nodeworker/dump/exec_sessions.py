"""Sessions of ``exec`` in a container that is to end: they end with it in any case, and one may be why it cannot be captured.

A client in a session that is connected to the container's database is half of a connection that CRIU cannot dump, and a debugger lets
nobody else at its processes. Neither is part of a snapshot. So before the next try of a final dump they are ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import structlog

from nodeworker.capture.criu.criu import descendants, pid_namespace
from nodeworker.capture.criu.runc import Runc
from nodeworker.journal import ContainerRecord
from woodfrog.protocol.failures import FailureError
from woodfrog.service.procfs import named, status_fields

_log = structlog.get_logger(component="dump")


def end(runc: Runc, container: ContainerRecord) -> tuple[str, ...]:
    """End a container's sessions; return what is to be said of them with its snapshot."""
    try:
        state = runc.state(Path(container.runc_root), container.container_id)
    except FailureError:  # it is gone
        return ()
    names = []
    for pid in of(state.freezer.pids(), state.pid):
        names.append(named(pid))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not names:
        return ()
    warning = f"sessions of exec were ended, because the container could not be captured while they lasted: {', '.join(names)}"
    _log.warning("sessions are ended", container_id=container.container_id, processes=names)
    return (warning,)


def of(pids: Collection[int], first: int) -> tuple[int, ...]:
    """Return those of a container's processes that sessions began: whose ancestors came into its PID namespace from outside.

    What a session left to the container's first process is the container's, and what a pod's first process has adopted came from
    inside. A container without a PID namespace of its own has none that could be told apart.
    """
    others = set(pids) - set(descendants(pids, first))
    return tuple(sorted({each for pid in others if _came_in(pid) for each in descendants(others, pid)}))


def _came_in(pid: int) -> bool:
    inside = pid_namespace(pid)
    return inside is not None and pid_namespace(int(status_fields(pid).get("PPid") or 0)) not in {None, inside}
