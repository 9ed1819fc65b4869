"""What there is of each id, from two views: its newest container, and the snapshot that its next one is offered first."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

Row = dict[str, Any]

FORGOTTEN: Final = "forgotten"
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


def joined(starts: Iterable[Row], latest: Iterable[Row], *, forgotten: bool = False) -> list[Row]:
    """Join rows of ``restore_history``, oldest first, and of ``latest_snapshots``; one row for each id, by namespace and name.

    With ``forgotten``, the ids are among them that are known no more.
    """
    found: dict[tuple[str, str], Row] = {}
    for start in starts:
        before = found.get((start["namespace"], start["id"]))
        if before is not None and (
            _came_to_nothing(start) or (before["state"] == "running" and state_of(start) == "starting")
        ):
            continue  # the id's container is the one before
        found[start["namespace"], start["id"]] = {
            "namespace": start["namespace"],
            "id": start["id"],
            "state": state_of(start),
            "incarnation": start["incarnation"],
            "node": start["node"],
            "container_id": start["container_id"],
            "exit_code": start["exit_code"],
        }
    for snapshot in latest:
        key = snapshot["namespace"], snapshot["id"]
        row = found.setdefault(key, {"namespace": key[0], "id": key[1], "state": "ended"})
        if row["state"] == FORGOTTEN:  # it was imported since
            row["state"] = "ended"
        row |= {
            "snapshot_id": snapshot["snapshot_id"],
            "captured_at": snapshot["captured_at"],
            "raw_bytes": snapshot["raw_bytes"],
            "stored_bytes": snapshot["stored_bytes"],
            "pinned": bool(snapshot["pinned"]),
        }
    return [found[key] for key in sorted(found) if forgotten or found[key]["state"] != FORGOTTEN]


def state_of(start: Row) -> str:
    """Name the state of an id by its newest row of ``restore_history``, as the page does."""
    if start.get("forgotten_at") is not None:  # a control plane of an older version does not say it
        return FORGOTTEN
    if start["ended_at"] is not None:
        return "ended"
    if start["started_at"] is not None:
        return "running"
    return "waiting" if start["choice"] is None and start["waited_for"] is not None else "starting"


def _came_to_nothing(start: Row) -> bool:
    """Whether a start ended and was not seen to run; the row that says that its id was forgotten counts in any case."""
    return start["ended_at"] is not None and start["started_at"] is None and start.get("forgotten_at") is None


def age(captured_at: str | None, now: datetime) -> str | None:
    """Say how long ago that was, as kubectl does: ``42s``, ``7m``, ``3h``, ``12d``."""
    if captured_at is None:
        return None
    moment = datetime.fromisoformat(captured_at)
    seconds = (now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).total_seconds()
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds // unit:.0f}{name}"
    return f"{max(seconds, 0.0):.0f}s"
