"""On which node a node worker runs, proved by the token of its pod's ServiceAccount.

All node workers of a DaemonSet have one ServiceAccount, and Kubernetes gives each pod a token of its own, bound to the pod.
The kubelet can have tokens made for the pods of its own node only, so who holds such a token is on the pod's node.
"""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Any, Final

import msgspec

from controlplane.kube.api import REQUEST_SECONDS, ApiError, KubernetesApi
from woodfrog.protocol import wire
from woodfrog.protocol.ids import InvalidIdError, NodeName, check_id

AUDIENCE: Final = "woodfrog"
"""Whom the tokens are for: one that was made for somebody else, such as the Kubernetes API, is refused."""
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""Said from Kubernetes 1.30 on; where it is said, it must be the pod's node."""
_LONGEST_TOKEN: Final = 16 * 1024
_ENDED: Final = {"Succeeded", "Failed"}


class RefusedError(Exception):
    """A token that proves nothing; the message says why and holds nothing of the token."""


class _User(msgspec.Struct, rename="camel"):
    username: str = ""
    extra: dict[str, list[str]] | None = None

    def said(self, key: str) -> str:
        """What a token is bound to."""
        values = (self.extra or {}).get(key, [])
        return values[0] if len(values) == 1 else ""


class _Review(msgspec.Struct, rename="camel"):
    authenticated: bool = False
    user: _User | None = None
    audiences: list[str] | None = None
    error: str = ""


class _Reviewed(msgspec.Struct, rename="camel"):
    status: _Review


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    uid: str


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    service_account_name: str = ""


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""


class _Pod(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


class _Payload(msgspec.Struct):
    sub: str
    exp: int | None = None


class NodeWorker(msgspec.Struct, frozen=True):
    """Who holds a token."""

    node: NodeName
    pod: str
    token_expires_seconds: int | None
    """When the token ends, since 1970; none if it never does."""


class NodeWorkers:
    """Tells node workers by their tokens."""

    def __init__(self, api: KubernetesApi, *, namespace: str, service_account: str) -> None:
        self._api = api
        self._namespace = namespace
        self._service_account = service_account
        self._username = f"system:serviceaccount:{namespace}:{service_account}"

    async def whose(self, token: str) -> NodeWorker:
        """Find out which node's worker a token belongs to.

        Raises:
            RefusedError: none's.
            ApiError: it cannot be found out now.
        """
        claimed = _claimed(token)
        if (
            claimed.sub != self._username
        ):  # spares the API what anybody may send here; what it says is believed only below
            raise RefusedError(f"the token is of another ServiceAccount, not {self._username}")
        user = await self._reviewed(token)
        if user.username != self._username:
            raise RefusedError(f"the token is of {user.username!r}, not of {self._username}")
        name, uid = user.said(_POD_NAME), user.said(_POD_UID)
        if not name or not uid:
            raise RefusedError("the token is not bound to a pod; mount it with a projected volume")
        pod = await self._pod(name, uid)
        node_said = user.said(_NODE_NAME)
        if node_said and node_said != pod.spec.node_name:
            raise RefusedError(f"pod {name} is on another node than its token says")
        try:
            node = NodeName(check_id(pod.spec.node_name, "node"))
        except InvalidIdError as problem:
            raise RefusedError(f"pod {name} is on no node: {problem}") from problem
        return NodeWorker(node, name, claimed.exp)

    async def _reviewed(self, token: str) -> _User:
        question: dict[str, Any] = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        asked = self._api.ask("POST", _REVIEWS, _Reviewed, question, REQUEST_SECONDS)
        review = (await asked).status
        if not review.authenticated or review.user is None:
            raise RefusedError(f"Kubernetes does not accept the token: {review.error or 'no reason given'}")
        if AUDIENCE not in (review.audiences or []):  # a server that knows no audiences would accept any token
            raise RefusedError(f"the token is not for the audience {AUDIENCE!r}")
        return review.user

    async def _pod(self, name: str, uid: str) -> _Pod:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{name}"
        try:
            pod = await self._api.ask("GET", path, _Pod, None, REQUEST_SECONDS)
        except ApiError as problem:
            if problem.status != HTTPStatus.NOT_FOUND:
                raise
            raise RefusedError(f"pod {name} is gone") from problem
        if pod.metadata.uid != uid:
            raise RefusedError(f"pod {name} is another one by now")
        if pod.spec.service_account_name != self._service_account:
            raise RefusedError(f"pod {name} does not run as {self._service_account}")
        if pod.status.phase in _ENDED:
            raise RefusedError(f"pod {name} has ended: {pod.status.phase}")
        return pod


def _claimed(token: str) -> _Payload:
    """Read what a token says of itself, before anybody has checked it."""
    if not token:
        raise RefusedError("no token was presented")
    parts = token.split(".")
    if len(token) > _LONGEST_TOKEN or len(parts) != 3:
        raise RefusedError("what was presented is not a token of a ServiceAccount")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        said: _Payload = wire.decode(payload, _Payload)
    except ValueError as problem:
        raise RefusedError("what was presented is not a token of a ServiceAccount") from problem
    return said
