"""What the control plane needs to know of one type of event, in one place.

An event means something to several at once: it changes the state that decisions are made from and a row of the tables behind
the views, it may be shown on its pod, and a worker that reports it twice must be recognised. Kept in a module each, these parts
drift apart, and whoever adds an event has to find them all. So each event has an entry, in the module of its subject.

All of it is pure: rows are dictionaries by the names of their columns, and which tables there are is known in
:mod:`controlplane.log.projections`. ``row`` returns the columns that change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from controlplane.domain.draft import Draft
from controlplane.domain.state import Incarnation, KeyState, NodeState, Snapshot, SnapshotStatus
from woodfrog.protocol.events.base import AboutKey, AboutNode, AboutSnapshot, EventBase
from woodfrog.protocol.failures import Failure

Row = dict[str, Any]

E = TypeVar("E", bound=EventBase)
K = TypeVar("K", bound=AboutKey)
S = TypeVar("S", bound=AboutSnapshot)
N = TypeVar("N", bound=AboutNode)


class Note(msgspec.Struct, frozen=True):
    """What is shown of an event on its pod."""

    reason: str
    action: str
    text: str
    warning: bool = False
    frequent: bool = False
    """Whether it may come every few seconds; then it is shown once a minute."""


class Known(msgspec.Struct, frozen=True):
    """What is known when an event is shown."""

    at: datetime
    key: KeyState | None
    freeze_seconds: float | None = None
    """How long the container stood still for the event's snapshot."""


class Entry(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """One type of event. With nothing else than this it changes no state and no row."""

    event: type[E]
    note: Callable[[E, Known], Note | None] | None = None
    records_failure: bool = False
    """Whether its failure, if it has one, is a row of the view ``failures``."""


class NodeEntry(Entry[N], frozen=True, kw_only=True):
    """An event of a node."""

    state: Callable[[NodeState, N, datetime], NodeState]
    row: Callable[[N, datetime], Row] | None = None
    """Of the worker that the row is about; an event of an earlier one changes nothing."""
    begins: bool = False
    """Whether the node's row begins with it."""


def _nothing(_draft: Draft, _event: AboutKey, _at: datetime) -> None:
    pass


class KeyEntry(Entry[K], frozen=True, kw_only=True):
    """An event of a key."""

    state: Callable[[Draft, K, datetime], None] = _nothing
    housekeeping: bool = False
    """Whether it happens to a key that nobody uses."""
    moves_bytes: bool = False
    """Whether a key may have other bytes in the store after it, as far as it is remembered."""
    command_row: Callable[[Row | None, K, datetime], Row] | None = None
    """What changes in the row of its command; there may be none yet."""

    def fold(self, draft: Draft, event: K, at: datetime) -> None:
        """Take the event into its key."""
        self.state(draft, event, at)

    def is_recorded(self, _key: KeyState, _event: K) -> bool:
        """Return whether the key shows that the event is recorded."""
        return False


class StartEntry(KeyEntry[K], frozen=True, kw_only=True):
    """An event of an incarnation, which has a row."""

    row: Callable[[Row, K, datetime], Row]
    begins: bool = True
    """Whether the incarnation's row begins with it, if there is none: it says that a container was started."""
    shown_by: Callable[[Incarnation, K], bool] | None = None
    """Whether the incarnation shows that it is recorded; of what workers report."""

    def is_recorded(self, key: KeyState, event: K) -> bool:
        """Return whether the event's incarnation shows that it is recorded."""
        incarnation = key.incarnations.get(event.incarnation)
        return incarnation is not None and self.shown_by is not None and self.shown_by(incarnation, event)


class SnapshotEntry(KeyEntry[S], frozen=True, kw_only=True):
    """An event of a snapshot, which has a row."""

    status: SnapshotStatus | None = None
    """To which the snapshot moves by it, in the state and in its row; never back."""
    changes: Callable[[Draft, S, datetime], dict[str, Any]] | None = None
    """What changes in the snapshot beside its status; without it ``state`` is all that happens in the state."""
    row: Callable[[Row, S, datetime], Row]
    shown_by: Callable[[Snapshot, S], bool] | None = None
    """Whether the snapshot shows that it is recorded; of what workers report."""

    def fold(self, draft: Draft, event: S, at: datetime) -> None:
        """Take the event into its key."""
        if self.changes is None:
            self.state(draft, event, at)
        else:
            draft.move(event, at, self.status, **self.changes(draft, event, at))

    def is_recorded(self, key: KeyState, event: S) -> bool:
        """Return whether the event's snapshot shows that it is recorded."""
        snapshot = key.snapshots.get(event.snapshot_id)
        return snapshot is not None and self.shown_by is not None and self.shown_by(snapshot, event)


def failure_columns(failure: Failure | None) -> Row:
    """Return the columns of a failure; NULL if there is none."""
    if failure is None:
        return {"failure_code": None, "failure_cause": None, "failure_advice": None}
    return {"failure_code": failure.code, "failure_cause": failure.cause, "failure_advice": failure.advice}
