"""The log's SQL-side fold and the domain's fold say the same, whatever order events come in."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logstory import KEY, NODE_A, NODE_B, ONE, START, WORKER_A, new, story

from controlplane.domain.evolve import evolve
from controlplane.domain.state import Restore, SnapshotStatus, State
from controlplane.log.projections.fold import Rows, fold
from controlplane.log.records import NewEvent, Recorded
from controlplane.log.schema import commands, incarnations, nodes, snapshots
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import (
    CommandFinished,
    CommandIssued,
    DumpFailed,
    DumpStage,
    NodeLost,
    NodeRegistered,
    Outcome,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotPinned,
    SnapshotStored,
    SnapshotUnpinned,
    stream_of,
)
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import NODE_RESET, Failure
from woodfrog.protocol.ids import CommandId, Position, Version, WorkerId

pytestmark = pytest.mark.timeout(60)

SNAPSHOT = next(one.event.snapshot_id for one in story() if isinstance(one.event, SnapshotStored))
ABOUT: dict[str, Any] = {"key": KEY, "incarnation": ONE, "snapshot_id": SNAPSHOT}
DELETE = DeleteCommand(CommandId("delete-1"), NODE_B, KEY, ONE, SNAPSHOT, START, START)
LATER_WORKER = WorkerId("worker-a-again")
TOLD = [
    *story(),
    new(NodeRegistered(node=NODE_A, worker_id=LATER_WORKER, boot_id="boot", facts=NodeFacts())),
    new(NodeLost(node=NODE_A, worker_id=LATER_WORKER, silent_seconds=20.0)),
    new(NodeLost(node=NODE_A, worker_id=WORKER_A, silent_seconds=20.0)),
    *(
        new(DumpFailed(**ABOUT, node=NODE_A, stage=DumpStage.STORE, failure=Failure(code, "It is gone.", "Wait.")))
        for code in (NODE_RESET, "criu-failed")
    ),
    new(SnapshotPinned(**ABOUT)),
    new(SnapshotUnpinned(**ABOUT)),
    new(SnapshotExpired(**ABOUT, reason="the policy keeps the last 1", delete_after=START)),
    new(CommandIssued(key=KEY, incarnation=ONE, command=DELETE)),
    new(SnapshotDeleted(**ABOUT, node=NODE_B, command_id=DELETE.command_id)),
    new(CommandFinished(key=KEY, incarnation=ONE, command_id=DELETE.command_id, outcome=Outcome.SUCCEEDED)),
]


def both_folds(told: list[NewEvent]) -> tuple[State, Rows]:
    state, rows = State(), Rows()
    for position, one in enumerate(told, start=1):
        evolve(state, one.event, one.occurred_at)
        fold(
            rows,
            Recorded(
                position=Position(position),
                stream=stream_of(one.event),
                version=Version(position),
                event_id=UUID(int=position),
                event=one.event,
                metadata=one.metadata,
                occurred_at=one.occurred_at,
                recorded_at=one.occurred_at,
                hash="",
            ),
        )
    return state, rows


@settings(max_examples=300, deadline=None)
@given(order=st.permutations(TOLD), length=st.integers(0, len(TOLD)))
def test_both_folds_say_the_same_of_any_events_in_any_order(order: list[NewEvent], length: int) -> None:
    state, rows = both_folds(order[:length])
    told = state.keys.get(KEY)

    said = {} if told is None else told.snapshots
    by_name = {row["snapshot_id"]: row for row in rows.tables[snapshots].values()}
    assert {name: (row["status"], row["incarnation"], row["node"]) for name, row in by_name.items()} == {
        name: (snapshot.status, snapshot.incarnation, snapshot.node) for name, snapshot in said.items()
    }
    assert {name: (bool(row["pinned"]), row["delete_after"]) for name, row in by_name.items()} == {
        name: (snapshot.pinned, snapshot.delete_after) for name, snapshot in said.items()
    }
    ranked = sorted(by_name.values(), key=lambda row: (row["incarnation"], row["position"]), reverse=True)
    assert [row["snapshot_id"] for row in ranked if row["status"] == "valid"] == [
        snapshot.snapshot_id
        for snapshot in ([] if told is None else told.newest_first())
        if snapshot.status is SnapshotStatus.VALID
    ]

    for row in rows.tables[incarnations].values():
        assert told is not None
        start = told.incarnations[row["incarnation"]]
        choice = "restored" if isinstance(start.choice, Restore) else None if start.choice is None else "cold"
        assert (row["choice"], row["deferred_until"]) == (choice, start.wait_until)
        assert start.started or row["started_at"] is None  # the domain takes a dump for a start, too
        assert (row["ended_at"] is not None) == start.ended

    assert {row["node"]: (row["worker_id"], row["status"] == "lost") for row in rows.tables[nodes].values()} == {
        name: (node.worker_id, node.lost) for name, node in state.nodes.items()
    }
    assert {row["command_id"] for row in rows.tables[commands].values() if row["status"] == "open"} == set(
        state.commands
    )
