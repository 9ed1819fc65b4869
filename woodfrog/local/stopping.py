"""Stopping a container that ``woodfrog run`` has started: with a final snapshot, or else by its stop signal."""

from __future__ import annotations

import time
from contextlib import suppress

import msgspec

from woodfrog import client
from woodfrog.dev_state import Description
from woodfrog.local.oci_runtime import STOP_SECONDS, Runtime
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId
from woodfrog.protocol.runtime_api import ContainerStatus, NotDumped, StopRequest

_TELL_SECONDS = 3.0
_POLL_SECONDS = 0.1


def uncaptured(described: Description, container_id: ContainerId) -> Failure | None:
    """Take a container's final dump, which ends it; return why there is none. Takes as long as the dump."""
    try:
        answer = client.worker(described.socket, StopRequest(container_id=container_id), seconds=STOP_SECONDS)
    except FailureError as problem:
        return problem.failure
    return answer.failure if isinstance(answer, NotDumped) else None


class StoppedContainer(msgspec.Struct, frozen=True):
    """What became of a container that was stopped."""

    container_id: ContainerId
    captured_as: str | None
    """Its final snapshot; None where there is none, or none was heard of in time."""
    ended: bool = True
    why_not: str = ""
    """Why there is no final snapshot."""


def stop(
    described: Description, key: CheckpointKey, *, timeout_seconds: float, kill: bool = False
) -> list[StoppedContainer]:
    """Stop every running container of a key as an engine would: with a final dump, or else by its stop signal.

    One that cannot be captured has ``timeout_seconds`` to end; then it is killed if ``kill`` says so, else it runs on.

    Raises:
        FailureError: ``not-running`` when there is none, or what the runtime says.
    """
    running = _running(described, key)
    if not running:
        raise FailureError(
            Failure("not-running", f"no container of {key.id} runs on this node", "`woodfrog ps` shows what runs.")
        )
    failures = {each.container_id: uncaptured(described, each.container_id) for each in running}
    without = {container_id for container_id, failure in failures.items() if failure is not None}
    for container_id in without:
        Runtime(described, container_id).kill("TERM")
    left = _await_ends(described, key, without, timeout_seconds)
    if kill:
        for container_id in left:
            Runtime(described, container_id).kill("KILL")
        left = _await_ends(described, key, left, timeout_seconds)
    stopped = []
    for container in running:
        failure = failures[container.container_id]
        captured_as = _final_snapshot(described, container) if failure is None else None
        why_not = "" if failure is None else str(failure)
        stopped.append(
            StoppedContainer(container.container_id, captured_as, container.container_id not in left, why_not)
        )
    return stopped


def _running(described: Description, key: CheckpointKey) -> list[ContainerStatus]:
    found = client.containers(described.socket)
    return [each for each in found if each.key == key and each.state in {"running", "dumping"}]


def _await_ends(
    described: Description, key: CheckpointKey, waiting: set[ContainerId], timeout_seconds: float
) -> set[ContainerId]:
    """Wait until containers have ended; return those that have not."""
    deadline = time.monotonic() + timeout_seconds
    while waiting and (waiting := waiting & {each.container_id for each in _running(described, key)}):
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    return waiting


def _final_snapshot(described: Description, container: ContainerStatus) -> str | None:
    """Look the final dump up in the log: whoever ran the container in the foreground may have removed it already."""
    deadline = time.monotonic() + _TELL_SECONDS
    with suppress(FailureError):
        while time.monotonic() < deadline:
            for row in client.view(described.reach, "checkpoint_history", container.key, seconds=_TELL_SECONDS):
                if row["incarnation"] == container.incarnation and row["final"] and row["captured_at"]:
                    return str(row["snapshot_id"])
            time.sleep(0.1)
    return None
