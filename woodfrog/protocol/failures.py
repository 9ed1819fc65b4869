"""A failure as a value: what went wrong, why, and what a person can do about it.

Failures travel in reports, are kept in the log and are shown on pods and in ``woodfrog why``. An exception is how a
failure moves inside one process; this is how it moves between them.
"""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One cause of failure.

    ``code`` is stable and kebab-case (``snapshot-corrupt``, ``disk-full``, ``io-uring``), fit for counting and alerting;
    ``cause`` says in a sentence what happened here; ``advice`` what to do; ``detail`` carries the lines of a tool's log.
    """

    code: str
    cause: str
    advice: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.cause} ({self.code}). {self.advice}"


class FailureError(Exception):
    """Raises a :class:`Failure` through code that cannot go on."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


SNAPSHOT_CORRUPT = "snapshot-corrupt"
"""Stored bytes differ from their digest, are truncated or malformed: proof against the snapshot itself, on any node."""
SNAPSHOT_MISSING = "snapshot-missing"
"""The manifest or an object that it names is not in the store."""

PRIVILEGES_EXCEED = "privileges-exceed"
"""The snapshot's processes hold what the new container does not allow: says nothing about the snapshot, nor about the node."""

VOLUME_CHANGED = "volume-changed"
"""Files that stayed outside of the snapshot are not what its processes take them for: says nothing about the snapshot itself."""

TOLD_CODES = frozenset({PRIVILEGES_EXCEED, VOLUME_CHANGED, "file-changed", "file-missing"})
"""Of restores that failed: those whose cause says all, and stands alone with the reason of the start that took place instead."""

SPOOL_CORRUPT = "spool-corrupt"
"""A capture changed on its node's disk before it was stored."""

NODE_RESTARTED = "node-restarted"
"""A node went down before what was captured there was safe from that."""

NODE_RESET = "node-reset"
"""The state of a node's worker was removed, with every capture that was not stored."""

NODE_FAULTS = frozenset({SPOOL_CORRUPT, NODE_RESTARTED, NODE_RESET})
"""Codes of captures that were lost by a fault of their node: its power, memory or disk."""

CAPTURE_REPLACED = "capture-replaced"
"""A capture was given up that waited for its store, because a newer one of its id waits in its place: nothing is lost."""

QUOTA = "quota"
"""A namespace holds as much as it may; a worker starts the container without protection."""

DATA_KEY_MISSING = "data-key-missing"
"""A snapshot is sealed with a key of its own, which nobody gave to who is to read it."""
CONDEMNING_CODES = frozenset({SNAPSHOT_CORRUPT, SNAPSHOT_MISSING})
"""Codes that invalidate a snapshot at once; any other failure needs a second node's word (design: the selection law)."""

PASSING_CODES = frozenset(
    {
        "address-taken",
        "capability-missing",
        "cgroup-misplaced",
        "config-held",
        "container-gone",
        "criu-missing",
        "criu-unusable",
        DATA_KEY_MISSING,
        "disk-full",
        "file-changed",
        "file-missing",
        "gpu-lost",
        "gpu-out-of-memory",
        "gpu-timeout",
        "images-unreadable",
        "internal",
        "lock-taken",
        "mount-missing",
        "out-of-memory",
        "pid-taken",
        PRIVILEGES_EXCEED,
        "restore-timeout",
        "rootfs-not-overlay",
        "runc-missing",
        "sandbox-gone",
        "security-profile",
        "spool-lost",
        "undo-failed",
        VOLUME_CHANGED,
    }
)
"""Codes of restores that failed because of the place: a file, port, process id, disk or tool of the node, or the container that
went away. They say nothing about the snapshot and may have passed by the next start, which tries it again."""

KUBERNETES_UNREACHABLE = "kubernetes-unreachable"
"""The Kubernetes API does not say where a pod is."""

NODE_BUSY = "node-busy"
"""A node has more questions open than it has places for."""

REPEATED_CODES = frozenset({KUBERNETES_UNREACHABLE, NODE_BUSY})
"""Refusals that say nothing about the container: a worker asks again for as long as its engine waits."""
