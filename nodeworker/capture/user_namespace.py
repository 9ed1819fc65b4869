"""Containers in user namespaces: what CRIU needs for them, and what it cannot do.

CRIU restores a container's user namespace by making one with the same mapping, and reads its images as the root user of it,
who is another user of the node's. It cannot restore into a user namespace that is there already, as the containers of a pod
with ``hostUsers: false`` have: it makes one in any case, and the pod's network namespace cannot be entered from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nodeworker.domain import criu_failures
from nodeworker.errors import refusal
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.procfs import named


def let_in(images: Path) -> None:
    """Let any user read CRIU's images, if it can reach them: the directory above must be private."""
    for folder, _, files in os.walk(images):
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 -- os.walk gives text; the directory above is private
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)  # noqa: PTH101, PTH118 -- as above


def refuse_unrestorable(*, joins: bool, idmapped: Iterable[str]) -> None:
    """Refuse what could be dumped and not restored as it was.

    Args:
        joins: whether the container is in a user namespace that it did not make, as those of a pod are.
        idmapped: where its idmapped mounts are. CRIU mounts what a runtime mounts without the mapping.

    Raises:
        FailureError: ``user-namespace``, or ``idmapped-mount``, naming the first.
    """
    if joins:
        row = criu_failures.rule("user-namespace")
        cause = (
            "the container is in the user namespace of its pod, and CRIU cannot restore it into the one of another pod"
        )
        raise FailureError(Failure(row.code, cause, row.advice))
    for place in idmapped:
        cause = f"the mount at {place} is idmapped, and CRIU would restore it without the mapping"
        raise refusal(
            "idmapped-mount", cause, "Mount it without idmap, and let its files belong to the container's users."
        )


def refuse_nested(pids: Iterable[int], first: int) -> None:
    """Refuse processes that are in another user namespace than the container's first one.

    Raises:
        FailureError: ``nested-namespaces``, naming the process.
    """
    own = _user_namespace(first)
    for pid in pids:
        if own is not None and _user_namespace(pid) not in {own, None}:
            row = criu_failures.rule("nested-namespaces")
            cause = f"{named(pid)} is in a user namespace of its own"
            raise FailureError(Failure(row.code, cause, row.advice))


def _user_namespace(pid: int) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/user").readlink())
    return None
