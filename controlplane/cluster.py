"""All that a leading control plane does with Kubernetes, put together: what it watches, what it tells, and what it is asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime

from nats.aio.client import Client

from controlplane.bus.streams import REQUEST_SECONDS
from controlplane.core.loop import DecisionLoop
from controlplane.kube.api import KubernetesApi
from controlplane.kube.event_recorder import EventRecorder
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.limit_reset import JOBS, give_back_until_done
from controlplane.kube.jobs.reconciler import JobReconciler
from controlplane.kube.listwatch import ListWatch
from controlplane.kube.node_conditions import ENDING
from controlplane.kube.node_labels import NodeLabels
from controlplane.kube.object_cache import ignore_change
from controlplane.kube.placement import Placements
from controlplane.kube.watcher import Watcher
from controlplane.log.eventlog import EventLog
from controlplane.settings import Settings


class Cluster:
    """One Kubernetes cluster, for as long as this control plane leads."""

    def __init__(
        self,
        api: KubernetesApi,
        settings: Settings,
        log: EventLog,
        client: Client,
        loop: DecisionLoop,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._preserve_jobs = settings.preserve_jobs
        instance = settings.instance or socket.gethostname()
        classes = settings.runtime_classes
        self._actions = JobActions(api, runtime_classes=classes, instance=instance, clock=clock)
        self._jobs = JobReconciler(
            self._actions, loop, loop.key, loop.nodes, cluster=settings.cluster, runtime_classes=classes
        )
        self._watcher = Watcher(
            api,
            client.jetstream(timeout=REQUEST_SECONDS),
            loop,
            cluster=settings.cluster,
            runtime_classes=classes,
            ending=ENDING if settings.ending_taints is None else settings.ending_taints,
            clock=clock,
            pod_changed=self._jobs.pod_changed if settings.preserve_jobs else ignore_change,
        )
        self._labels = NodeLabels(api, self._watcher.nodes.seen, loop.nodes, clock=clock)
        self._teller = EventRecorder(api, log, loop.committed, loop.key, instance=instance, clock=clock)
        self.placements = Placements(api, self._watcher.pods.find, self._watcher.pods_listed, runtime_classes=classes)
        """Where pods are."""

    async def run(self) -> None:
        """Watch, tell and act until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watcher.run())
            group.create_task(self._teller.run())
            group.create_task(self._labels.run())
            if self._preserve_jobs:
                await self._watcher.pods_listed.wait()  # a pod that a ledger names and nobody has seen counts as gone
                group.create_task(ListWatch(self._api, JOBS, self._jobs).run())
                group.create_task(self._jobs.run())
            else:
                group.create_task(give_back_until_done(self._api, self._actions))
