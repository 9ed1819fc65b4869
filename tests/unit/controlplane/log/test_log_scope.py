"""Whose events a scope shows, in a database whose locale orders text as people do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, MetaData, Text, create_engine, event

from controlplane.log import pages
from controlplane.log.pages import Scope
from controlplane.log.projections.views import CONTRACT

STREAMS = {
    "checkpoint/lab/team-a/job": "incarnation.opened",
    "checkpoint/lab/team-a/0": "incarnation.opened",
    "checkpoint/lab/team/a-0": "incarnation.opened",
    "checkpoint/lab/team-b/job": "incarnation.opened",
    "node/worker-1": "node.registered",
}


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "connect")
    def _(raw: sqlite3.Connection, _record: object) -> None:
        def plain(text: str) -> tuple[str, str]:
            return "".join(filter(str.isalnum, text)).lower(), text

        raw.create_collation("people", lambda one, other: (plain(one) > plain(other)) - (plain(one) < plain(other)))

    events = CONTRACT["events"].table.to_metadata(MetaData())
    events.c.stream.type = Text(collation="people")
    with engine.connect() as connection:
        events.create(connection)
        for position, (stream, kind) in enumerate(STREAMS.items(), 1):
            put(connection, position, stream, kind)
        yield connection


def put(connection: Connection, position: int, stream: str, kind: str) -> None:
    moment = datetime(2026, 11, 30, tzinfo=UTC)
    connection.execute(
        CONTRACT["events"].table.insert().values(
            position=position, stream=stream, version=1, event_id=str(position), type=kind, schema_version=1,
            data="{}", metadata="{}", occurred_at=moment, recorded_at=moment, hash="",
        )
    )  # fmt: skip


def test_a_namespace_is_all_of_its_streams_and_no_other(connection: Connection) -> None:
    mine = Scope("lab", frozenset({"team-a"}))
    shown = {"checkpoint/lab/team-a/job", "checkpoint/lab/team-a/0"}
    assert {row["stream"] for row in pages.events(connection, mine, [], [], None, 10).rows} == shown
    assert {row["stream"] for row in pages.events_after(connection, mine, [], [], 0, 10)[1]} == shown


def test_of_nodes_the_newest_registrations_are_read_and_the_newest_of_the_rest(connection: Connection) -> None:
    begun = [("node/a", "node.registered"), ("node/a", "node.lost"), ("node/b", "node.registered")]
    for position, (stream, kind) in enumerate([*begun, ("node/a", "node.registered"), ("node/b", "node.lost")], 1):
        put(connection, position + 10, stream, kind)

    def found(until: int, *without: str) -> list[tuple[int, str]]:
        known = pages.registrations(connection, until)
        some = {node: at for node, at in known.items() if node not in without}
        return [(row["position"], row["stream"]) for row in pages.of_nodes(connection, some, until, 1)]

    assert found(10) == [(5, "node/worker-1")]
    assert found(13) == [(5, "node/worker-1"), (11, "node/a"), (12, "node/a"), (13, "node/b")]
    assert found(20) == [(5, "node/worker-1"), (13, "node/b"), (14, "node/a"), (15, "node/b")]
    assert found(20, "b", "worker-1") == [(14, "node/a")], "of others nothing is read"
    assert pages.registrations(connection, 12) == {"worker-1": 5, "a": 11}
