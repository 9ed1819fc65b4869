"""A capture that waits for its store is shown with since when, where and why."""

from __future__ import annotations

from typing import Any

import pytest

from woodfrog.cli.unstored_rows import awaiting, with_delays

pytestmark = pytest.mark.timeout(5)

ROW: dict[str, Any] = {
    "cluster": "local",
    "namespace": "default",
    "id": "job",
    "snapshot_id": "s1",
    "status": "captured",
}


def delayed(snapshot_id: str, code: str) -> dict[str, Any]:
    failure = {"code": code, "cause": "the store does not answer", "advice": "Look."}
    data = {"snapshot_id": snapshot_id, "node": "a", "since": "2026-11-30T01:02:03Z", "failure": failure}
    return {"type": "snapshot.store-delayed", "data": data}


def test_only_what_is_captured_is_asked_about() -> None:
    rows = [ROW, {**ROW, "id": "other", "status": "valid"}]
    assert awaiting(rows) == {("local", "default", "job")}


def test_the_last_reason_is_shown() -> None:
    (row,) = with_delays([ROW], [delayed("s1", "store-denied"), delayed("s2", "x"), delayed("s1", "store-unreachable")])
    assert (
        row["not_stored"] == "since 2026-11-30 01:02:03 on node a only: the store does not answer (store-unreachable)"
    )


def test_what_can_be_restored_on_its_node_meanwhile_is_said() -> None:
    event = delayed("s1", "store-denied")
    event["data"]["manifest_digest"] = "d" * 64
    (row,) = with_delays([ROW], [event])
    assert row["not_stored"].endswith("(store-denied); it can be restored there")


def test_nothing_is_said_of_what_was_stored_since_or_is_just_being_stored() -> None:
    valid = {**ROW, "status": "valid"}
    assert with_delays([valid], [delayed("s1", "store-denied")])[0]["not_stored"] is None
    assert with_delays([ROW], [])[0]["not_stored"] is None
