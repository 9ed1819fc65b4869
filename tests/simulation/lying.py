"""A node that was broken into: it asks for starts in pods that Kubernetes does not have there, and forges what would follow.

What Kubernetes has is truth, like which container really ran. The liar has the rights of its node and no others: its own
questions, its own reports. Whatever it is answered it makes the most of, so that a lie which is believed once leads on to a
snapshot of its own making, and to the node on which that is restored.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from uuid import UUID

from controlplane.domain import Decision
from controlplane.domain.placement import PlacedPod, Placement
from woodfrog.protocol.events import ContainerStarted, DumpStarted, SnapshotCaptured, SnapshotStored, Trigger
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import ResolveRequest

from .laws import Snapshot, Truth
from .network import Broker
from .node import Container, Node

RUNS_AS = "default"
Opened = Callable[[CheckpointKey], list[tuple[IncarnationNumber, NodeName]]]
"""Tells the incarnations of a key, and where they are."""


def has_pod(truth: Truth, node: Node, container: Container) -> None:
    """Have Kubernetes know the pod of a container."""
    uid = container.facts.pod_uid
    assert uid is not None
    truth.pods[uid] = PlacedPod(
        container.key.namespace, uid, uid, node.name, ids=(container.key.id,), service_account=RUNS_AS, owner_kind="Job"
    )


def placement(truth: Truth, request: ResolveRequest) -> Placement:
    """Say what the API says of a start's pod."""
    return Placement(truth.pods.get(request.container.pod_uid or ""))


class Liar:
    """What a node says that was broken into, beside what its worker says."""

    def __init__(self, node: Node, truth: Truth, broker: Broker, chance: Random, opened: Opened) -> None:
        self.node = node
        self.truth = truth
        self.broker = broker
        self.chance = chance
        self.opened = opened
        self.count = 0

    def lie(self, key: CheckpointKey) -> ResolveRequest:
        """Ask for a start of an id: in somebody's pod, in an own one that has another id, or in one that nobody has."""
        self.count += 1
        name = ContainerId(f"lie-{self.node.name}-{self.count}")
        pods = self.truth.pods.values()
        others = [pod.uid for pod in pods if pod.node != self.node.name or key.id not in pod.ids]
        uid = self.chance.choice([*others[-4:], f"made-up-{self.count}"])
        self.truth.lies.add(name)
        facts = ContainerFacts(image="job:1", pod=uid, pod_uid=uid)
        return ResolveRequest(key, name, self.node.name, self.node.worker_id, self.node.facts, facts, 0)

    def make_the_most_of(self, request: ResolveRequest, decision: Decision) -> None:
        """Report a start, and a snapshot that was never taken: of what was answered, or of another node's container."""
        number = getattr(decision.answer, "incarnation", None)
        if number is None:
            others = [start for start, node in self.opened(request.key) if node != self.node.name]
            if not others or self.chance.random() < 0.7:
                return
            number = self.chance.choice(others)
        name = SnapshotId(f"forged-{self.node.name}-{self.count}")
        digest = f"digest-{name}"
        self.truth.forged.add(name)
        self.truth.snapshots[name] = Snapshot(
            request.key,
            number,
            1,
            self.node.name,
            self.node.facts,
            request.container,
            digest,
            content="good",
        )
        about = {"key": request.key, "incarnation": number, "node": self.node.name}
        dump = {**about, "snapshot_id": name}
        stored = SnapshotStored(
            **dump,
            manifest_digest=digest,
            raw_bytes=1,
            stored_bytes=1,
            store_seconds=0.1,
            taken_on=self.node.facts,
            taken_from=request.container,
        )
        events = (
            ContainerStarted(**about, container_id=request.container_id),
            DumpStarted(**dump, trigger=Trigger.STOP_SIGNAL, final=False),
            SnapshotCaptured(**dump, freeze_seconds=0.1, raw_bytes=1),
            stored,
        )
        for event in events:
            report = Report(
                UUID(int=self.chance.getrandbits(128)), self.node.name, self.node.worker_id, self.node.now, event
            )
            self.truth.forgeries.add(str(report.report_id))
            self.broker.take(report)
