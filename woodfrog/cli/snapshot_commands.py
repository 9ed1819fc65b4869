"""The verbs about one snapshot: pin it, unpin it, set it aside, try it or its storing again, delete it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from woodfrog import client
from woodfrog.cli.context import reach_of
from woodfrog.cli.options import Namespace, Output, StateDir, telling, timeout
from woodfrog.dev_state import Reach
from woodfrog.local import dev
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CommandId, SnapshotId, check_id
from woodfrog.protocol.requests import Noted, SnapshotRequest
from woodfrog.service.printable import printable

SnapshotName = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="The snapshot, as `woodfrog get snapshots` names it.")
]
Because = Annotated[str, typer.Option("--because", help="Why, for the history.", show_default=False)]

_POLL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (pin, unpin, invalidate, retry, delete):
        app.command()(verb)


def _decide(
    wish: Literal["pin", "unpin", "invalidate", "retry", "delete"],
    snapshot: str,
    namespace: str,
    state_dir: Path | None,
    because: str = "",
    *,
    force: bool = False,
) -> tuple[Reach, Noted]:
    reach = reach_of(state_dir)
    request = SnapshotRequest(
        cluster=reach.cluster,
        namespace=check_id(namespace, "--namespace"),
        snapshot_id=SnapshotId(check_id(snapshot, "snapshot")),
        wish=wish,
        because=because,
        force=force,
    )
    return reach, client.decide_about(reach, request)


def _row(reach: Reach, noted: Noted) -> dict[str, Any]:
    rows = client.view(reach, "checkpoint_history", noted.key)
    return next(row for row in rows if row["snapshot_id"] == noted.snapshot_id)


def _put(reach: Reach, noted: Noted, output: Form, line: str) -> None:
    if output is Form.JSON:
        put_json(_row(reach, noted))
    else:
        sys.stdout.write(f"{printable(line)}\n")


def pin(
    snapshot: SnapshotName,
    because: Because = "",
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Keep a snapshot, and have every start resume from it, while it is valid, until it is unpinned."""
    with telling():
        reach, noted = _decide("pin", snapshot, namespace, state_dir, because)
        _put(reach, noted, output, f"{noted.snapshot_id} is pinned: {noted.key.id} resumes from it at every start")


def unpin(
    snapshot: SnapshotName,
    because: Because = "",
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Unpin a snapshot."""
    with telling():
        reach, noted = _decide("unpin", snapshot, namespace, state_dir, because)
        _put(reach, noted, output, f"{noted.snapshot_id} is not pinned")


def invalidate(
    snapshot: SnapshotName,
    because: Annotated[str, typer.Option("--because", help="Why; shown wherever it is passed over.")],
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Never choose a snapshot again, unless it is retried."""
    with telling():
        reach, noted = _decide("invalidate", snapshot, namespace, state_dir, because)
        _put(reach, noted, output, f"{noted.snapshot_id} is never chosen again")


def retry(
    snapshot: SnapshotName,
    because: Because = "",
    timeout_seconds: Annotated[float, timeout("Seconds after which to stop waiting.")] = 60.0,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Have a snapshot chosen again although restoring it has failed, or its container soon ended, or it was invalidated or superseded; or stored, if it is not yet."""
    with telling():
        reach, noted = _decide("retry", snapshot, namespace, state_dir, because)
        line = f"{noted.snapshot_id} is tried again at the next start of {noted.key.id}, if none is newer"
        if noted.command_id is not None:
            _await_store(reach, noted, noted.command_id, timeout_seconds)
            line = f"{noted.snapshot_id} is stored"
        _put(reach, noted, output, line)


def _await_store(reach: Reach, noted: Noted, command_id: CommandId, timeout_seconds: float) -> None:
    """Wait until a node has tried to store a snapshot.

    Raises:
        FailureError: why it is not stored.
    """
    row = client.ended(reach, command_id, timeout_seconds)
    if row["status"] != "succeeded":
        failure = client.failure_of(reach, row)
        advice = f"{failure.advice} The node tries again by itself until the capture is stored."
        raise FailureError(msgspec.structs.replace(failure, advice=advice.lstrip()))
    snapshot = _row(reach, noted)
    if snapshot["status"] == "failed":
        raise FailureError(
            Failure(snapshot["failure_code"], snapshot["failure_cause"], snapshot["failure_advice"] or "")
        )


def delete(
    snapshot: SnapshotName,
    force: Annotated[bool, typer.Option("--force", help="Even if it is the latest valid one of its id.")] = False,
    because: Because = "",
    timeout_seconds: Annotated[float, timeout("Seconds after which to stop waiting.")] = 60.0,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Delete a snapshot from the store; returns when it is gone."""
    with telling():
        reach, noted = _decide("delete", snapshot, namespace, state_dir, because, force=force)
        deadline = time.monotonic() + timeout_seconds
        while _row(reach, noted)["status"] != "deleted":
            if time.monotonic() > deadline:
                cause = f"{noted.snapshot_id} is not chosen any more, but not deleted after {timeout_seconds:g} s"
                advice = "It is tried until it works; `woodfrog get commands` and `get failures` show what happens."
                raise FailureError(Failure("timed-out", cause, advice))
            time.sleep(_POLL_SECONDS)
        _put(reach, noted, output, f"{noted.snapshot_id} is deleted")
