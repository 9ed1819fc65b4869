"""The watcher: what happens to pods with protected containers, published to PODS; what nodes announce, given to the input loop.

Only the leader watches. Its successor lists everything and tells again what it sees; that is recorded once, because what
happened bears the same name whoever tells it. Between a change and the broker's word that it holds the message lies a queue;
when it is full the watch is read no further, and the API server waits.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

import nats.js.api
import structlog
from msgspec.structs import replace
from nats.js import JetStreamContext

from controlplane.bus.streams import BROKER_ERRORS, REQUEST_SECONDS, ensure_streams
from controlplane.core.input_queue import InputQueue, UndecidableError
from controlplane.domain.inputs import NodeSeen
from controlplane.kube import pod_diff
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.eviction_causes import cause_of
from controlplane.kube.listwatch import ListWatch
from controlplane.kube.node_conditions import NodeView
from controlplane.kube.object_cache import NodeCache, PodCache, PodChanged, ignore_change
from controlplane.kube.pod_diff import PodView
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import InvalidIdError, NodeName
from woodfrog.protocol.pods import Happened, PodEvent, Terminating, Why
from woodfrog.service.backoff import Backoff

_log = structlog.get_logger(component="watcher")

_LONGEST_QUEUE: Final = 10_000
_BATCH: Final = 256
_EVENT_SECONDS: Final = 0.25
"""How long the scheduler's Event about a preemption may be behind the deletion."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LOG_RETRY_SECONDS: Final = 1.0


class Watcher:
    """Watches one cluster."""

    def __init__(
        self,
        api: KubernetesApi,
        jetstream: JetStreamContext,
        intake: InputQueue,
        *,
        cluster: str,
        runtime_classes: Collection[str],
        ending: Collection[str],
        clock: Callable[[], datetime],
        pod_changed: PodChanged = ignore_change,
    ) -> None:
        """``pod_changed`` is called with every protected pod before and after a change."""
        self._api = api
        self._jetstream = jetstream
        self._intake = intake
        self._queue: asyncio.Queue[PodEvent] = asyncio.Queue(_LONGEST_QUEUE)
        self._announced: asyncio.Queue[NodeSeen] = asyncio.Queue(_LONGEST_QUEUE)
        self.nodes = NodeCache(self._tell_of_node, self._announce, ending=ending)
        self.pods = PodCache(self.nodes.cordoned, self._tell, runtime_classes=runtime_classes, changed=pod_changed)
        self._watch_nodes = ListWatch(api, "/api/v1/nodes", self.nodes)
        self._watch_pods = ListWatch(api, "/api/v1/pods", self.pods)
        self._cluster = cluster
        self._clock = clock
        self.published = 0
        self.pods_listed = self._watch_pods.synced
        """Set once every pod was seen."""

    async def run(self) -> None:
        """Watch until cancelled, however often the API server or the broker goes away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            group.create_task(self._hand_in())
            group.create_task(self._watch_nodes.run())
            await self._watch_nodes.synced.wait()  # why a pod ends depends on its node
            group.create_task(self._watch_pods.run())
            await self._watch_pods.synced.wait()
            await _log.ainfo("watching", pods=len(self.pods.seen), nodes=len(self.nodes.seen))

    async def _tell(self, seen: PodView, what: Happened) -> None:
        try:
            event = pod_diff.told(seen, what, cluster=self._cluster, at=self._clock())
            event.keys()
        except InvalidIdError as problem:
            await _log.awarning("a pod's id may not be one", pod=f"{seen.namespace}/{seen.name}", error=str(problem))
            return
        await self._queue.put(event)

    async def _tell_of_node(self, node: str, what: Happened) -> None:
        for seen in list(self.pods.seen.values()):
            if seen.node == node:
                await self._tell(seen, what)

    async def _announce(self, seen: NodeView) -> None:
        await self._announced.put(NodeSeen(NodeName(seen.name), seen.ending, f"node-seen/{uuid.uuid4()}"))

    async def _hand_in(self) -> None:
        while True:
            seen = await self._announced.get()
            while True:
                try:
                    await (await self._intake.enqueue(seen, actor="controlplane"))
                except LogUnavailableError as problem:
                    await _log.awarning("a node's announcement waits for the log", node=seen.node, error=str(problem))
                    await asyncio.sleep(_LOG_RETRY_SECONDS)
                except UndecidableError as problem:
                    await _log.aerror("a node's announcement cannot be decided", node=seen.node, error=str(problem))
                    break
                else:
                    break

    async def _publish(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for event in await self._explained(batch):
                await self._send(event)

    async def _explained(self, batch: list[PodEvent]) -> list[PodEvent]:
        """Find out from Events why pods were deleted, where the pod itself does not say."""
        if not any(_unexplained(event) for event in batch):
            return batch
        await asyncio.sleep(_EVENT_SECONDS)
        return list(await asyncio.gather(*map(self._explain, batch)))

    async def _explain(self, event: PodEvent) -> PodEvent:
        what = event.happened
        if not _unexplained(event) or not isinstance(what, Terminating):
            return event
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                cause = await cause_of(self._api, event.namespace, event.uid)
        except (ApiError, TimeoutError) as problem:
            await _log.awarning("why a pod ends is not known", pod=event.pod, error=str(problem))
            return event
        if cause is None or (what.why is Why.DRAINED and cause[0] is not Why.PREEMPTED):
            return event
        return replace(event, happened=replace(what, why=cause[0], by=cause[1]))

    async def _send(self, event: PodEvent) -> None:
        """Publish for as long as it takes: what is lost here nobody tells again."""
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await self._jetstream.publish(
                    subjects.pods(event.namespace, event.pod),
                    wire.encode(event),
                    timeout=REQUEST_SECONDS,
                    stream=subjects.PODS_STREAM,
                    headers={nats.js.api.Header.MSG_ID.value: event.message_id},
                )
            except BROKER_ERRORS as problem:
                await _log.awarning("a pod's news waits for the broker", pod=event.pod, error=problem)
                await backoff.sleep()
                try:
                    await ensure_streams(self._jetstream)
                except BROKER_ERRORS:
                    continue
            else:
                self.published += 1
                return


def _unexplained(event: PodEvent) -> bool:
    what = event.happened
    return (
        isinstance(what, Terminating)
        and what.why in {Why.DELETED, Why.DRAINED, Why.TAINTED, Why.PREEMPTED}
        and not what.by
    )
