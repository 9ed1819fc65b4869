"""Captures that their nodes hold because the store does not take them: since when, and why, added to the rows of snapshots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.describe import moment

Row = dict[str, Any]


def awaiting(rows: Iterable[Row]) -> set[tuple[str, str, str]]:
    """Return the keys, as cluster, namespace and id, that have captures which are not stored."""
    return {(row["cluster"], row["namespace"], row["id"]) for row in rows if row["status"] == "captured"}


def with_delays(rows: Iterable[Row], events: Iterable[Row]) -> list[Row]:
    """Add ``not_stored`` to the rows of ``checkpoint_history``: what ``events`` say of those that are captured, else nothing."""
    delays: dict[str, str] = {}
    for event in events:
        if event["type"] == "snapshot.store-delayed":
            data = event["data"]
            failure = data["failure"]
            since = f"since {moment(data['since'])} on node {data['node']} only"
            meanwhile = "; it can be restored there" if data.get("manifest_digest") else ""
            delays[data["snapshot_id"]] = f"{since}: {failure['cause']} ({failure['code']}){meanwhile}"
    return [
        {**row, "not_stored": delays.get(row["snapshot_id"]) if row["status"] == "captured" else None} for row in rows
    ]
