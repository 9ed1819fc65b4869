"""Creates that are on their way: the runtime's shell part says that one is coming before it starts what will ask.

Until an interpreter has started and asks, 15 ms pass, in which the worker can ask the control plane and look for the snapshot. The
container itself is not touched before the runtime asks, because only then is it written down how to clean up after it. A create
that was announced and never asks, since somebody killed it, is forgotten as if the container had ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from nodeworker import bundle
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import CreateRequest, LocalAnswer

_log = structlog.get_logger(component="ahead")
_ASK_SECONDS: Final = 30.0
"""How long an announced create may take until it asks."""
_MOST: Final = 100

Create = Callable[[CreateRequest, asyncio.Event], Awaitable[LocalAnswer]]
"""Decides a create; the container is touched only after the event is set."""


@dataclass(frozen=True, slots=True)
class _Begun:
    ask: CreateRequest
    asked: asyncio.Event
    answer: asyncio.Task[LocalAnswer]


class SpeculativeCreates:
    """The creates that were announced and have not asked yet."""

    def __init__(
        self,
        create: Create,
        *,
        known: Callable[[ContainerId], bool],
        forget: Callable[[ContainerId], Awaitable[None]],
    ) -> None:
        """``known`` says, blocking, whether the worker has a container already; ``forget`` undoes what ``create`` began."""
        self._create = create
        self._known = known
        self._forget = forget
        self._watching: dict[ContainerId, asyncio.Task[None]] = {}
        self._begun: dict[ContainerId, _Begun] = {}
        self._answering: set[ContainerId] = set()

    def expect(self, container_id: ContainerId, root: str, folder: str, variable: str) -> None:
        """Begin to decide a create. ``root`` is runc's, ``folder`` the bundle's, ``variable`` the one that holds the id.

        What comes late, or again, is ignored: a container is decided about once at a time.
        """
        if len(self._watching) < _MOST and container_id not in {*self._watching, *self._answering}:
            task = asyncio.create_task(self._watch(container_id, root, folder, variable))
            self._watching[container_id] = task
            task.add_done_callback(lambda _: self._watching.pop(container_id, None))

    async def create(self, ask: CreateRequest) -> LocalAnswer:
        """Answer a create that asks now; it may be that it was announced, and most of it is done."""
        self._answering.add(ask.container_id)
        try:
            begun = self._begun.pop(ask.container_id, None)
            if begun is not None and begun.ask == ask:
                begun.asked.set()
                try:
                    return await asyncio.shield(begun.answer)
                except asyncio.CancelledError:
                    await _stopped(begun.answer)
                    raise
            if (watching := self._watching.get(ask.container_id)) is not None:
                await _stopped(watching)
            asked = asyncio.Event()
            asked.set()
            return await self._create(ask, asked)
        finally:
            self._answering.discard(ask.container_id)

    async def cancel(self, container_id: ContainerId) -> None:
        """Expect a container no more: it is gone."""
        watching = self._watching.get(container_id)
        if watching is not None and container_id not in self._answering:
            await _stopped(watching)

    async def close(self) -> None:
        """Expect nobody any more."""
        for task in list(self._watching.values()):
            await _stopped(task)

    async def _watch(self, container_id: ContainerId, root: str, folder: str, variable: str) -> None:
        ask = await asyncio.to_thread(self._ask, container_id, root, folder, variable)
        if ask is None:
            return
        asked = asyncio.Event()
        answer = asyncio.ensure_future(self._create(ask, asked))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._begun[container_id] = _Begun(ask, asked, answer)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await asked.wait()
        except TimeoutError:
            await _log.awarning("a create was announced and never asked", container_id=container_id)
            self._begun.pop(container_id, None)
            await _stopped(answer)
            await self._forget(container_id)
        except asyncio.CancelledError:
            self._begun.pop(container_id, None)
            await _stopped(answer)
            raise

    def _ask(self, container_id: ContainerId, root: str, folder: str, variable: str) -> CreateRequest | None:
        """What the runtime is going to ask, or ``None`` if it is going to leave the call to runc."""
        root, folder = os.path.abspath(root), os.path.abspath(folder)  # noqa: PTH100 -- as the slow path writes them
        if self._known(container_id) or (Path(root) / container_id).exists():
            return None
        try:
            checkpoint_id = bundle.variable(folder, variable)
        except FailureError:
            return None
        return None if checkpoint_id is None else CreateRequest(container_id, folder, root, checkpoint_id)


async def _stopped(task: asyncio.Task[LocalAnswer] | asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
