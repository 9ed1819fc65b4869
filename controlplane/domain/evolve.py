"""The fold: how one event changes what is known, and the only thing that changes it.

What an event changes stands in its entry in :mod:`controlplane.domain.catalogue`; here is how that is carried out.

Total by design. The log is the truth, so whatever stands in it has happened; a fold that raised on an odd order of
events would keep the control plane from starting at the very moment when somebody needs to look into the log. What is
unknown is opened as far as the event tells, and what is settled is not unsettled by a word that comes late. Whether a
report is *believed* is asked before it is recorded, in :mod:`controlplane.domain.decide`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from controlplane.domain.catalogue import ENTRIES
from controlplane.domain.catalogue.commands import follow
from controlplane.domain.catalogue.entry import KeyEntry, NodeEntry
from controlplane.domain.draft import Draft
from controlplane.domain.state import KeyState, NodeState, State, count_usage, namespace_of
from woodfrog.protocol.events import AnyEvent, CheckpointForgotten, KeyEvent
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber

_NOTHING = KeyState()


def evolve(state: State, event: AnyEvent, at: datetime) -> None:
    """Take ``event``, which occurred ``at``, into ``state``. Never raises, whatever came before.

    What a newer release wrote and this one does not understand changes nothing.
    """
    entry: Any = ENTRIES.get(type(event))
    if isinstance(entry, KeyEntry):
        _evolve_key(state, entry, event, at)
    elif isinstance(entry, NodeEntry):
        _evolve_node(state, entry, event, at)


def key_after(key: KeyState, event: KeyEvent, at: datetime) -> KeyState:
    """Say how the key stands once ``event`` has happened; ``key`` itself stays as it is."""
    entry: Any = ENTRIES[type(event)]
    draft = Draft.of(key)
    if isinstance(entry, KeyEntry):
        _take(draft, entry, event, at)
    return draft.ended()


class Replay:
    """Many events taken into one state, for whoever owns it alone: ends as :func:`evolve` would, in half the time.

    A key that is met is copied once and changed in place until :meth:`end`; nothing may be read from the state before.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._drafts: dict[CheckpointKey, Draft] = {}

    def take(self, event: AnyEvent, at: datetime) -> None:
        """Do as :func:`evolve`."""
        entry: Any = ENTRIES.get(type(event))
        if isinstance(entry, KeyEntry):
            self._take_key(entry, event, at)
        elif isinstance(entry, NodeEntry):
            _evolve_node(self._state, entry, event, at)

    def _take_key(self, entry: KeyEntry[Any], event: Any, at: datetime) -> None:
        follow(self._state.commands, event)
        draft = self._drafts.get(event.key)
        if isinstance(event, CheckpointForgotten):
            self._drafts.pop(event.key, None)
            _forget(self._state, event, None if draft is None else draft.ended())
            return
        if draft is None:
            draft = self._drafts[event.key] = Draft.of(self._state.keys.get(event.key, _NOTHING))
        _take(draft, entry, event, at)

    def end(self) -> State:
        """Give the state back; nothing more can be taken."""
        keys = self._state.keys
        while self._drafts:  # each goes as its value comes, so that they are not all there twice
            key, draft = self._drafts.popitem()
            keys[key] = draft.ended()
        self._state.usage.clear()
        for key, ended in keys.items():
            count_usage(self._state.usage, key, None, ended)
        return self._state


def _evolve_key(state: State, entry: KeyEntry[Any], event: Any, at: datetime) -> None:
    follow(state.commands, event)
    before = state.keys.get(event.key)
    if isinstance(event, CheckpointForgotten):
        _forget(state, event, before)
        return
    draft = Draft.of(before or _NOTHING)
    _take(draft, entry, event, at)
    after = state.keys[event.key] = draft.ended()
    if entry.moves_bytes or bool(after.incarnations) != (before is not None and bool(before.incarnations)):
        count_usage(state.usage, event.key, before, after)


def _evolve_node(state: State, entry: NodeEntry[Any], event: Any, at: datetime) -> None:
    known = state.nodes.get(event.node) or NodeState(worker_id=event.worker_id)
    state.nodes[event.node] = entry.state(known, event, at)


def _forget(state: State, event: CheckpointForgotten, key: KeyState | None) -> None:
    """Drop a key, and keep that its numbers were given."""
    known = key or state.keys.get(event.key)
    newest = max(event.incarnation, IncarnationNumber(0) if known is None else known.newest)
    namespace = namespace_of(event.key)
    state.floors[namespace] = max(newest, state.floors.get(namespace, newest))
    count_usage(state.usage, event.key, state.keys.pop(event.key, None), None)


def _take(draft: Draft, entry: KeyEntry[Any], event: Any, at: datetime) -> None:
    if not entry.housekeeping and (draft.used_at is None or at > draft.used_at):
        draft.used_at = at
    entry.fold(draft, event, at)
    draft.forget()
