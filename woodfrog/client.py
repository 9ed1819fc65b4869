"""Asking: the node worker over its socket, the control plane over NATS."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import nats.errors
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg

from woodfrog.dev_state import Reach
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.protocol.requests import (
    CHECK_VERSION,
    FILTER_VERSION,
    CheckpointRequest,
    CommandAccepted,
    EventFilter,
    ForgetRequest,
    Forgetting,
    ImportRequest,
    Noted,
    QueryRequest,
    Refusal,
    Rows,
    SnapshotRequest,
    View,
    cursor_of,
)
from woodfrog.protocol.runtime_api import Containers, ContainerStatus, ListContainersRequest, LocalAnswer, LocalAsk
from woodfrog.service.nats import connect

_T = TypeVar("_T")
_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 0.1
_POLL_SECONDS = 0.1
_PAGE = 1000
"""How many rows are asked for together; fewer where the broker does not carry so many."""


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
    answer = worker(path, ListContainersRequest(), seconds=seconds)
    assert isinstance(answer, Containers)
    return answer.containers


async def _answered(client: Client, subject: str, request: bytes, seconds: float) -> Msg:
    """Ask until somebody is there to answer: a control plane that was killed is back in a second or two."""
    while True:
        try:
            return await client.request(subject, request, timeout=seconds)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(_RETRY_SECONDS)


@asynccontextmanager
async def _connected(reach: Reach, seconds: float) -> AsyncIterator[Client]:
    try:
        async with asyncio.timeout(seconds):
            client = await connect(reach.nats_url, name="woodfrog", seed_file=reach.seed_file, trust=reach.trust)
            try:
                yield client
            finally:
                await client.close()
    except nats.errors.MaxPayloadError as problem:
        raise FailureError(
            Failure("malformed-request", "the request is larger than the broker carries", "Shorten what it says.")
        ) from problem
    except (TimeoutError, OSError, nats.errors.Error) as problem:
        raise FailureError(
            Failure("control-plane-away", f"the control plane does not answer: {problem!r}", "Does it run, and NATS?")
        ) from problem


async def _reply(client: Client, subject: str, request: Any, answers: Any, seconds: float) -> Any:
    reply = await _answered(client, subject, wire.encode(request), seconds)
    answer = wire.decode(reply.data, answers | Refusal)
    if isinstance(answer, Refusal):
        raise FailureError(answer.failure)
    return answer


async def _control(reach: Reach, subject: str, request: Any, answers: Any, seconds: float) -> Any:
    async with _connected(reach, seconds) as client:
        return await _reply(client, subject, request, answers, seconds)


async def _rows(reach: Reach, request: QueryRequest, seconds: float) -> list[dict[str, Any]]:
    """Read as many of the newest rows as ``request`` wants, in pages that the broker carries."""
    cursor = cursor_of(request.view)
    found: list[dict[str, Any]] = []
    page, before = _PAGE, request.before
    while (left := request.limit - len(found)) > 0:
        asked = replace(request, limit=min(page, left), before=before)
        async with _connected(reach, seconds) as client:
            while True:
                try:
                    rows = (await _reply(client, subjects.QUERY, asked, Rows, seconds)).rows
                except FailureError as problem:
                    if problem.failure.code != "answer-too-large" or asked.limit == 1:
                        raise
                    page = max(asked.limit // 4, 1)
                    asked = replace(asked, limit=page)
                else:
                    break
        if before is not None and rows and rows[-1][cursor] >= before:
            break  # a control plane of an earlier release, which knows no pages
        found = rows + found
        if len(rows) < asked.limit:
            break
        before = rows[0][cursor]
    return found


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
    limit: int = 10_000,
    seconds: float = 10.0,
    statuses: bool = False,
) -> list[dict[str, Any]]:
    """Read the newest rows of a view, oldest row first; ``seconds`` bound each page of them; ``statuses`` as in the request.

    Raises:
        FailureError: as :func:`control`.
    """
    request = QueryRequest(view=name, key=key, command_id=command_id, limit=limit, statuses=statuses)
    return asyncio.run(_rows(reach, request, seconds))


def ended(reach: Reach, command_id: CommandId, timeout_seconds: float) -> dict[str, Any]:
    """Wait until a command that stores a snapshot has ended, and return its row of ``commands``.

    Raises:
        FailureError: ``timed-out``, or as :func:`control`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        (row,) = view(reach, "commands", command_id=command_id)
        if row["status"] != "open":
            return row
        if time.monotonic() > deadline:
            advice = f"`woodfrog get commands` shows what becomes of {command_id}."
            raise FailureError(Failure("timed-out", f"not stored after {timeout_seconds:g} s", advice))
        time.sleep(_POLL_SECONDS)


async def _filtered(reach: Reach, request: QueryRequest, seconds: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page, before = _PAGE, request.before
    while (left := request.limit - len(found)) > 0:
        asked = replace(request, limit=min(page, left), before=before)
        try:
            rows: Rows = await _control(reach, subjects.QUERY, asked, Rows, seconds)
        except FailureError as problem:
            if problem.failure.code != "answer-too-large" or asked.limit == 1:
                raise
            page = max(asked.limit // 4, 1)
            continue
        found = rows.rows + found
        if rows.next is None:
            break
        before = rows.next
    return found


def events(
    reach: Reach, only: EventFilter, key: CheckpointKey | None = None, *, limit: int, seconds: float = 10.0
) -> list[dict[str, Any]]:
    """Read the newest of the events that a filter names, oldest first; ``seconds`` bound each page of them.

    Raises:
        FailureError: as :func:`control`.
    """
    request = QueryRequest(view="events", key=key, limit=limit, version=FILTER_VERSION, only=only)
    return asyncio.run(_filtered(reach, request, seconds))


def of_namespace(
    reach: Reach, name: View, namespace: str, *, limit: int, seconds: float = 10.0
) -> list[dict[str, Any]]:
    """Read the newest rows of a view that are of a namespace of this cluster, oldest first; ``seconds`` bound each page of them.

    Raises:
        FailureError: as :func:`control`.
    """
    only = EventFilter(namespace=namespace, cluster=reach.cluster)
    request = QueryRequest(view=name, limit=limit, version=FILTER_VERSION, only=only)
    return asyncio.run(_filtered(reach, request, seconds))


def failure_of(reach: Reach, command: dict[str, Any]) -> Failure:
    """Find why a command did not succeed: its own failure or that of its dump. ``command`` is its row of ``commands``.

    Raises:
        FailureError: as :func:`control`.
    """
    for row in view(reach, "failures", command_id=command["command_id"]):
        return Failure(
            row["failure_code"], row["failure_cause"], row["failure_advice"] or "", row["failure_detail"] or ""
        )
    return Failure(
        f"command-{command['status']}",
        f"the command {command['status']}: the node's worker did not carry it out in time",
        "`woodfrog get nodes` shows whether the node is there.",
    )


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


def take_in(reach: Reach, request: ImportRequest) -> Noted:
    """Have a snapshot that lies in the store taken into the log, or with ``only_check`` say whether it would be.

    Raises:
        FailureError: as :func:`control`.
    """
    return control(reach, subjects.IMPORT, request, Noted)


def forget(reach: Reach, request: ForgetRequest) -> Forgetting:
    """Have an id forgotten, or learn how much of it is still stored.

    Raises:
        FailureError: as :func:`control`.
    """
    return control(reach, subjects.FORGET, request, Forgetting)


def decide_about(reach: Reach, request: SnapshotRequest) -> Noted:
    """Have something done about one snapshot.

    Raises:
        FailureError: as :func:`control`.
    """
    return control(reach, subjects.SNAPSHOT, request, Noted)
