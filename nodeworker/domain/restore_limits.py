"""Why a restore was killed that did not come to an end, as the runtime says it (nodeworker/runtime/restore_process.py)."""

from __future__ import annotations

from woodfrog.protocol.failures import Failure


def killed(message: str) -> Failure | None:
    """Return the failure that a message of the runtime is about, or ``None`` if the restore ended by itself."""
    code, _, detail = message.partition(": ")
    if code == "lock-taken":
        return Failure(
            "lock-taken",
            f"the restored processes held a file lock that another process holds now: {detail}",
            "Let the holder of the lock end, then start the container again.",
        )
    if code == "restore-timeout":
        return Failure(
            "restore-timeout",
            f"the restore did not come to an end: {detail}",
            "See what slows the node down, or raise the annotation woodfrog.io/restore-limit or WOODFROG_RESTORE_LIMIT.",
        )
    return None
