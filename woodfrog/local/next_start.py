"""What the next container of an id resumes from, said when one has ended: a promise that must hold.

A snapshot that was just captured is not always what comes next: another container of the id may have started meanwhile, another
snapshot may be pinned, or this one is not stored yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def is_settled(captured_as: str, history: Sequence[Row]) -> bool:
    """Whether the log knows what became of the snapshot; ``history`` is the id's ``checkpoint_history``."""
    return any(row["snapshot_id"] == captured_as and row["status"] not in {"dumping", "captured"} for row in history)


def after_capture(
    checkpoint_id: str, captured_as: str, history: Sequence[Row], latest: Sequence[Row], starts: Sequence[Row] = ()
) -> str:
    """Say it after a final snapshot; ``latest`` is the id's row of ``latest_snapshots``, if it has one, and ``starts`` its ``restore_history``."""
    captured = f"captured as {captured_as}"
    own = next((row for row in history if row["snapshot_id"] == captured_as), None)
    status = None if own is None else own["status"]
    pinned = next((row["snapshot_id"] for row in latest if row["pinned"]), None)
    if own is not None and status == "superseded":
        return f"{captured}, too late: the start of incarnation {own['superseded_by']} of {checkpoint_id} was decided without it{_then(checkpoint_id, latest)}; `woodfrog pin {captured_as}` goes back to this one"
    if own is not None and status == "failed":
        cause = f"{own['failure_cause']} ({own['failure_code']}). {own['failure_advice']}"
        return f"{captured}, and lost: {cause}{_then(checkpoint_id, latest)}"
    if pinned is not None and pinned != captured_as:
        return f"{captured}; but {checkpoint_id} resumes from {pinned}, which is pinned (`woodfrog unpin {pinned}`)"
    rival = None if own is None else next((start for start in starts if _is_told_without(start, own)), None)
    if rival is not None:
        return (
            f"{captured}; but incarnation {rival['incarnation']} of {checkpoint_id} is being created without it on node "
            f"{rival['node']}: this snapshot is passed over once that one runs, or another start comes after it"
        )
    if status != "valid":
        where = "on this node, or anywhere once it is stored,"
        return f"{captured}, not stored yet; run {checkpoint_id} again {where} and it resumes from there"
    return f"{captured}; run {checkpoint_id} again and it resumes from there"


def _is_told_without(start: Row, snapshot: Row) -> bool:
    """Whether a later start that does not run yet was told how to start before this snapshot was there."""
    later = start["incarnation"] > snapshot["incarnation"] and start["snapshot_id"] != snapshot["snapshot_id"]
    return later and start["choice"] is not None and start["started_at"] is None and start["ended_at"] is None


def after_start(
    checkpoint_id: str, reason: str, restored_from: str | None, left: int, warnings: Sequence[str] = ()
) -> list[str]:
    """Say how a container started and why, and in lines of their own what is to be known of that."""
    how = f"resumes from {restored_from}" if restored_from else "starts from its image"
    lines = [f"{how}: {reason}"]
    if left:
        what = f"{left} {'newer ' if restored_from else ''}snapshot{'s' * (left != 1)} with captured work"
        lines.append(f"warning: {what} left behind; `woodfrog get snapshots {checkpoint_id}` lists what there is")
    return lines + [f"warning: {each}" for each in warnings]


def after_refusal(checkpoint_id: str, reason: str, latest: Sequence[Row]) -> str:
    """Say it after a stop for which there is no snapshot, because of ``reason``."""
    return f"no final snapshot: {reason.rstrip('.')}{_then(checkpoint_id, latest)}"


def _then(checkpoint_id: str, latest: Sequence[Row]) -> str:
    newest = next((row["snapshot_id"] for row in latest), None)
    how = f"resumes from {newest}" if newest else "starts from its image"
    return f"; the next start of {checkpoint_id} {how}"
