"""How starts ended, and what that says about where the next one begins.

A program that dies a minute after each restore would be restored for ever, into the same death: a session on the other side has
expired, a file that it counted on is gone. And one that has done its work and ended with exit code 0 would be put back into
its past by the next container of its id, and do the last part of it twice.

Only ends that the program chose count. One that was asked to stop, killed, or lost with its node says nothing about its snapshot:
a node that is taken back twice within a minute must not cost the work. Where nobody knows the exit code, as under Docker and
Podman, nothing is concluded.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from controlplane.domain.draft import Draft
from controlplane.domain.pods import pod_of
from controlplane.domain.state import Incarnation, KeyState, Snapshot
from woodfrog.protocol.ids import IncarnationNumber

RESTORE_TRIES: Final = 2
"""After how many short lives in a row a snapshot is passed over."""
SHORT_LIFE_SECONDS: Final = 300.0
"""A container that went on for longer was not killed by its restore."""

_STOPPED_BY_SIGNAL: Final = frozenset({128 + 1, 128 + 2, 128 + 3, 128 + 9, 128 + 15})
"""Exit codes of SIGHUP, SIGINT, SIGQUIT, SIGKILL and SIGTERM: somebody wanted it to end."""


def is_done(key: KeyState, start: Incarnation) -> bool:
    """Whether the start's program has done its work: it ended with exit code 0 and nobody had asked it to stop."""
    return start.exit_code == 0 and _chose_to_end(key, start)


def note_done(draft: Draft, number: IncarnationNumber) -> None:
    """Take in that a start has ended, if its program has done its work."""
    if is_done(draft.ended(), draft.incarnations[number]):
        draft.done_through = max(draft.done_through, number)


def short_lives(key: KeyState, snapshot: Snapshot) -> list[Incarnation]:
    """List the last starts in a row that resumed from the snapshot and soon failed by themselves, the newest first."""
    found = []
    for start in sorted(key.incarnations.values(), key=lambda start: start.number, reverse=True):
        if start.number <= snapshot.retried_at:
            break
        if not start.ended or start.resumes_from != snapshot.snapshot_id:
            continue
        if _failed_by_itself(key, start):
            if not _lived_shortly(start):
                break
            found.append(start)
    return found


def _failed_by_itself(key: KeyState, start: Incarnation) -> bool:
    if start.exit_code in {None, 0} or not _chose_to_end(key, start):
        return False
    return start.out_of_memory or start.exit_code not in _STOPPED_BY_SIGNAL


def _chose_to_end(key: KeyState, start: Incarnation) -> bool:
    if not start.ended or start.stopped is not False:
        return False
    pod = pod_of(key, start)
    return (
        pod is None
        or pod.terminating_at is None
        or (start.ended_at is not None and start.ended_at < pod.terminating_at)
    )


def _lived_shortly(start: Incarnation) -> bool:
    if start.started_at is None or start.ended_at is None:
        return False
    return start.ended_at - start.started_at < timedelta(seconds=SHORT_LIFE_SECONDS)
