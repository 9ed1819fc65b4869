"""One collection of the API followed for good: listed once, then watched, and listed again when the watch has lost its place.

The rules are client-go's (tools/cache/reflector.go): a list in pages, so that the server need not hold all of it at once; a
watch from where the list ended, which resumes from the last version that was seen, bookmarks included, so that a connection
that breaks costs no new list; 410 means that this version is not kept any more, and only then everything is listed anew. What
went away meanwhile is found by comparing, and told as a deletion.

Nothing of it may wait for ever: the server is asked to end each watch after some minutes, a watch on which nothing comes is
ended here (bookmarks come every minute, so silence means a dead connection), and every failure is followed by a pause that
grows and is never the same for two clients.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.models import Change, Meta, Page, Status
from woodfrog.protocol import wire

_log = structlog.get_logger(component="watch")

_PAGE: Final = "500"
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_SHORT_SECONDS: Final = 1.0
"""A watch that ended sooner was no good, even if it ended without an error."""

T = TypeVar("T")


class _Object(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta


class Follower(Protocol[T]):
    """Keeps a collection, or what matters of it."""

    def keep(self, data: bytes) -> tuple[str, T] | None:
        """Read an object; ``None`` if it does not matter. The string tells it from all others, for good.

        Raises:
            MalformedMessageError: it is not what it should be; it is then passed over.
        """
        ...

    async def replaced(self, objects: dict[str, T]) -> None:
        """Take in that this, and nothing else, is what there is now."""
        ...

    async def changed(self, uid: str, now: T | None) -> None:
        """Take in how one object is now; ``None`` if it is gone, or does not matter any more."""
        ...


class ListWatch(Generic[T]):
    """Follows one collection."""

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        follower: Follower[T],
        *,
        watch_seconds: float = 300.0,
        idle_seconds: float = 90.0,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._api = api
        self._path = path
        self._follower = follower
        self._watch_seconds = watch_seconds
        self._idle_seconds = idle_seconds
        self._chance = chance
        self._version = ""
        self.synced = asyncio.Event()
        """Set once the collection was listed."""
        self.lists = 0
        self.watches = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        pause_seconds = 0.0
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                failed = time.monotonic() - began < _SHORT_SECONDS
                asked_seconds = 0.0
            except ApiError as problem:
                failed = True
                asked_seconds = problem.retry_after_seconds
                if problem.is_gone:
                    self._version = ""
                await _log.awarning("a watch starts over", path=self._path, error=str(problem), anew=problem.is_gone)
            if not failed or time.monotonic() - began > _LONGEST_PAUSE_SECONDS:
                pause_seconds = 0.0
            if failed:
                pause_seconds = min(max(2 * pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(max(asked_seconds, pause_seconds) * self._chance(0.5, 1.5))

    async def _list(self) -> None:
        found: dict[str, T] = {}
        query = {"limit": _PAGE}
        while True:
            page = await self._api.ask("GET", self._path, Page, **query)
            for item in page.items or ():
                kept = self._keep(bytes(item))
                if kept is not None:
                    found[kept[0]] = kept[1]
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        self.lists += 1
        await self._follower.replaced(found)
        self._version = page.metadata.resource_version
        self.synced.set()

    async def _watch(self) -> None:
        self.watches += 1
        seconds = self._watch_seconds * self._chance(1.0, 1.5)
        changes = self._api.lines(
            self._path,
            idle_seconds=self._idle_seconds,
            total_seconds=seconds + self._idle_seconds,
            watch="true",
            resourceVersion=self._version,
            allowWatchBookmarks="true",
            timeoutSeconds=str(round(seconds)),
        )
        async for change in _decoded(changes):
            if change.type == "ERROR":
                said: Status = wire.decode(bytes(change.object), Status)
                raise ApiError(said.code or 0, said.message or "", reason=said.reason or "")
            version = _version_of(change)
            if change.type in {"ADDED", "MODIFIED", "DELETED"}:
                kept = self._keep(bytes(change.object))
                if kept is not None:
                    await self._follower.changed(kept[0], None if change.type == "DELETED" else kept[1])
            self._version = version or self._version

    def _keep(self, data: bytes) -> tuple[str, T] | None:
        try:
            return self._follower.keep(data)
        except wire.MalformedMessageError as problem:
            _log.warning("an object is passed over", path=self._path, error=str(problem))
            return None


async def _decoded(lines: AsyncIterator[bytes]) -> AsyncIterator[Change]:
    async for line in lines:
        if line.strip():
            try:
                yield wire.decode(line, Change)
            except wire.MalformedMessageError as problem:
                raise ApiError(0, f"a line of the watch is not a change: {problem}") from problem


def _version_of(change: Change) -> str:
    try:
        seen: _Object = wire.decode(bytes(change.object), _Object)
    except wire.MalformedMessageError:
        return ""
    return seen.metadata.resource_version
