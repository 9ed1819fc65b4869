"""Which of a container's processes are sessions of ``exec``, and that these alone are ended."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.dump import exec_sessions
from woodfrog.protocol.failures import Failure, FailureError

pytestmark = pytest.mark.timeout(5)

SHIM, PAUSE, INIT, CHILD, SESSION, LEFT, ADOPTED = 10, 11, 20, 21, 30, 31, 40
PARENTS = {INIT: SHIM, CHILD: INIT, SESSION: SHIM, LEFT: SESSION, ADOPTED: PAUSE}
OUTSIDE = {SHIM}


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(pid: int) -> dict[str, str]:
        return {"PPid": str(PARENTS.get(pid, 1)), "Name": "psql"}

    monkeypatch.setattr("nodeworker.capture.criu.criu.status_fields", status)
    monkeypatch.setattr(exec_sessions, "status_fields", status)
    monkeypatch.setattr(exec_sessions, "named", lambda pid: f"process {pid} (psql)")
    monkeypatch.setattr(exec_sessions, "pid_namespace", lambda pid: "the node's" if pid in OUTSIDE else "its own")


def test_sessions_came_in_from_outside_and_what_the_pod_adopted_did_not() -> None:
    assert exec_sessions.of(list(PARENTS), INIT) == (SESSION, LEFT)


def test_what_a_session_left_to_the_first_process_is_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARENTS, LEFT, INIT)
    assert exec_sessions.of(list(PARENTS), INIT) == (SESSION,)


def test_in_the_nodes_own_namespace_nothing_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_sessions, "pid_namespace", lambda _pid: "the node's")
    assert exec_sessions.of(list(PARENTS), INIT) == ()


def test_they_alone_are_ended_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(exec_sessions.os, "kill", lambda pid, number: killed.append((pid, number)))
    state = SimpleNamespace(freezer=SimpleNamespace(pids=lambda: list(PARENTS)), pid=INIT)
    runc: Any = SimpleNamespace(state=lambda _root, _id: state)
    container: Any = SimpleNamespace(runc_root="/r", container_id="one")
    (said,) = exec_sessions.end(runc, container)
    assert killed == [(SESSION, signal.SIGKILL), (LEFT, signal.SIGKILL)]
    assert said.endswith(f"process {SESSION} (psql), process {LEFT} (psql)")


def test_a_container_that_is_gone_has_none() -> None:
    def state(_root: object, _id: object) -> None:
        raise FailureError(Failure("container-gone", "it is gone", ""))

    runc: Any = SimpleNamespace(state=state)
    container: Any = SimpleNamespace(runc_root="/r", container_id="one")
    assert exec_sessions.end(runc, container) == ()
