"""Bringing a restored container's GPUs back between ``runc restore`` and ``start``, while its processes stand.

It is done then, and not at ``start``, because a failure can still lead to the snapshot before, or to a cold start; ``start``
may only fail. What is to go where comes from the live bundle; of the snapshot only the UUIDs of its GPUs count.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from nodeworker import bundle
from nodeworker.bundle import Bundle
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.gpu import devices
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.domain.gpu import visible_gpus
from nodeworker.errors import failure_of, refusal
from nodeworker.journal import ContainerRecord, Journal
from nodeworker.restore.post_restore import PostRestore
from woodfrog.protocol.facts import ContainerFacts, NodeFacts, pair_gpus
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.manifest import Manifest
from woodfrog.protocol.runtime_api import Done, LocalAnswer, Refused


class GpuRestore:
    """The GPUs of all containers that are being created on this node."""

    def __init__(self, journal: Journal, runc: Runc, cuda: Cuda, facts: NodeFacts) -> None:
        self._journal = journal
        self._runc = runc
        self._cuda = cuda
        self._facts = facts
        self._failures: dict[ContainerId, Failure] = {}
        self.settler = PostRestore(journal, runc)
        """For what else is done while the processes stand."""

    def facts_of(self, live: Bundle) -> ContainerFacts:
        """The bundle's facts, with the GPUs that the container will see on this node."""
        return msgspec.structs.replace(live.facts, gpus=visible_gpus(live.gpu, self._facts.gpus))

    def sources(self, manifest: Manifest, container: ContainerFacts) -> tuple[str, ...]:
        """The GPUs of a snapshot, if it has any and can go on here.

        Raises:
            FailureError: if it cannot. Nothing of the snapshot has touched the container.
        """
        if not manifest.container_facts.gpus:
            return ()
        self._cuda.refuse_restore(manifest.node_facts, manifest.container_facts, container)
        return manifest.container_facts.gpus

    async def bring_back(self, container_id: ContainerId) -> LocalAnswer:
        """Give a restored container, whose processes stand until ``start``, its GPUs and what lay on them."""
        self._failures.pop(container_id, None)
        try:
            await asyncio.to_thread(self._bring_back, container_id)
        except Exception as problem:  # noqa: BLE001 -- whatever it was, the runtime cleans up and asks for the next best way
            failure = failure_of(problem)
            self._failures[container_id] = failure
            return Refused(failure)
        return Done()

    def take_failure(self, container_id: ContainerId) -> Failure | None:
        """Why the GPUs could not be brought back, if that is why a restore failed; answered once."""
        return self._failures.pop(container_id, None)

    def _bring_back(self, container_id: ContainerId) -> None:
        record = self._journal.container(container_id)
        if record is None or record.applied is None:
            raise refusal("container-unknown", f"the worker restores no container {container_id}", "Create it again.")
        if record.gpu_sources:
            self._bring_back_gpus(record)
        self.settler.settle(record)

    def _bring_back_gpus(self, record: ContainerRecord) -> None:
        state = self._runc.state(Path(record.runc_root), record.container_id)
        devices.renew(state.pid, bundle.read(record.bundle).devices)
        pairs = pair_gpus(record.gpu_sources, record.facts.gpus or record.gpu_sources)
        moved = any(old != new for old, new in pairs)
        self._cuda.resume_stopped(state, pairs if moved else ())
