"""The way in for what happens to pods: taken from PODS in order, acknowledged once what follows from it is in the log.

Whoever watches over pods, or makes them, publishes there. A message that cannot be read is put down in the log of this process
and terminated at the broker; it stays in PODS under its sequence for a person to look at. Nothing of it is a report: if it is
lost, a successor waits a little longer or asks a node one question more.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.ordered_consumer import OrderedConsumer
from controlplane.bus.streams import MAX_MESSAGE_BYTES
from controlplane.core.input_queue import InputQueue, UndecidableError
from controlplane.domain.inputs import PodSeen
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import InvalidIdError
from woodfrog.protocol.pods import PodEvent

_log = structlog.get_logger(component="pods")

_LOG_RETRY_SECONDS: Final = 0.5


class RefusedPodEventError(ValueError):
    """A message that is no news of a pod; it says why, naming the field."""


class PodEventConsumer:
    """Feeds the input loop from PODS."""

    def __init__(self, client: Client, intake: InputQueue, cluster: str) -> None:
        """News of pods in another cluster than ``cluster`` are refused: their workers are not ours."""
        self._news = OrderedConsumer(
            client,
            stream=subjects.PODS_STREAM,
            durable=subjects.PODS_CONSUMER,
            subjects=subjects.PODS_ALL,
            description="The control plane; acknowledges what it has decided upon",
        )
        self._intake = intake
        self._cluster = cluster
        self.refused = 0

    async def run(self) -> None:
        """Take news in until cancelled, however often the broker goes away."""
        await self._news.follow(self._take_all)

    async def _take_all(self, messages: list[Msg]) -> None:
        for message in messages:
            await self._take(message)

    async def _take(self, message: Msg) -> None:
        try:
            refusal = await self._settle(read_pod_event(message.subject, message.data))
        except (RefusedPodEventError, UndecidableError) as problem:
            refusal = str(problem)
        if refusal is None:
            await message.ack()
            return
        self.refused += 1
        sequence = message.metadata.sequence.stream
        await _log.awarning("news of a pod refused", subject=message.subject, sequence=sequence, reason=refusal)
        await self._news.refuse(message, refusal)

    async def _settle(self, told: PodEvent) -> str | None:
        """Hand it in until the log takes what follows; say why it is not taken, if it is not."""
        if told.cluster != self._cluster:
            return f"this is cluster {self._cluster!r}, not {told.cluster!r} - at `$.cluster`"
        while True:
            try:
                settled = await (await self._intake.enqueue(PodSeen(told), actor="pods"))
            except LogUnavailableError:
                await asyncio.sleep(_LOG_RETRY_SECONDS)
            else:
                return settled.rejected


def read_pod_event(subject: str, data: bytes) -> PodEvent:
    """Read news of a pod as they came over ``subject``.

    Raises:
        RefusedPodEventError: naming what is wrong with them.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise RefusedPodEventError(f"{len(data)} bytes are more than a message may have ({MAX_MESSAGE_BYTES})")
    try:
        told: PodEvent = wire.decode(data, PodEvent)
        told.keys()
    except (wire.MalformedMessageError, InvalidIdError) as problem:
        raise RefusedPodEventError(str(problem)) from problem
    if not told.uid:
        raise RefusedPodEventError("the pod has no uid - at `$.uid`")
    if (problem_of_time := wire.time_problem(told.at)) is not None:
        raise RefusedPodEventError(f"{problem_of_time} - at `$.at`")
    if subjects.pods(told.namespace, told.pod) != subject:
        pod = f"{told.namespace[:60]}/{told.pod[:60]}"
        raise RefusedPodEventError(f"pod {pod} is not published over {subject} - at `$.pod`")
    return told
