"""News of pods over NATS: what is published there by anybody is recorded once; what is no news is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess
from support.worker import KEY, eventually, query, swallow_next
from support.world import NOON

from controlplane.bus.pod_event_consumer import RefusedPodEventError, read_pod_event
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.pods import Happened, PodEvent, ProtectedContainer, Scheduled, Terminating, Why

NEWS = PodEvent(
    version=1,
    cluster=KEY.cluster,
    namespace=KEY.namespace,
    pod="train-1",
    uid="u1",
    resource_version="7",
    node=NodeName("node-1"),
    containers=(ProtectedContainer("main", KEY.id),),
    at=NOON,
    happened=Scheduled(),
)
SUBJECT = subjects.pods(KEY.namespace, "train-1")


def changed(**what: Any) -> bytes:
    return wire.encode(msgspec.structs.replace(NEWS, **what))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"{", "truncated"),
        (b"{}", "version"),
        (wire.encode(NEWS).replace(b'"version":1', b'"version":2'), "$.version"),
        (wire.encode(NEWS).replace(b'"scheduled"', b'"vanished"'), "$.happened"),
        (changed(uid=""), "$.uid"),
        (changed(pod="another"), "$.pod"),
        (changed(containers=(ProtectedContainer("main", "../x"),)), "checkpoint id"),
        (changed(at=NOON.replace(tzinfo=None)), "$.at"),
        (changed(annotations={"woodfrog.io/x": "a" * 600_000}), "bytes"),
    ],
)
def test_a_message_that_is_no_news_is_refused_naming_what_is_wrong(data: bytes, named: str) -> None:
    with pytest.raises(RefusedPodEventError) as refused:
        read_pod_event(SUBJECT, data)
    assert named in str(refused.value)


def test_a_field_that_a_newer_writer_added_is_ignored() -> None:
    data = wire.encode(NEWS)[:-1] + b',"from_the_future":{}}'
    assert read_pod_event(SUBJECT, data) == NEWS


async def publish(client: Client, happened: Happened, *, subject: str = SUBJECT, **other: Any) -> None:
    told = msgspec.structs.replace(NEWS, happened=happened, **other)
    await client.jetstream().publish(subject, wire.encode(told), headers={"Nats-Msg-Id": told.message_id})


async def recorded(client: Client) -> list[str]:
    return [row["type"] for row in await query(client, "events") if row["type"].startswith("pod.")]


@pytest.mark.nats
async def test_what_anybody_publishes_is_recorded_once_over_a_restart_too(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    await publish(client, Scheduled())
    await publish(client, Terminating(why=Why.DELETED))

    async def both() -> bool:
        return await recorded(client) == ["pod.scheduled", "pod.terminating"]

    await eventually(both, saying="both are recorded")
    control_plane.stop()
    control_plane.start()
    await publish(client, Terminating(why=Why.DELETED), resource_version="9")
    await publish(client, Scheduled(), resource_version="9")
    await client.jetstream().publish(SUBJECT, b"nonsense")
    await asyncio.sleep(1)
    assert await recorded(client) == ["pod.scheduled", "pod.terminating"]
    assert control_plane.lines("news of a pod refused")


@pytest.mark.nats
async def test_news_of_another_cluster_are_refused(client: Client, control_plane: ControlPlaneProcess) -> None:
    await publish(client, Scheduled(), cluster="elsewhere")
    await asyncio.to_thread(control_plane.wait_for, "news of a pod refused")
    assert await recorded(client) == []


@pytest.mark.nats
async def test_news_that_went_to_somebody_else_are_taken_in_before_those_behind_them(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    await publish(client, Scheduled(), pod="train-0", uid="u0", subject=subjects.pods(KEY.namespace, "train-0"))

    async def first() -> bool:
        info = await client.jetstream().consumer_info(subjects.PODS_STREAM, subjects.PODS_CONSUMER)
        return info.ack_floor is not None and info.ack_floor.stream_seq == 1

    await eventually(first, saying="the first is taken in")
    control_plane.stop()
    swallowed = await swallow_next(client, subjects.PODS_STREAM, subjects.PODS_CONSUMER)
    control_plane.start()
    await publish(client, Scheduled())
    await publish(client, Terminating(why=Why.DELETED))
    await swallowed.next_msg(timeout=10)

    async def both() -> bool:
        return len(await recorded(client)) == 3

    await eventually(both, saying="all are recorded")
    assert await recorded(client) == ["pod.scheduled", "pod.scheduled", "pod.terminating"]
