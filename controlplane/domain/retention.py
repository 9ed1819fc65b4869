"""Retention: which snapshots nobody needs any more, by a policy that somebody set. Without one, every snapshot is kept.

A policy may say three things. *Keep the last N* and *keep for a time* name what is kept: a snapshot stays if either names
it. *Keep so many bytes* is a ceiling on what is kept so: the oldest go first. Snapshots that can never be chosen again
(superseded, invalidated) stay for a while after, for whoever wants to know why, and then go, too.

Whatever a policy says, some snapshots do not expire: the latest valid one of an id, because the next start needs it; the newest
that a container has resumed from, because no other is known to restore; a pinned one; one that a container is being restored from; and one of which it is not settled yet whether it came too late.

A snapshot's age is counted from the moment at which its node said that it was stored. Which one is the *latest* is never
asked of a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import msgspec

from controlplane.domain.state import RULED_OUT, Incarnation, KeyState, Snapshot, SnapshotStatus
from woodfrog.protocol.events import SnapshotExpired
from woodfrog.protocol.ids import CheckpointKey, NodeName, SnapshotId


class Keep(msgspec.Struct, frozen=True):
    """One policy. ``None`` says nothing; a policy that says nothing keeps everything."""

    last: int | None = None
    """How many of the newest valid snapshots of an id are kept, those pinned not counted; at least 1."""
    seconds: float | None = None
    """For how long after it was stored a snapshot is kept."""
    bytes: int | None = None
    """How many stored bytes of an id are kept at most, those of pinned snapshots not counted."""

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return (self.last, self.seconds, self.bytes) != (None, None, None)


class Retention(msgspec.Struct, frozen=True):
    """All policies; the most specific one that says anything holds alone."""

    default: Keep = Keep()
    namespaces: Mapping[str, Keep] = {}
    ids: Mapping[tuple[str, str], Keep] = {}
    """By namespace and id."""
    grace_seconds: float = 600.0
    """How long the bytes of an expired snapshot stay, for readers that may still need them."""
    unusable_seconds: float = 86400.0
    """How long a snapshot that can never be chosen again stays before it expires, where a policy holds."""

    def of(self, key: CheckpointKey) -> Keep:
        """Find the policy that holds for a key."""
        by_id = self.ids.get((key.namespace, key.id))
        return by_id or self.namespaces.get(key.namespace) or self.default


class Expiry(msgspec.Struct, frozen=True):
    """A snapshot that is to expire, and why."""

    snapshot: Snapshot
    reason: str


def expired(name: CheckpointKey, expiry: Expiry, now: datetime, grace_seconds: float) -> SnapshotExpired:
    """Put an expiry into words for the log; its bytes may be removed after ``grace_seconds``."""
    return SnapshotExpired(
        key=name,
        incarnation=expiry.snapshot.incarnation,
        snapshot_id=expiry.snapshot.snapshot_id,
        reason=expiry.reason,
        delete_after=now + timedelta(seconds=grace_seconds),
    )


def expiries(key: KeyState, retention: Retention, keep: Keep, now: datetime) -> list[Expiry]:
    """Say which snapshots of a key expire at ``now`` under ``keep``, oldest first. Pure and total."""
    if not keep:
        return []
    used = in_use(key, now, retention.grace_seconds)
    over: list[Expiry] = []
    rank, kept_bytes = 0, 0
    needed = latest_valid(key), latest_proved(key)
    for snapshot in key.newest_first():
        spared = snapshot.pinned or snapshot.snapshot_id in used
        if snapshot.status in RULED_OUT:
            reason = _unusable(snapshot, retention.unusable_seconds, now)
            if reason is not None and not spared:
                over.append(Expiry(snapshot, reason))
            continue
        if snapshot.status is not SnapshotStatus.VALID or snapshot.missed_by is not None or snapshot.pinned:
            continue
        reason = _too_many(keep, rank, snapshot, now) or _too_large(keep, kept_bytes, snapshot)
        rank += 1
        if reason is None or spared or snapshot in needed:
            kept_bytes += snapshot.stored_bytes
        else:
            over.append(Expiry(snapshot, reason))
    return over[::-1]


def latest_valid(key: KeyState) -> Snapshot | None:
    """Find the snapshot that the law chooses first, pins apart."""
    return next(
        (
            snapshot
            for snapshot in key.newest_first()
            if snapshot.status is SnapshotStatus.VALID and snapshot.missed_by is None
        ),
        None,
    )


def latest_proved(key: KeyState) -> Snapshot | None:
    """Find the newest snapshot that a container has resumed from: the latest one may be the first that fails to restore."""
    return next(
        (
            snapshot
            for snapshot in key.newest_first()
            if snapshot.status is SnapshotStatus.VALID and snapshot.missed_by is None and snapshot.proved
        ),
        None,
    )


def in_use(
    key: KeyState, now: datetime, grace_seconds: float, lost: Collection[NodeName] = ()
) -> frozenset[SnapshotId]:
    """Name the snapshots that containers are being restored from, those on nodes that are ``lost`` not counted.

    A start that has been overtaken by a newer one, and whose end nobody told, counts for ``grace_seconds`` only: it may be
    on a node that will never be heard of again.
    """
    return frozenset(
        start.resumes_from
        for start in key.incarnations.values()
        if start.resumes_from is not None
        and not start.started
        and not start.ended
        and start.node not in lost
        and (
            (overtaken_at := _overtaken_at(key, start)) is None or now < overtaken_at + timedelta(seconds=grace_seconds)
        )
    )


def _overtaken_at(key: KeyState, start: Incarnation) -> datetime | None:
    """Say when the next start was opened. However many follow, what is not in use any more does not come into use again."""
    later = min((number for number in key.incarnations if number > start.number), default=None)
    return None if later is None else key.incarnations[later].opened_at


def _too_many(keep: Keep, rank: int, snapshot: Snapshot, now: datetime) -> str | None:
    if keep.last is None and keep.seconds is None:
        return None
    if keep.last is not None and rank < keep.last:
        return None
    if keep.seconds is not None and not _older(snapshot, keep.seconds, now):
        return None
    said = [f"the last {keep.last}"] if keep.last is not None else []
    said += [f"those of the last {keep.seconds:g} s"] if keep.seconds is not None else []
    return f"the policy keeps {' and '.join(said)}"


def _too_large(keep: Keep, kept_bytes: int, snapshot: Snapshot) -> str | None:
    if keep.bytes is None or kept_bytes + snapshot.stored_bytes <= keep.bytes:
        return None
    return f"the policy keeps {keep.bytes} bytes, newer ones have {kept_bytes} and this one {snapshot.stored_bytes}"


def _unusable(snapshot: Snapshot, unusable_seconds: float, now: datetime) -> str | None:
    if not snapshot.manifest_digest or not _older(snapshot, unusable_seconds, now):
        return None  # what was never stored has nothing to delete
    return f"it has been {snapshot.status} for {unusable_seconds:g} s"


def _older(snapshot: Snapshot, seconds: float, now: datetime) -> bool:
    return snapshot.since is not None and now - snapshot.since >= timedelta(seconds=seconds)
