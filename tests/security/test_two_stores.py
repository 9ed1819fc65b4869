"""Two workers with a directory each, and the real decisions between them: no start on one loses what the other holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from support.world import KEY, World, stored_event

from controlplane.domain import ResolveAsked, SnapshotStatus
from nodeworker.bus import Bus
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.capture.trees import list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.journal import Journal
from nodeworker.restore.fetch import Fetcher
from nodeworker.restore.gpu_restore import GpuRestore
from nodeworker.restore.restore import Restorer
from nodeworker.settings import from_environment
from nodeworker.store import SnapshotStore
from nodeworker.store.snapshots import ManifestHeader
from woodfrog.protocol.events import DumpStarted, ReportedEvent, RestoreFailed, Trigger
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import ContainerId, IncarnationNumber, SnapshotId, WorkerId
from woodfrog.protocol.manifest import TreeName
from woodfrog.protocol.requests import Resolution, ResolveRequest
from woodfrog.protocol.runtime_api import CreateCold, CreateRequest, CreateRestored, LocalAnswer

pytestmark = pytest.mark.timeout(60)

NAME = SnapshotId("20261123T120000Z-00000001")
FACTS = NodeFacts(criu_version="4.1.1")


class Worker:
    """One node: its journal, its store, and the part that answers ``create``."""

    def __init__(self, base: Path, name: str, world: World, *, tells_its_store: bool) -> None:
        self.name, self.world = name, world
        state = base / name
        state.mkdir()
        self.settings = from_environment(
            {
                "WOODFROG_NODE": name, "WOODFROG_CLUSTER": KEY.cluster, "WOODFROG_STATE_DIR": str(state),
                "WOODFROG_RUN_DIR": str(base / f"run-{name}"), "WOODFROG_CREATE_LIMIT_SECONDS": "20",
                "WOODFROG_PRIVILEGES": "snapshot",  # the images here are none of CRIU's
            }
        )  # fmt: skip
        self.journal = Journal(self.settings.journal, node=self.settings.node, worker_id=WorkerId(f"worker-{name}"))
        self.store = SnapshotStore(self.settings.store_url, workers=1, remembered=state)
        self.facts = replace(FACTS, store=self.store.identity.read())
        self.tells_its_store = tells_its_store
        world.register(name, self.facts if tells_its_store else FACTS)
        runc = Runc(Path("/bin/runc"), Path("/bin/criu"))
        copies = SnapshotCache(self.settings.copies, limit_bytes=0, limit_seconds=1)
        self.restorer = Restorer(
            self.settings, self.journal, cast("Bus", self),
            Fetcher(self.store, copies, SpooledCaptures(self.settings.spool, self.journal)), runc,
            GpuRestore(self.journal, runc, cast("Cuda", None), FACTS),
            worker_id=WorkerId(f"worker-{name}"), facts=FACTS, criu_config=CriuConfig("4.2.1"),
        )  # fmt: skip

    async def resolve(
        self, ask: Callable[[int], ResolveRequest], may_be_heard: asyncio.Event | None = None
    ) -> Resolution:
        """Bring to the control plane what was reported, and then the question."""
        self.bring()
        request = ask(0)
        if not self.tells_its_store:
            request = replace(request, facts=FACTS)
        answer = self.world.give(ResolveAsked(request, self.world.source())).answer
        return cast("Resolution", answer)

    def bring(self) -> list[ReportedEvent]:
        """Report what waits."""
        events = []
        for place, report in self.journal.outbox():
            self.world.report(report.event, node=self.name)
            self.journal.confirm(place, place)
            events.append(report.event)
        return events

    async def create(self, base: Path, container: str) -> LocalAnswer:
        bundle = base / f"bundle-{container}"
        await asyncio.to_thread((bundle / "rootfs").mkdir, parents=True)
        config: dict[str, Any] = {"root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc"}]}
        await asyncio.to_thread((bundle / "config.json").write_text, json.dumps(config))
        return await self.restorer.create(CreateRequest(ContainerId(container), str(bundle), "/run/runc", KEY.id))


def dumped(base: Path, worker: Worker) -> None:
    """A container of the worker's node was dumped into the worker's store, and has ended."""
    images = base / "images"
    images.mkdir()
    (images / "inventory.img").write_bytes(b"images")
    world = worker.world
    number = IncarnationNumber(world.run("first", worker.name, facts=worker.facts))
    header = ManifestHeader(NAME, KEY, number, world.now, FACTS, ContainerFacts())
    stored = worker.store.put(header, [list_tree(TreeName.PROCESSES, images)])
    about = world.about(number, NAME)
    world.report(DumpStarted(**about, trigger=Trigger.STOP_SIGNAL, final=True))
    event = stored_event(**about, taken_on=replace(FACTS, store=stored.store))
    world.report(replace(event, manifest_digest=stored.manifest_digest))
    world.ended(number)


@pytest.mark.parametrize("tells_its_store", [True, False], ids=["new worker", "worker that does not know its store"])
async def test_a_start_on_the_other_node_is_cold_and_the_next_one_at_home_goes_on(
    tmp_path: Path, tells_its_store: bool
) -> None:
    world = World()
    a = Worker(tmp_path, "a", world, tells_its_store=True)
    b = Worker(tmp_path, "b", world, tells_its_store=tells_its_store)
    await asyncio.to_thread(dumped, tmp_path, a)
    away = await b.create(tmp_path, "away")
    assert isinstance(away, CreateCold)
    failed = [event for event, _ in world.log if isinstance(event, RestoreFailed)]
    if tells_its_store:
        assert "its bytes are in the store of node a" in away.reason
        assert failed == [], "nobody looked for it in vain"
    else:
        (event,) = failed
        assert (event.failure.code, event.store) == ("snapshot-missing", b.store.identity.last)
    assert world.key.snapshots[NAME].status is SnapshotStatus.VALID
    await b.restorer.ended(ContainerId("away"))
    b.bring()
    home = await a.create(tmp_path, "home")
    assert isinstance(home, CreateRestored)
    assert home.snapshot_id == NAME
    for worker in (a, b):
        await worker.restorer.close()
        worker.journal.close()
