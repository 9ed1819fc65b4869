"""A dump with the container's inner TCP connections, and once more without them where that fails.

A closed connection costs less than a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from nodeworker.capture import network
from nodeworker.capture.criu.post_dump_hook import PostDumpHook
from nodeworker.capture.criu.spool import Spool
from nodeworker.domain.criu_images import watches
from nodeworker.dump.preflight import Plan
from nodeworker.restore.connections import FAILED
from woodfrog.protocol.failures import FailureError

_log = structlog.get_logger(component="connections")
_Files = TypeVar("_Files")


def dump(plan: Plan, spool: Spool, checkpoint: Callable[[], None], copy: Callable[[], _Files]) -> _Files:
    """Let CRIU write the images of a frozen container, and copy its files while CRIU waits.

    Raises:
        FailureError: as :meth:`Runc.checkpoint`, or as ``copy`` does.
    """
    if plan.watches:
        (spool.work / watches.NAME).write_bytes(watches.paths_image(plan.watches))
    keep = plan.criu.keeps_connections and network.has_inner_connections(plan.freezer.pids())
    try:
        return _attempt(plan, spool, checkpoint, copy, keep=keep)
    except FailureError as problem:
        if not keep or problem.failure.code != FAILED:
            raise
        _log.warning("connections could not be dumped, so they are closed", detail=problem.failure.detail)
        spool.empty_images()
        return _attempt(plan, spool, checkpoint, copy, keep=False)


def _attempt(
    plan: Plan, spool: Spool, checkpoint: Callable[[], None], copy: Callable[[], _Files], *, keep: bool
) -> _Files:
    meeting = PostDumpHook(spool.folder / ("meeting" if keep else "meeting-closing"))
    plan.criu_config.write_text(plan.criu.for_dump(keep=keep) + meeting.config())
    return meeting.hold(checkpoint, copy)
