"""Whether a snapshot that somebody brings from elsewhere is taken into the log.

Nothing of it may cost the work that the id has here. While a container of the id runs, or its last dump is on its way, an import is
refused: what that container stores afterwards would come too late. Whoever wants both gives the import another id.
"""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.decision_builder import DecisionBuilder, refuse
from controlplane.domain.inputs import Decision, ImportAsked, Policy
from controlplane.domain.quotas import no_new_id, over_bytes
from controlplane.domain.state import KeyState, State, namespace_of
from controlplane.domain.under_way import under_way
from woodfrog.protocol.events import SnapshotImported
from woodfrog.protocol.ids import IncarnationNumber
from woodfrog.protocol.requests import Noted, Refusal


def take_in(state: State, asked: ImportAsked, now: datetime, policy: Policy) -> Decision:
    """Record the snapshot as valid, or say what speaks against it."""
    request = asked.request
    key = state.keys.get(request.key, KeyState())
    noted = Noted(key=request.key, snapshot_id=request.snapshot_id)
    known = key.snapshots.get(request.snapshot_id)
    if known is not None and known.manifest_digest == request.manifest_digest:
        return Decision(answer=noted)
    if known is not None:
        return refuse(
            "snapshot-known",
            f"{request.key} has another snapshot {request.snapshot_id} already",
            "Import it again: it is given another name.",
        )
    quota = no_new_id(state, request.key, policy.quotas) or over_bytes(state, request.key, policy.quotas)
    if quota is not None:
        return Decision(answer=Refusal(failure=quota))
    advice = "import again, or import under another id with --id"
    if (busy := under_way(state, request.key, key, now, advice=advice)) is not None:
        return Decision(answer=Refusal(failure=busy))
    if request.only_check:
        return Decision(answer=noted)
    newest = key.newest or state.floors.get(namespace_of(request.key), key.newest)
    course = DecisionBuilder(key, now)
    course.record(
        SnapshotImported(
            key=request.key,
            incarnation=IncarnationNumber(newest + 1),
            snapshot_id=request.snapshot_id,
            origin=request.origin,
            manifest_digest=request.manifest_digest,
            raw_bytes=request.raw_bytes,
            stored_bytes=request.stored_bytes,
            taken_at=request.taken_at,
            taken_on=request.taken_on,
            taken_from=request.taken_from,
            reason=request.because,
        )
    )
    return course.decision(noted)
