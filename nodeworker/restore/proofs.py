"""What a restored container waits for before it may run: that all it was given is proved, and that its mounts are as they must be.

Both are done while its processes are stopped, between ``runc restore`` and ``start``, when a failure can still lead to the snapshot
before or to a cold start. The runtime asks for it, and nothing of it outlives a worker: its successor refuses.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from nodeworker.capture import afterwards
from nodeworker.capture.afterwards import Afterwards
from nodeworker.capture.criu.runc import Runc
from nodeworker.domain.common_failures import broken_copy
from nodeworker.errors import failure_of, refusal
from nodeworker.journal import ContainerRecord
from nodeworker.restore.fetch import Fetched, Fetcher
from nodeworker.threads import in_daemon_thread
from woodfrog.protocol.failures import PRIVILEGES_EXCEED, Failure
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import Done, LocalAnswer, Refused


class Proofs:
    """Of the containers that this worker restores. Used in the event loop only."""

    def __init__(self, fetcher: Fetcher, runc: Runc) -> None:
        self._fetcher = fetcher
        self._runc = runc
        self._running: dict[ContainerId, asyncio.Future[None]] = {}
        self._afterwards: dict[ContainerId, tuple[ContainerRecord, Afterwards]] = {}

    def begin(self, record: ContainerRecord, fetched: Fetched) -> None:
        """Begin to prove what is left to be proved, while the container is restored, and note what is to be done afterwards."""
        self.forget(record.container_id)
        if (what := fetched.checked.afterwards) is not None:
            self._afterwards[record.container_id] = (record, what)
        elif not fetched.unproved:
            return
        self._note(
            record.container_id,
            asyncio.ensure_future(in_daemon_thread(lambda: self._fetcher.prove(record.key, fetched))),
        )

    def wanted(self, container_id: ContainerId) -> bool:
        """Return whether the runtime has to ask before the container may run."""
        return container_id in self._running

    async def answer(self, container_id: ContainerId) -> LocalAnswer:
        """Wait until all is proved, do what is to be done to the restored container, and say whether it may run."""
        if container_id not in self._running:
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lost.set_exception(broken_copy("The worker that began to prove the copy is gone."))
            self._note(container_id, lost)
        if (failure := await self.failure(container_id)) is None and container_id in self._afterwards:
            record, what = self._afterwards[container_id]
            self._note(container_id, asyncio.ensure_future(asyncio.to_thread(self._do, record, what)))
            failure = await self.failure(container_id)
        return Done() if failure is None else Refused(failure)

    async def failure(self, container_id: ContainerId) -> Failure | None:
        """Wait, and return why a container may not run; nothing is wrong with one that waits for nothing."""
        proof = self._running.get(container_id)
        if proof is None:
            return None
        await asyncio.wait([proof])
        problem = proof.exception()
        return None if problem is None else failure_of(problem)

    def forget(self, container_id: ContainerId) -> None:
        """Forget a container that runs, or that is gone."""
        self._running.pop(container_id, None)
        self._afterwards.pop(container_id, None)

    def _note(self, container_id: ContainerId, proof: asyncio.Future[None]) -> None:
        proof.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running[container_id] = proof

    def _do(self, record: ContainerRecord, what: Afterwards) -> None:
        try:
            state = self._runc.state(Path(record.runc_root), record.container_id)
            afterwards.do({state.pid, *state.freezer.pids()}, what)
        except OSError as problem:
            raise refusal(
                PRIVILEGES_EXCEED,
                f"its mounts could not be made what the new container allows: {problem}",
                "The snapshot is kept and left out of this start. Update CRIU on this node to 4.2 or newer.",
            ) from problem
