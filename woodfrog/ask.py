"""Asking: the node worker over its socket, the control plane over NATS."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from process.nats import connect
from protocol import subjects, wire
from protocol.failures import Failure, FailureError
from protocol.ids import CheckpointKey, CommandId
from protocol.local import AskContainers, Containers, ContainerStatus, LocalAnswer, LocalAsk
from protocol.requests import (
    CHECK_VERSION,
    CheckpointRequest,
    CommandAccepted,
    Noted,
    QueryRequest,
    Refusal,
    Rows,
    SnapshotRequest,
    View,
)
from woodfrog.state import Reach

_T = TypeVar("_T")
_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 0.1


def worker(path: str, ask: LocalAsk, *, seconds: float = _ANSWER_SECONDS) -> LocalAnswer:
    """Ask the node worker behind the socket ``path``.

    Raises:
        FailureError: ``worker-away`` when it is not there or does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
            connection.sendall(wire.encode(ask) + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
        answer: LocalAnswer = wire.decode(line, LocalAnswer)
    except (OSError, wire.MalformedMessageError) as problem:
        raise FailureError(
            Failure(
                "worker-away", f"the node worker does not answer on {path}: {problem}", "Is `woodfrog dev` running?"
            )
        ) from problem
    return answer


def containers(path: str, *, seconds: float = _ANSWER_SECONDS) -> tuple[ContainerStatus, ...]:
    """List the protected containers of the worker behind ``path``.

    Raises:
        FailureError: ``worker-away``.
    """
    answer = worker(path, AskContainers(), seconds=seconds)
    assert isinstance(answer, Containers)
    return answer.containers


async def _answered(client: Client, subject: str, request: bytes, seconds: float) -> Msg:
    """Ask until somebody is there to answer: a control plane that was killed is back in a second or two."""
    while True:
        try:
            return await client.request(subject, request, timeout=seconds)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(_RETRY_SECONDS)


async def _control(reach: Reach, subject: str, request: Any, answers: Any, seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            client = await connect(reach.nats_url, name="woodfrog", seed_file=reach.seed_file, trust=reach.trust)
            try:
                reply = await _answered(client, subject, wire.encode(request), seconds)
            finally:
                await client.close()
    except (TimeoutError, OSError, nats.errors.Error) as problem:
        raise FailureError(
            Failure("control-plane-away", f"the control plane does not answer: {problem!r}", "Does it run, and NATS?")
        ) from problem
    answer = wire.decode(reply.data, answers | Refusal)
    if isinstance(answer, Refusal):
        raise FailureError(answer.failure)
    return answer


def control(reach: Reach, subject: str, request: Any, answers: type[_T], *, seconds: float = _ANSWER_SECONDS) -> _T:
    """Ask the control plane and return its answer.

    Raises:
        FailureError: ``control-plane-away``, or the failure with which it refuses.
    """
    answer: _T = asyncio.run(_control(reach, subject, request, answers, seconds))
    return answer


def view(
    reach: Reach,
    name: View,
    key: CheckpointKey | None = None,
    command_id: CommandId | None = None,
    *,
    seconds: float = 10.0,
) -> list[dict[str, Any]]:
    """Read a view, oldest row first.

    Raises:
        FailureError: as :func:`control`.
    """
    request = QueryRequest(view=name, key=key, command_id=command_id, limit=10_000)
    return control(reach, subjects.QUERY, request, Rows, seconds=seconds).rows


def checkpoint(reach: Reach, key: CheckpointKey, timeout_seconds: float) -> CommandId:
    """Ask for a dump of the key's running container.

    Raises:
        FailureError: as :func:`control`.
    """
    request = CheckpointRequest(key=key, timeout_seconds=timeout_seconds)
    return control(reach, subjects.CHECKPOINT, request, CommandAccepted).command_id


def check(reach: Reach, key: CheckpointKey, timeout_seconds: float) -> CommandId:
    """Ask whether the key's running container could be dumped and restored.

    Raises:
        FailureError: as :func:`control`.
    """
    request = CheckpointRequest(key=key, timeout_seconds=timeout_seconds, version=CHECK_VERSION, only_check=True)
    return control(reach, subjects.CHECKPOINT, request, CommandAccepted).command_id


def decide_about(reach: Reach, request: SnapshotRequest) -> Noted:
    """Have something done about one snapshot.

    Raises:
        FailureError: as :func:`control`.
    """
    return control(reach, subjects.SNAPSHOT, request, Noted)
