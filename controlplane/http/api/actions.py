"""What may be changed over the API, where that is switched on: the same requests as the command line's, with who made them.

The API decides nothing. It finds out who asks and whether they may, and hands a request to the control plane that leads, over the same
subjects as ``woodfrog``; so a standby can serve it, and what comes of it is an event with its actor. A browser cannot be made to act by
another page: a token is sent in a header, by whoever knows it, and a request that a browser sends on behalf of another site is refused
before anybody looks at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
import nats.errors
from nats.aio.client import Client

from controlplane.http.api import params as p
from controlplane.http.api.queries import forbidden
from controlplane.http.api.viewers import RefusedRequestError, Viewer
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    ForgetRequest,
    Forgetting,
    Noted,
    Refusal,
    SnapshotRequest,
)

_LONGEST_REASON: Final = 500
_NO_NUL: Final = r"^[^\x00]*$"
"""What PostgreSQL stores of text."""
_DAY_SECONDS: Final = 86_400.0
_ANSWER_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.1
_STATUS: Final = {
    "unknown-id": HTTPStatus.NOT_FOUND,
    "unknown-snapshot": HTTPStatus.NOT_FOUND,
    "malformed-request": HTTPStatus.BAD_REQUEST,
    "invalid-timeout": HTTPStatus.BAD_REQUEST,
    "control-plane-busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "log-unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "internal-error": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Of refusals of the control plane; every other one is a conflict with what is."""

Right = Literal["update", "delete"]
Request = CheckpointRequest | SnapshotRequest | ForgetRequest
Answer = CommandAccepted | Noted | Forgetting | Refusal


class CheckpointBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a dump may take until it is stored."""

    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=_DAY_SECONDS)] = 600.0


class ReasonBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for the history."""

    because: Annotated[str, msgspec.Meta(max_length=_LONGEST_REASON, pattern=_NO_NUL)] = ""


class NeededReasonBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why; shown wherever the snapshot is passed over."""

    because: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_REASON, pattern=_NO_NUL)]


class DeletionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, and whether the snapshot may be deleted that the next start would resume from."""

    because: Annotated[str, msgspec.Meta(max_length=_LONGEST_REASON, pattern=_NO_NUL)] = ""
    force: bool = False


class Done(msgspec.Struct, frozen=True):
    """It is recorded. What a command comes to, the view ``commands`` shows."""

    namespace: str
    id: str
    snapshot_id: str | None = None
    command_id: str | None = None
    left: int | None = None
    """Of an id that is to be forgotten: how many snapshots the store still holds bytes of. To be asked again until there are none."""


class Asks(Protocol):
    """Asks the control plane that leads."""

    async def ask(self, subject: str, request: Request) -> Answer:
        """Return its answer.

        Raises:
            RefusedRequestError: none leads, or it does not answer.
        """
        ...


class Action(msgspec.Struct, frozen=True):
    """One thing that can be done."""

    name: str
    path: str
    about: str
    params: tuple[p.Param, ...]
    body: type
    right: Right
    """What somebody has to be allowed on ``checkpoints.woodfrog.io`` in the namespace."""
    request: Callable[[str, Mapping[str, Any], Any, str], tuple[str, Request]]
    """Makes the request of a cluster, the path's parameters, a body, and who asks."""


def _checkpoint(
    cluster: str, values: Mapping[str, Any], body: CheckpointBody, by: str
) -> tuple[str, CheckpointRequest]:
    key = CheckpointKey(cluster, values["namespace"], values["id"])
    return subjects.CHECKPOINT, CheckpointRequest(key, body.timeout_seconds, by=by)


def _forget(cluster: str, values: Mapping[str, Any], body: DeletionBody, by: str) -> tuple[str, ForgetRequest]:
    key = CheckpointKey(cluster, values["namespace"], values["id"])
    return subjects.FORGET, ForgetRequest(key, body.because, force=body.force, by=by)


def _about_snapshot(
    wish: Literal["pin", "unpin", "invalidate", "retry", "delete"], about: str, body: type, right: Right
) -> Action:
    def request(cluster: str, values: Mapping[str, Any], body: Any, by: str) -> tuple[str, SnapshotRequest]:
        name = SnapshotId(values["snapshot_id"])
        force = getattr(body, "force", False)
        asked = SnapshotRequest(cluster, values["namespace"], name, wish, body.because, force=force, by=by)
        return subjects.SNAPSHOT, asked

    path = f"/api/v1/snapshots/{{namespace}}/{{snapshot_id}}/{wish}"
    return Action(wish, path, about, (p.IN_NAMESPACE, p.OF_SNAPSHOT), body, right, request)


ACTIONS: Final = (
    Action(
        "checkpoint",
        "/api/v1/ids/{namespace}/{id}/checkpoint",
        "Take a snapshot of the id's running container and leave it running.",
        (p.IN_NAMESPACE, p.OF_ID),
        CheckpointBody,
        "update",
        _checkpoint,
    ),
    Action(
        "forget",
        "/api/v1/ids/{namespace}/{id}/forget",
        "Delete every snapshot of an id, and forget the id once the store holds nothing of it.",
        (p.IN_NAMESPACE, p.OF_ID),
        DeletionBody,
        "delete",
        _forget,
    ),
    _about_snapshot("pin", "Keep a snapshot, and resume from it at every start.", ReasonBody, "update"),
    _about_snapshot("unpin", "Unpin a snapshot.", ReasonBody, "update"),
    _about_snapshot(
        "retry",
        "Choose a snapshot again as if no restore of it had failed, or store a capture now.",
        ReasonBody,
        "update",
    ),
    _about_snapshot("invalidate", "Never choose a snapshot again.", NeededReasonBody, "delete"),
    _about_snapshot("delete", "Delete a snapshot from the store.", DeletionBody, "delete"),
)


class Actions:
    """Carries them out for whoever may."""

    def __init__(self, asks: Asks, cluster: str) -> None:
        self._asks = asks
        self._cluster = cluster

    async def may(self, viewer: Viewer, namespace: str) -> list[str]:
        """Name what somebody may do in a namespace."""
        rights = {right for right in ("update", "delete") if await viewer.may(right, namespace)}
        return [action.name for action in ACTIONS if action.right in rights]

    async def act(self, action: Action, viewer: Viewer, values: Mapping[str, Any], data: bytes) -> Done:
        """Do it, and say what is recorded.

        Raises:
            RefusedRequestError: it is not asked for as it has to be, somebody may not, or something speaks against it.
        """
        namespace = values["namespace"]
        if not await viewer.sees(namespace) or not await viewer.may(action.right, namespace):
            raise forbidden(viewer, f"namespace {namespace}", f"{action.right} checkpoints in")
        try:
            body = wire.decode(data or b"{}", action.body)
        except wire.MalformedMessageError as problem:
            failure = Failure("api-parameter", f"the body: {problem}", "/api/v1/openapi.json describes every body.")
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, failure, field="body") from problem
        answer = await self._asks.ask(*action.request(self._cluster, values, body, viewer.name))
        match answer:
            case Refusal(failure=failure):
                raise RefusedRequestError(_STATUS.get(failure.code, HTTPStatus.CONFLICT), failure)
            case Noted():
                return Done(answer.key.namespace, answer.key.id, answer.snapshot_id, answer.command_id)
            case CommandAccepted():
                return Done(namespace, values["id"], command_id=answer.command_id)
            case Forgetting():
                return Done(namespace, values["id"], left=answer.left)


class OverNats:
    """Asks over the control plane's own connection, as ``woodfrog`` does."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, subject: str, request: Request) -> Answer:
        """Return the answer of the control plane that leads.

        Raises:
            RefusedRequestError: none leads, or it does not answer.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while True:
                    try:
                        reply = await self._client.request(subject, wire.encode(request), timeout=_ANSWER_SECONDS)
                    except nats.errors.NoRespondersError:  # the lead is changing hands
                        await asyncio.sleep(_RETRY_SECONDS)
                    else:
                        answer: Answer = wire.decode(reply.data, Answer)
                        return answer
        except (TimeoutError, OSError, nats.errors.Error, wire.MalformedMessageError) as problem:
            advice = "Look whether it was recorded, and ask again; see that a control plane leads."
            failure = Failure("control-plane-away", "no control plane that leads has answered", advice)
            raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, failure) from problem
