"""Stopping a container that ``woodfrog run`` has started: with a final snapshot, or else by its stop signal."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec

from woodfrog import client
from woodfrog.dev_state import Description
from woodfrog.local import next_start
from woodfrog.local.oci_runtime import STOP_SECONDS, Runtime
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId, SnapshotId
from woodfrog.protocol.requests import View
from woodfrog.protocol.runtime_api import ContainerStatus, NotDumped, Stopped, StopRequest

_TELL_SECONDS = 3.0
_POLL_SECONDS = 0.1


def capture(described: Description, container_id: ContainerId) -> SnapshotId | Failure:
    """Take a container's final dump, which ends it; return its name, or why there is none. Takes as long as the dump."""
    try:
        answer = client.worker(described.socket, StopRequest(container_id=container_id), seconds=STOP_SECONDS)
    except FailureError as problem:
        return problem.failure
    assert isinstance(answer, NotDumped | Stopped)
    return answer.failure if isinstance(answer, NotDumped) else answer.snapshot_id


def after_capture(described: Description, key: CheckpointKey, snapshot_id: SnapshotId) -> str:
    """Say what the next start of a key resumes from, now that a final dump is captured; wait a moment for it to be stored."""

    def read(name: View) -> list[dict[str, Any]]:
        with suppress(FailureError):
            return client.view(described.reach, name, key, seconds=_TELL_SECONDS)
        return []

    history: list[dict[str, Any]] = []
    deadline = time.monotonic() + _TELL_SECONDS
    while not next_start.is_settled(snapshot_id, history) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS if history else 0.0)
        history = read("checkpoint_history") or history
    return next_start.after_capture(key.id, snapshot_id, history, read("latest_snapshots"), read("restore_history"))


class StoppedContainer(msgspec.Struct, frozen=True):
    """What became of a container that was stopped."""

    container_id: ContainerId
    captured_as: SnapshotId | None
    """Its final snapshot; None where there is none."""
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
    outcomes = {each.container_id: capture(described, each.container_id) for each in running}
    without = {container_id for container_id, outcome in outcomes.items() if isinstance(outcome, Failure)}
    for container_id in without:
        Runtime(described, container_id).kill("TERM")
    left = _await_ends(described, key, without, timeout_seconds)
    if kill:
        for container_id in left:
            Runtime(described, container_id).kill("KILL")
        left = _await_ends(described, key, left, timeout_seconds)
    return [
        StoppedContainer(container_id, None, container_id not in left, str(outcome))
        if isinstance(outcome, Failure)
        else StoppedContainer(container_id, outcome)
        for container_id, outcome in outcomes.items()
    ]


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
