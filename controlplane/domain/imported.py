"""How a snapshot that was brought from elsewhere becomes one of its id's: the fold of its event.

It has an incarnation of its own, one that has started and ended elsewhere. So it is newer than everything that the id did here, also
than an end with exit code 0 or a fresh start, and the next start resumes from it as from any other; what an earlier container would
still store comes too late.
"""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.draft import Draft, shared, with_shared_privileges
from controlplane.domain.state import SnapshotStatus
from woodfrog.protocol.events import SnapshotImported


def take(draft: Draft, event: SnapshotImported, at: datetime) -> None:
    """Take the snapshot in, as a valid one."""
    draft.start(event.incarnation, started=True, ended=True, opened_at=at, started_at=at, ended_at=at)
    draft.latest_start = max(draft.latest_start, event.incarnation)
    draft.move(
        event,
        at,
        SnapshotStatus.VALID,
        manifest_digest=event.manifest_digest,
        stored_bytes=event.stored_bytes,
        taken_on=shared(event.taken_on),
        taken_from=with_shared_privileges(event.taken_from),
    )
