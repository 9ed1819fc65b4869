"""What must never happen, found in the log: each rule is broken by one event, seen together with the state that it led to.

A leader counts what it commits (``woodfrog_invariant_violations_total``); whoever has the whole log finds the same by folding it
again. None of it is repaired here: a number other than zero is a fault of Woodfrog. What no log can show (a start that hangs, a
program that continues with wrong data) is found by the chaos run, which counts under the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from controlplane.domain import evolve
from controlplane.domain.fresh_starts import left_behind
from controlplane.domain.pods import pod_of
from controlplane.domain.state import Incarnation, KeyState, NodeState, State
from woodfrog.protocol.events import (
    AnyEvent,
    ColdStartChosen,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    KeyEvent,
    RestoreFailed,
    RestoreStage,
)
from woodfrog.protocol.failures import NODE_FAULTS, PASSING_CODES
from woodfrog.protocol.ids import NodeName, SnapshotId


class Rule(StrEnum):
    """The rules, by what breaks them."""

    SILENT_COLD_START = "silent-cold-start"
    """A start from the image that leaves captured or stored work behind, and does not say so."""
    RESTORED_TWICE = "restored-twice"
    """Two containers of an id run that were restored from the same snapshot, on nodes that are heard of, and neither is about to end nor
    does the choice say so."""
    UNRESTORABLE = "valid-but-unrestorable"
    """A valid snapshot that CRIU could not restore, for no reason of the place."""
    LOST_CAPTURE = "lost-capture"
    """The last capture of an ended container that was given up, for another reason than a fault of its node."""
    STUCK_START = "stuck-start"
    """A start that came to no decision. Found by the chaos run only."""
    WRONG_DATA = "wrong-data"
    """A program that did not continue from where its snapshot was taken. Found by the chaos run only."""


class Violation(NamedTuple):
    """One rule that was broken."""

    rule: Rule
    key: str
    about: str


def violated(event: AnyEvent, key: KeyState, nodes: Mapping[NodeName, NodeState]) -> Violation | None:
    """Return which rule an event breaks; ``key`` is its key once it has happened."""
    match event:
        case ColdStartChosen(fresh=False, left=0) if left := left_behind(key, key.snapshots.values()):
            return _violation(Rule.SILENT_COLD_START, event, left[-1].snapshot_id)
        case RestoreFailed(stage=RestoreStage.CRIU) if event.failure.code not in PASSING_CODES:
            return _violation(Rule.UNRESTORABLE, event, event.snapshot_id)
        case DumpFailed(stage=DumpStage.STORE) if event.failure.code not in NODE_FAULTS:
            snapshot = key.snapshots.get(event.snapshot_id)
            return _violation(Rule.LOST_CAPTURE, event, event.snapshot_id) if snapshot and snapshot.final else None
        case ContainerStarted(restored_from=str() as snapshot_id) if _runs_elsewhere(event, key, nodes):
            return _violation(Rule.RESTORED_TWICE, event, snapshot_id)
        case _:
            return None


def found_in(log: Iterable[tuple[AnyEvent, datetime]]) -> list[Violation]:
    """Fold a whole log and return every rule that was broken."""
    state, found = State(), []
    for event, at in log:
        evolve(state, event, at)
        if isinstance(event, KeyEvent):
            one = violated(event, state.keys.get(event.key, KeyState()), state.nodes)
            found += [] if one is None else [one]
    return found


def _runs_elsewhere(event: ContainerStarted, key: KeyState, nodes: Mapping[NodeName, NodeState]) -> bool:
    own = key.incarnations.get(event.incarnation)  # forgotten already, if the batch went on to newer ones
    said = "" if own is None or own.choice is None else own.choice.reason
    others = (
        one
        for number, one in key.incarnations.items()
        if number != event.incarnation
        and one.running
        and f"incarnation {number} " not in said
        and not _is_ending(key, one)
    )
    return any(
        other.resumes_from == event.restored_from
        and other.node is not None
        and other.node in nodes
        and not nodes[other.node].lost
        for other in others
    )


def _is_ending(key: KeyState, start: Incarnation) -> bool:
    """Whether a container runs only until its grace period is over: its last dump has begun, or its pod was asked to end."""
    pod = pod_of(key, start)
    told = pod is not None and (pod.terminating_at is not None or pod.gone_at is not None)
    return told or any(dump.final and dump.incarnation == start.number for dump in key.snapshots.values())


def _violation(rule: Rule, event: KeyEvent, snapshot_id: SnapshotId) -> Violation:
    return Violation(rule, str(event.key), f"incarnation {event.incarnation}, snapshot {snapshot_id}")
