"""The verb ``forget``: an id, with everything that is stored of it, is gone for good."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Final

import typer

from woodfrog import client
from woodfrog.cli.context import reach_of
from woodfrog.cli.options import Id, Namespace, Output, StateDir, key_of, telling, timeout
from woodfrog.cli.snapshot_commands import Because
from woodfrog.dev_state import Reach
from woodfrog.local import dev
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.requests import ForgetRequest

_POLL_SECONDS: Final = 0.5


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(forget)


def forget(
    checkpoint_id: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the next start would resume from one of its snapshots.")
    ] = False,
    because: Because = "",
    timeout_seconds: Annotated[float, timeout("Seconds after which to stop waiting.")] = 60.0,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Delete every snapshot of an id and forget the id; returns when the store holds nothing of it. Its history stays in the log."""
    with telling():
        reach = reach_of(state_dir)
        key = key_of(reach, checkpoint_id, namespace)
        request = ForgetRequest(key=key, because=because, force=force)
        deadline = time.monotonic() + timeout_seconds
        deleted = left = client.forget(reach, request).left
        while left:
            if time.monotonic() > deadline:
                cause = f"{left} of {deleted} snapshots of {key.id} are not deleted after {timeout_seconds:g} s"
                advice = (
                    "They are tried until it works (`woodfrog get commands`, `get failures`); then forget the id again."
                )
                raise FailureError(Failure("timed-out", cause, advice))
            time.sleep(_POLL_SECONDS)
            left = _left(reach, request)
        if output is Form.JSON:
            put_json({"namespace": key.namespace, "id": key.id, "deleted": deleted})
        else:
            snapshots = f"{deleted} snapshot{'s' * (deleted != 1)}"
            sys.stdout.write(f"{key.id} is forgotten, {snapshots} deleted: its next start is that of a new id\n")


def _left(reach: Reach, request: ForgetRequest) -> int:
    """Ask how much is left, once the id was known; if it is not any more, somebody else has had it forgotten meanwhile."""
    try:
        return client.forget(reach, request).left
    except FailureError as problem:
        if problem.failure.code == "unknown-id":
            return 0
        raise
