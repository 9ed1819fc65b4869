"""Who asks, and what they may see and change. A viewer sees some namespaces, or everything.

What belongs to no namespace (nodes, reports that were rejected, the events of nodes) is seen by those only who see everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Final, Protocol

from woodfrog.protocol.failures import Failure

LONGEST_TOKEN: Final = 16 * 1024
"""Whatever is longer is nobody's."""


class RefusedRequestError(Exception):
    """A request that is not answered as it was meant: a status, and a failure that says why."""

    def __init__(self, status: HTTPStatus, failure: Failure, *, field: str = "") -> None:
        self.status = status
        self.failure = failure
        self.field = field
        super().__init__(str(failure))


class Viewer(Protocol):
    """Somebody who was recognized by a token."""

    @property
    def name(self) -> str:
        """What to call them."""
        ...

    async def sees(self, namespace: str | None) -> bool:
        """Whether they may see a namespace; ``None`` stands for everything."""
        ...

    async def may(self, right: str, namespace: str) -> bool:
        """Whether they may ``update`` checkpoints in a namespace, or ``delete`` them."""
        ...


class Authenticator(Protocol):
    """Knows tokens."""

    async def viewer(self, token: str) -> Viewer | None:
        """Find out whose a token is; ``None`` if it is nobody's."""
        ...


async def seen_of(viewer: Viewer, namespaces: Collection[str]) -> frozenset[str]:
    """Return those of the namespaces that a viewer may see."""
    verdicts = await asyncio.gather(*(viewer.sees(namespace) for namespace in namespaces))
    return frozenset(namespace for namespace, seen in zip(namespaces, verdicts, strict=True) if seen)
