"""Failures that several rooms of the worker meet, worded once: a full disk and a snapshot that proves unusable."""

from __future__ import annotations

import errno

from woodfrog.protocol.failures import SNAPSHOT_CORRUPT, SNAPSHOT_MISSING, SPOOL_CORRUPT, Failure, FailureError
from woodfrog.protocol.wire import shortened

DISK_FULL = "disk-full"
LOCAL_COPY_BROKEN = "local-copy-broken"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def disk_full(where: str, detail: str = "") -> FailureError:
    """Nothing more fits at ``where``: a directory or a store."""
    return FailureError(
        Failure(
            DISK_FULL,
            f"There is no space left at {where}.",
            "Free space there or give it a larger disk; what was half-written has been removed.",
            detail,
        )
    )


def is_disk_full(problem: OSError) -> bool:
    """Tell whether the system refused for want of space or quota."""
    return problem.errno in _FULL


def store_trouble(where: object, problem: OSError) -> FailureError:
    """The file system of a store in a directory does not do what is asked of it; that says nothing about any snapshot."""
    if problem.errno in _REFUSED:
        cause = f"the store at {where} does not allow this: {problem.strerror}"
        advice = "See that its file system is mounted writable and belongs to root, or allows root to write."
        return FailureError(Failure("store-denied", cause, advice, str(problem)))
    cause = f"the store at {where} does not answer as it should: {problem.strerror or problem}"
    advice = "See that the store's file system is mounted on the node and that its server answers."
    return FailureError(Failure("store-unreachable", cause, advice, str(problem)))


def corrupt(cause: str, detail: str = "") -> FailureError:
    """A snapshot's bytes are not what they must be; ``cause`` is a sentence that names the object, and may quote what is in it."""
    return FailureError(
        Failure(
            SNAPSHOT_CORRUPT,
            shortened(cause),
            "The snapshot will not be used again; an older one or a cold start takes its place. Check the store's disk.",
            detail,
        )
    )


def format_unknown(cause: str) -> FailureError:
    """A snapshot is written in a way that this worker cannot read; nothing is wrong with it."""
    return FailureError(
        Failure(
            "snapshot-format-unknown",
            shortened(cause),
            "The snapshot is kept, and left out of this start only. Update the node worker on this node to the version that "
            "wrote it, or start the container on a node that has it.",
        )
    )


def broken_copy(cause: str) -> FailureError:
    """A copy of a snapshot on this node is not what it must be; that says nothing about the snapshot in the store."""
    return FailureError(
        Failure(
            LOCAL_COPY_BROKEN,
            cause,
            "The copy has been dropped and the store is asked instead. Check the node's disk if this happens again.",
        )
    )


def spool_corrupt(cause: str) -> FailureError:
    """A capture that was to be stored has changed on the node's disk; ``cause`` begins with a small letter."""
    return FailureError(Failure(SPOOL_CORRUPT, cause, "Take a new checkpoint, and check the node's disk and memory."))


def spool_lost(cause: str) -> FailureError:
    """A capture that was to be stored is gone, or one that was to be restored here is not what it was; ``cause`` begins with a small letter."""
    return FailureError(
        Failure("spool-lost", cause, "Take a new checkpoint; see who removes files there, and check the node's disk.")
    )


def missing(name: str) -> FailureError:
    """An object that must be there is not."""
    return FailureError(
        Failure(
            SNAPSHOT_MISSING,
            f"The object {name} is not in the snapshot store.",
            "Find out who removed it; an older snapshot or a cold start takes its place.",
        )
    )
