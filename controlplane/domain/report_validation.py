"""Whether a worker's word is news, was told before, or is not believed.

A worker is the only witness of what happens on its node, so it is believed about its own containers unless it contradicts
what is recorded, and about nothing else: a node that was broken into must not be able to write the history of another.

Which *life* of the worker speaks does not matter. A report waits in the worker's journal until it is confirmed, possibly
over a restart, and is then late but no less true.
"""

from __future__ import annotations

from controlplane.domain.catalogue import ENTRIES
from controlplane.domain.catalogue.entry import KeyEntry
from controlplane.domain.state import (
    Incarnation,
    KeyState,
    NodeState,
    Snapshot,
    SnapshotStatus,
    State,
    namespace_of,
)
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import (
    CommandFinished,
    DumpFailed,
    NodeRegistered,
    ReportedDumpEvent,
    ReportedStartEvent,
    RestoreFailed,
    SnapshotDeleted,
    SnapshotStored,
)
from woodfrog.protocol.reports import Report


def is_duplicate(state: State, report: Report) -> bool:
    """Whether the report says nothing that is not recorded: it was delivered again, or overtaken by a later word."""
    event = report.event
    if isinstance(event, NodeRegistered):
        return _is_registered(state.nodes.get(event.node), event)
    if isinstance(event, CommandFinished):
        return event.command_id not in state.commands
    key = state.keys.get(event.key, KeyState())
    entry = ENTRIES[type(event)]
    return isinstance(entry, KeyEntry) and entry.is_recorded(key, event)


def _is_registered(node: NodeState | None, event: NodeRegistered) -> bool:
    """Whether a registration is known: by itself, or by what is newer. A heartbeat may have come first, and names no journal."""
    if node is None:
        return False
    if event.worker_id == node.worker_id:
        return event.journal in {"", node.journal}
    return event.worker_id in node.earlier_workers


def rejection_reason(state: State, report: Report) -> str | None:
    """Say why the report is not believed, or ``None``."""
    event = report.event
    if isinstance(event, NodeRegistered):
        if (event.node, event.worker_id) == (report.node, report.worker_id):
            return None
        return f"worker {report.worker_id} of node {report.node} registers another: {event.worker_id} of {event.node}"
    if report.node not in state.nodes:
        return f"node {report.node} is not registered"
    if isinstance(event, CommandFinished):
        return _contradiction_about_command(state, report, event)
    if event.node != report.node:
        return f"node {report.node} reports about node {event.node}"
    if isinstance(event, SnapshotDeleted):
        return _contradiction_about_deletion(state, event)
    if is_of_forgotten_id(state, report):
        return f"{event.key} was forgotten"
    key = state.keys.get(event.key, KeyState())
    return _contradiction(key, event)


def is_of_forgotten_id(state: State, report: Report) -> bool:
    """Whether the report speaks of an id that was let go, and that nothing was started as since.

    Every number up to the floor of a namespace was given before the id with the highest one was forgotten, and an id that the state
    does not know can have had one of those only if it was forgotten as well.
    """
    event = report.event
    if isinstance(event, NodeRegistered | CommandFinished | SnapshotDeleted) or event.key in state.keys:
        return False
    floor = state.floors.get(namespace_of(event.key))
    own = report.node in state.nodes and event.node == report.node
    return own and floor is not None and event.incarnation <= floor


def _contradiction(key: KeyState, event: ReportedStartEvent | ReportedDumpEvent) -> str | None:
    incarnation = key.incarnations.get(event.incarnation)
    if incarnation is None:
        ever = "is long over" if event.incarnation <= key.newest else "was never opened"
        return f"incarnation {event.incarnation} of {event.key} {ever}"
    if incarnation.node not in {None, event.node}:
        return f"incarnation {event.incarnation} of {event.key} is on node {incarnation.node}, not on {event.node}"
    if isinstance(event, ReportedStartEvent):
        return _contradiction_about_incarnation(incarnation, event)
    snapshot = key.snapshots.get(event.snapshot_id)
    return None if snapshot is None else _contradiction_about_snapshot(snapshot, event)


def _contradiction_about_command(state: State, report: Report, event: CommandFinished) -> str | None:
    command = state.commands.get(event.command_id)
    said = (report.node, event.key, event.incarnation)
    if command is None or (command.node, command.key, command.incarnation) == said:
        return None
    return f"command {event.command_id} was given to incarnation {command.incarnation} on node {command.node}"


def _contradiction_about_incarnation(incarnation: Incarnation, event: ReportedStartEvent) -> str | None:
    name = f"incarnation {event.incarnation} of {event.key}"
    if not isinstance(event, RestoreFailed):
        same = incarnation.container_id in {None, event.container_id}
        return None if same else f"{name} is container {incarnation.container_id}, not {event.container_id}"
    asked = event.snapshot_id == incarnation.resumes_from or event.snapshot_id in incarnation.set_aside
    return None if asked else f"{name} was not asked to restore snapshot {event.snapshot_id}"


def _contradiction_about_snapshot(snapshot: Snapshot, event: ReportedDumpEvent) -> str | None:
    if (snapshot.incarnation, snapshot.node) != (event.incarnation, event.node):
        return f"snapshot {event.snapshot_id} is of incarnation {snapshot.incarnation} on node {snapshot.node}"
    failed = snapshot.status is SnapshotStatus.FAILED and not snapshot.journal_gone
    if isinstance(event, SnapshotStored) and failed:
        return f"the dump of snapshot {event.snapshot_id} was reported as failed"
    if isinstance(event, DumpFailed) and snapshot.status.was_stored:
        return f"snapshot {event.snapshot_id} was reported as stored"
    return None


def _contradiction_about_deletion(state: State, event: SnapshotDeleted) -> str | None:
    """Believe a deletion of whoever was told to delete, wherever the snapshot was taken: several nodes may share a store.

    One that is told after its command's deadline is not believed; the snapshot is then deleted once more, in vain.
    """
    snapshot = state.keys.get(event.key, KeyState()).snapshots.get(event.snapshot_id)
    if snapshot is not None and snapshot.status is SnapshotStatus.DELETED:
        return None
    command = state.commands.get(event.command_id)
    told = isinstance(command, DeleteCommand) and (command.node, command.key, command.snapshot_id) == (
        event.node,
        event.key,
        event.snapshot_id,
    )
    return None if told else f"node {event.node} has no open command to delete snapshot {event.snapshot_id}"
