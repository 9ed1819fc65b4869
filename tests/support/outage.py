"""One worker's uploader, whose store is a directory that can be away, and captures for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from nodeworker import settings as worker_settings
from nodeworker.capture.bounds import Bounds
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.criu.spool import Spool
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import DumpRecord, DumpStep, Journal
from nodeworker.rehearsal.rehearsals import Rehearsals
from nodeworker.settings import Settings
from nodeworker.store.snapshots import SnapshotStore
from support.worker import eventually
from woodfrog.protocol.events import ReportedEvent, Trigger
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId

BEGAN = datetime(2026, 11, 29, 12, 3, tzinfo=UTC)
BOOT = "this boot"


class Outage:
    """A node whose store is a directory that can be away."""

    def __init__(self, base: Path, **more: str) -> None:
        environment = {
            "WOODFROG_NODE": "a",
            "WOODFROG_STATE_DIR": str(base / "state"),
            "WOODFROG_RUN_DIR": str(base / "run"),
            "WOODFROG_COPIES": "off",
            "WOODFROG_STORE_ATTEMPTS": "2",
            "WOODFROG_STORE_PAUSE_LIMIT": "0.02s",
        }
        self.settings: Settings = worker_settings.from_environment(environment | more)
        self.settings.spool.mkdir(parents=True)
        self.place = base / "state/store"
        self.journal = Journal(base / "journal", node=NodeName("a"), worker_id=WorkerId("w"))
        self.events: list[ReportedEvent] = []
        self.journal.on_events = self.events.extend
        self.uploader = self.begin()

    def begin(self) -> SnapshotUploader:
        """The next worker's."""
        self.store = store = SnapshotStore(self.settings.store_url)
        copies = SnapshotCache(self.settings.copies, limit_bytes=0, limit_seconds=1)
        facts, runc = NodeFacts("x86_64"), Runc(Path("runc"), Path("criu"))
        rehearsals = Rehearsals(self.settings, self.journal, runc, facts=facts, criu_config=None)
        self.uploader = SnapshotUploader(self.settings, self.journal, store, copies, facts, rehearsals)
        return self.uploader

    def away(self) -> None:
        """Let the store's place be something else."""
        if self.place.exists():
            self.place.rename(self.place.with_name("elsewhere"))
        self.place.write_text("not a directory")

    def back(self) -> None:
        self.place.unlink()
        elsewhere = self.place.with_name("elsewhere")
        if elsewhere.exists():
            elsewhere.rename(self.place)

    def capture(
        self, number: int, *, final: bool, name: str = "job", boot: str = BOOT, layer: Path | None = None
    ) -> DumpRecord:
        """A whole capture."""
        record = DumpRecord(
            snapshot_id=SnapshotId(f"20261129T12000{number}Z-0000000{number}"),
            container_id=ContainerId(f"c{number}"),
            key=CheckpointKey("local", "default", name),
            incarnation=IncarnationNumber(1),
            trigger=Trigger.STOP_SIGNAL if final else Trigger.SCHEDULE,
            final=final,
            facts=ContainerFacts(),
            started_at=BEGAN + timedelta(seconds=number),
            boot_id=boot,
            step=DumpStep.CAPTURED,
        )
        spool = Spool(self.settings.spool / record.snapshot_id)
        spool.make()
        (spool.images / "inventory.img").write_bytes(b"images")
        spool.write_list(spool.copy_files(layer, None, {}, Bounds()))
        self.journal.save_dump(record)
        return record

    async def refused(self, times: int) -> None:
        """Wait until storing was tried so often."""
        tried: list[bool] = []
        real = self.uploader._tried

        async def counted(record: DumpRecord) -> Exception | None:
            tried.append(True)
            return await real(record)

        self.uploader._tried = counted  # type: ignore[method-assign]

        async def often() -> bool:
            return len(tried) >= times

        await eventually(often, saying=f"it was tried {times} times")

    def of(self, kind: type[ReportedEvent]) -> list[ReportedEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def end(self) -> None:
        await self.uploader.close()
