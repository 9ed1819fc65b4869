"""What node workers say of themselves, in rows that people read: the ``now`` of a node as a few cells."""

from __future__ import annotations

from typing import Any

from woodfrog.protocol import amounts

Row = dict[str, Any]


def flat(row: Row) -> Row:
    """Put what a node's worker said last into cells, in the place of ``now``; ``None`` for what it does not say."""
    status = (row.get("now") or {}).get("status") or {}
    rest = {name: value for name, value in row.items() if name != "now"}
    return rest | {
        "self_test": _self_test(status.get("self_test")),
        "disk": _disk(status.get("disk")),
        "work": _work(status),
    }


def _self_test(test: Row | None) -> str | None:
    if test is None:
        return None
    failure = test.get("failure")
    when = test["at"][:19].replace("T", " ")
    if failure is None:
        return f"passed {when}"
    return f"failed {when} at the step {test.get('step')}: {failure['cause']} ({failure['code']}). {failure['advice']}"


def _disk(disk: Row | None) -> str | None:
    if disk is None:
        return None
    said = f"{amounts.size(disk['free_bytes'])} free of {amounts.size(disk['total_bytes'])}"
    waiting = disk.get("waiting_captures", 0)
    return f"{said}, {waiting} captures wait for the store" if waiting else said


def _work(status: Row) -> str | None:
    items = [f"{each['kind']} {each['key']['namespace']}/{each['key']['id']}" for each in status.get("work", ())]
    more = status.get("more_work", 0)
    return ", ".join([*items, *([f"and {more} more"] if more else [])]) or None
