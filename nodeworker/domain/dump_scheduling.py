"""Whose dump comes next on a node that takes only so many at a time: stops first, the soonest deadline before the others.

A drain, a preemption or a spot notice stops every container of a node within the same second. To freeze and write all of them at
once shares memory bandwidth, disk and processors among all, so that each is done last and those with little time are killed in the
middle of it. One after the other, each is done as soon as it can be (earliest deadline first: if any order lets all of them be
in time, this one does).

A dump whose container runs on comes after every stop, because it can be taken later as well. Whoever asks for many of those must
not have the node to himself: one place is kept for stops, so that one which comes while others are being captured waits for
nobody, and one namespace has at most half of the places. Stops of one namespace may have more of them while nobody else
stops anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Final

import msgspec

from woodfrog.protocol.ids import ContainerId

GRACE_PERIOD: Final = "io.kubernetes.pod.terminationGracePeriod"
"""The annotation by which the kubelet tells the engine, of every container, its pod's grace period (newContainerAnnotations in
pkg/kubelet/kuberuntime/labels.go). CRI-O hands all of them on to the runtime, containerd those that its configuration names."""
DEFAULT_GRACE_SECONDS: Final = 30.0
"""What Kubernetes gives a pod that asks for nothing (``terminationGracePeriodSeconds`` in the API reference of Pod)."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A dump that has not begun; its container runs on."""

    container_id: ContainerId
    final: bool
    """Whether the container ends with it: somebody has asked for its end and will not wait for ever."""
    deadline: datetime
    """When it is too late: the stop's grace period is over, or the command is void."""
    arrival: int
    """Counts up, so that of two alike the one that came first goes first."""
    namespace: str = ""


def next_turns(
    waiting: Collection[Waiting], capturing: Collection[Waiting], at_once: int, *, only_final: bool = False
) -> tuple[Waiting, ...]:
    """Say who begins now, the most urgent first, if these are being captured and ``at_once`` may be.

    A container is captured by one dump at a time: while it is, its other dumps wait and hold nobody else up.
    """
    busy = list(capturing)
    begin: list[Waiting] = []

    def give(to: Iterable[Waiting], may: Callable[[Waiting], bool]) -> None:
        for one in to:
            free = len(busy) < at_once and all(other.container_id != one.container_id for other in busy)
            if free and may(one):
                busy.append(one)
                begin.append(one)

    half, for_running = max(1, at_once // 2), max(1, at_once - 1)
    queue = sorted(waiting, key=_urgency)
    stops = [one for one in queue if one.final]
    give(stops, lambda one: _held(busy, one.namespace) < half)
    give(stops, lambda _: True)  # places that nobody else wants now
    if not only_final:
        running = [one for one in queue if not one.final]
        give(running, lambda one: _running(busy) < for_running and _running(busy, one.namespace) < half)
    return tuple(begin)


def _held(busy: Collection[Waiting], namespace: str) -> int:
    return sum(one.namespace == namespace for one in busy)


def _running(busy: Collection[Waiting], namespace: str | None = None) -> int:
    return sum(not one.final and namespace in {None, one.namespace} for one in busy)


def _urgency(one: Waiting) -> tuple[bool, datetime, int]:
    return (not one.final, one.deadline, one.arrival)
