"""Viewers that Kubernetes knows: who they are says TokenReview, what they see says SubjectAccessReview.

Who may ``get pods`` in a namespace sees the namespace's ids; who may in every namespace sees everything. Who may ``update`` or ``delete``
``checkpoints.woodfrog.io`` in a namespace may change something there: no such resource is there, but rights to it can be given like any others,
and nobody has them by accident. Answers hold for half a minute, so a right that was taken away is gone as soon as that.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

import msgspec

from controlplane.http.api.viewers import RefusedRequestError, Viewer
from controlplane.kube.api import REQUEST_SECONDS, ApiError, KubernetesApi
from woodfrog.protocol.failures import KUBERNETES_UNREACHABLE, Failure

AUDIENCE: Final = "woodfrog-api"
"""Whom tokens have to be for: one that is sent here is good for nothing else, and one that is for something else is not taken."""
_REMEMBERED_SECONDS: Final = 30.0
_MOST_REMEMBERED: Final = 4096
_REVIEWS_AT_ONCE: Final = 8
_REVIEWS_OF_TOKENS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_REVIEWS_OF_ACCESS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

_SEES: Final = ("get", "", "pods")

T = TypeVar("T")


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] = []


class _TokenReview(msgspec.Struct, frozen=True):
    status: _TokenStatus


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus


class _Remembered(Generic[T]):
    """Answers that hold for a moment; of too many those that were not asked for longest are forgotten."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def find(self, key: Hashable) -> tuple[T] | None:
        held = self._answers.get(key)
        if held is None or held[0] < time.monotonic():
            return None
        self._answers.move_to_end(key)
        return (held[1],)

    def put(self, key: Hashable, answer: T) -> T:
        self._answers[key] = (time.monotonic() + _REMEMBERED_SECONDS, answer)
        self._answers.move_to_end(key)
        while len(self._answers) > _MOST_REMEMBERED:
            self._answers.popitem(last=False)
        return answer


class KubernetesViewers:
    """Recognizes tokens by asking the API server."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._at_once = asyncio.Semaphore(_REVIEWS_AT_ONCE)
        self._users: _Remembered[_User | None] = _Remembered()
        self._allowed: _Remembered[bool] = _Remembered()

    async def viewer(self, token: str) -> Viewer | None:
        """Find out whose a token is; ``None`` if it is nobody's.

        Raises:
            RefusedRequestError: Kubernetes does not answer.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._users.find(digest)) is not None:
            user = known[0]
        else:
            question = {"token": token, "audiences": [AUDIENCE]}
            status = (
                await self._review(_REVIEWS_OF_TOKENS, "authentication", "TokenReview", question, _TokenReview)
            ).status
            # A server that knows no audiences would accept any token.
            accepted = status.authenticated and status.user.username and AUDIENCE in status.audiences
            user = self._users.put(digest, status.user if accepted else None)
        return None if user is None else _KubernetesViewer(self, user)

    async def allows(self, user: _User, namespace: str | None, right: tuple[str, str, str] = _SEES) -> bool:
        """Whether a user may ``get pods`` in a namespace or in all of them, or has another right: verb, group and resource.

        Raises:
            RefusedRequestError: Kubernetes does not answer.
        """
        verb, group, resource = right
        key = (msgspec.json.encode(user), namespace, right)
        if (known := self._allowed.find(key)) is not None:
            return known[0]
        question = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "resourceAttributes": {
                "namespace": namespace or "",
                "verb": verb,
                "resource": resource,
                **({"group": group} if group else {}),
            },
        }
        review = await self._review(_REVIEWS_OF_ACCESS, "authorization", "SubjectAccessReview", question, _AccessReview)
        return self._allowed.put(key, review.status.allowed)

    async def _review(self, path: str, group: str, kind: str, spec: dict[str, Any], answer: type[T]) -> T:
        question = {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, "spec": spec}
        try:
            async with self._at_once:
                return await self._api.ask("POST", path, answer, question, REQUEST_SECONDS)
        except ApiError as problem:
            cause = f"Kubernetes does not say who asks and what they may see: {problem}"
            advice = "See whether the API server answers the control plane, and whether the control plane may create reviews."
            raise RefusedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, Failure(KUBERNETES_UNREACHABLE, cause, advice)
            ) from problem


class _KubernetesViewer:
    """A user of Kubernetes."""

    def __init__(self, viewers: KubernetesViewers, user: _User) -> None:
        self._viewers = viewers
        self._user = user

    @property
    def name(self) -> str:
        """The user's name."""
        return self._user.username

    async def sees(self, namespace: str | None) -> bool:
        """Whether they may see a namespace, or everything."""
        return await self._viewers.allows(self._user, None) or (
            namespace is not None and await self._viewers.allows(self._user, namespace)
        )

    async def may(self, right: str, namespace: str) -> bool:
        """Whether they may change checkpoints in a namespace."""
        return await self._viewers.allows(self._user, namespace, (right, "woodfrog.io", "checkpoints"))
