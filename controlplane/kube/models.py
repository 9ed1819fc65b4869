"""The parts of Kubernetes objects that are read here, and nothing else: what is not named is skipped while decoding.

A pod's JSON is some 10 KiB, of which a few hundred bytes matter, and there may be 150,000 pods. Field names are those of the
API reference (core/v1, coordination.k8s.io/v1); a field that an older or newer release lacks is ``None``.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class _Shape(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    pass


class OwnerReference(_Shape, frozen=True):
    """metav1.OwnerReference."""

    kind: str
    name: str
    uid: str
    controller: bool | None = None
    api_version: str = ""


class Meta(_Shape, frozen=True):
    """metav1.ObjectMeta."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    finalizers: list[str] | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class FieldRef(_Shape, frozen=True):
    """A field of the pod as a variable's value."""

    field_path: str = ""


class ValueFrom(_Shape, frozen=True):
    """Where a variable's value comes from; of its kinds only the one that the pod itself answers."""

    field_ref: FieldRef | None = None


class EnvVar(_Shape, frozen=True):
    """A variable of a container."""

    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class Named(_Shape, frozen=True):
    """Something of which only matters that it is there."""

    name: str | None = None


class Container(_Shape, frozen=True):
    """A container as it is declared."""

    name: str
    env: list[EnvVar] | None = None
    env_from: list[Named] | None = None


class PodSpec(_Shape, frozen=True):
    """What a pod shall be."""

    node_name: str | None = None
    runtime_class_name: str | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    service_account_name: str | None = None
    termination_grace_period_seconds: int | None = None
    restart_policy: str | None = None
    scheduling_gates: list[Named] | None = None
    scheduling_group: Named | None = None
    """Of the alpha API for groups of pods (KEP-4671) since 1.36; in 1.35 it was the next."""
    workload_ref: Named | None = None


class Condition(_Shape, frozen=True):
    """A condition of a pod or node."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None


class Terminated(_Shape, frozen=True):
    """How a container ended."""

    exit_code: int = 0
    signal: int | None = None
    reason: str | None = None
    message: str | None = None
    container_id: str | None = msgspec.field(default=None, name="containerID")


class ContainerState(_Shape, frozen=True):
    """Of its three kinds only the last is looked into."""

    terminated: Terminated | None = None


class ContainerStatus(_Shape, frozen=True):
    """A container as the kubelet sees it."""

    name: str
    container_id: str | None = msgspec.field(default=None, name="containerID")
    state: ContainerState | None = None
    last_state: ContainerState | None = None
    restart_count: int | None = None


class PodStatus(_Shape, frozen=True):
    """What a pod is."""

    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(_Shape, frozen=True):
    """core/v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Taint(_Shape, frozen=True):
    """A taint of a node."""

    key: str
    value: str | None = None
    effect: str | None = None


class NodeSpec(_Shape, frozen=True):
    """What a node shall be."""

    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class NodeStatus(_Shape, frozen=True):
    """What a node is."""

    conditions: list[Condition] | None = None


class Node(_Shape, frozen=True):
    """core/v1 Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ListMeta(_Shape, frozen=True):
    """metav1.ListMeta."""

    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class Page(_Shape, frozen=True):
    """A list, or a part of one; its items are decoded one by one."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class Status(_Shape, frozen=True):
    """metav1.Status: an error."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None


class Change(_Shape, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Involved(_Shape, frozen=True):
    """What an Event is about, or what it relates to."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None


class Event(_Shape, frozen=True):
    """core/v1 Event, as a list gives it."""

    reason: str | None = None
    message: str | None = None
    related: Involved | None = None


class EventList(_Shape, frozen=True):
    """A list of Events."""

    items: list[Event] | None = None


class LeaseSpec(_Shape, frozen=True):
    """What a Lease says."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None


class LeaseObject(_Shape, frozen=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: Meta
    spec: LeaseSpec = LeaseSpec()
