"""Waiting for a dump that was asked for, until it is stored; while the store does not take it, the user is shown why."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import msgspec

from woodfrog import client
from woodfrog.cli import unstored_rows
from woodfrog.dev_state import Reach
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.service.printable import printable

_LOOK_SECONDS: Final = 1.0
"""How often is looked whether the store refuses the capture."""
_QUIET_SECONDS: Final = 3.0
"""A dump that takes no longer is not worth a word about how far it is."""


def stored(reach: Reach, key: CheckpointKey, command_id: CommandId, timeout_seconds: float) -> dict[str, Any]:
    """Wait until the command to dump has ended, and return its row of ``commands``.

    Raises:
        FailureError: ``timed-out``, with why the store did not take the capture if that is the reason; or as :func:`client.control`.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    shown = doing = ""
    while True:
        try:
            return client.ended(reach, command_id, min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
        except FailureError as problem:
            if problem.failure.code != "timed-out":
                raise
            late = problem.failure
        rows = client.view(reach, "checkpoint_history", key, command_id)
        passed, now = time.monotonic() - began, _doing(rows)
        if now not in {"", doing} and passed >= _QUIET_SECONDS:
            doing = now
            sys.stderr.write(f"woodfrog: {printable(doing)} ({passed:.0f} s)\n")
        if not shown and (shown := _unstored(reach, key, rows)):
            sys.stderr.write(f"woodfrog: {printable(shown)}\n")
        if time.monotonic() >= deadline:
            break
    cause = f"not stored after {timeout_seconds:g} s"
    if not shown:
        raise FailureError(msgspec.structs.replace(late, cause=cause))
    advice = f"The node tries until the capture is stored; `woodfrog get snapshots {key.id}` shows when it is."
    raise FailureError(msgspec.structs.replace(late, cause=f"{cause}: {shown}", advice=advice))


def _doing(rows: list[dict[str, Any]]) -> str:
    """Say what the node does for the command; nothing once that is over."""
    if not rows:
        return "waiting for the node to begin"
    doing = {"dumping": "is being captured", "captured": "is captured and is being stored"}.get(rows[-1]["status"])
    return "" if doing is None else f"{rows[-1]['snapshot_id']} {doing}"


def _unstored(reach: Reach, key: CheckpointKey, rows: list[dict[str, Any]]) -> str:
    """Describe the command's capture if the store has refused it."""
    if not any(row["status"] == "captured" for row in rows):
        return ""
    for row in unstored_rows.with_delays(rows, client.view(reach, "events", key)):
        if row["not_stored"]:
            return f"{row['snapshot_id']} is captured and not stored, {row['not_stored']}"
    return ""
