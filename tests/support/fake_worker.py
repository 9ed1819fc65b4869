"""A node worker whose dumps are fake: ``python fake_worker.py FOLDER NODE URL CONTAINERS``, to be killed at any moment.

Its bus, its journal and its commands are the real ones; only what would freeze and store a container appends a line to a file
named for the command instead, so that a test can count how often each command was really carried out.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.bus import Bus
from nodeworker.journal import ContainerRecord, ContainerState, DumpRecord, DumpStep, Journal
from woodfrog.protocol.events import (
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    NodeRegistered,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
    new_snapshot_id,
)
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import Refusal, ResolveRequest, WaitFor
from woodfrog.service.lifecycle import until_signalled

FACTS = NodeFacts(architecture="x86_64")
RESTARTED = Failure("worker-restarted", "the worker was restarted during the dump", "Ask again.")

ROOT = Path(__file__).parents[2]


class FakePort:
    """Dumper and uploader in one: takes its time, counts, and keeps the journal as the real ones do."""

    def __init__(self, journal: Journal, node: NodeName, effects: Path) -> None:
        self._journal = journal
        self._node = node
        self._effects = effects
        self._busy: set[ContainerId] = set()
        self._stores: dict[SnapshotId, asyncio.Task[None]] = {}

    def is_dumping(self, container_id: ContainerId) -> bool:
        return container_id in self._busy

    async def storing_for(self, command_id: str) -> SnapshotId | None:
        dumps = await asyncio.to_thread(self._journal.dumps)
        return next(
            (d.snapshot_id for d in dumps if d.command_id == command_id and d.snapshot_id in self._stores), None
        )

    async def wait(self, snapshot_id: SnapshotId) -> None:
        if snapshot_id in self._stores:
            await asyncio.wait([self._stores[snapshot_id]])

    async def checkpoint(self, container: ContainerRecord, command: Any) -> SnapshotId:
        command_id = getattr(command, "command_id", command)
        self._busy.add(container.container_id)
        try:
            now = datetime.now(UTC)
            record = DumpRecord(
                snapshot_id=new_snapshot_id(now), container_id=container.container_id, key=container.key,
                incarnation=container.incarnation, trigger=Trigger.COMMAND, final=False, facts=container.facts,
                started_at=now, boot_id="boot", command_id=command_id,
            )  # fmt: skip
            about = self._about(record)
            started = DumpStarted(**about, trigger=Trigger.COMMAND, final=False, command_id=command_id)
            await asyncio.to_thread(self._journal.save_dump, record, started)
            with (self._effects / command_id).open("a") as effect:
                effect.write("x")
            await asyncio.sleep(random.uniform(0.0, 0.1))
            record = msgspec.structs.replace(record, step=DumpStep.CAPTURED)
            captured = SnapshotCaptured(**about, freeze_seconds=0.1, raw_bytes=1)
            await asyncio.to_thread(self._journal.save_dump, record, captured)
        finally:
            self._busy.discard(container.container_id)
        self.store(record)
        return record.snapshot_id

    def store(self, record: DumpRecord) -> None:
        task = asyncio.create_task(self._store(record))
        self._stores[record.snapshot_id] = task
        task.add_done_callback(lambda _: self._stores.pop(record.snapshot_id, None))

    async def _store(self, record: DumpRecord) -> None:
        await asyncio.sleep(random.uniform(0.0, 0.2))
        stored = SnapshotStored(
            **self._about(record), manifest_digest="ab" * 32, raw_bytes=1, stored_bytes=1, store_seconds=0.1,
            taken_on=FACTS, taken_from=record.facts, command_id=record.command_id,
        )  # fmt: skip
        await asyncio.to_thread(self._journal.finish_dump, record, None, stored)

    def settle(self) -> list[DumpRecord]:
        """Fail what a killed life left half done, and answer what is still to be stored."""
        whole = []
        for record in self._journal.dumps():
            if record.step is DumpStep.CAPTURED:
                whole.append(record)
                continue
            failed = DumpFailed(
                **self._about(record), stage=DumpStage.CAPTURE, failure=RESTARTED, command_id=record.command_id
            )
            self._journal.finish_dump(record, RESTARTED, failed)
        return whole

    def _about(self, record: DumpRecord) -> dict[str, Any]:
        return {
            "key": record.key,
            "incarnation": record.incarnation,
            "snapshot_id": record.snapshot_id,
            "node": self._node,
        }


def key_of(node: str, number: int) -> CheckpointKey:
    return CheckpointKey("local", "default", f"{node}-job-{number}")


async def live(folder: Path, node: NodeName, url: str, containers: int) -> None:
    effects = folder / "effects"
    effects.mkdir(parents=True, exist_ok=True)
    worker_id = WorkerId(str(uuid.uuid4()))
    journal = Journal(folder / f"{node}.journal", node=node, worker_id=worker_id)
    bus = Bus(url, node, journal, heartbeat=lambda: Heartbeat(node, worker_id, "boot", FACTS))
    port: Any = FakePort(journal, node, effects)
    executor = CommandExecutor(journal, port, port, port, port)
    journal.report(NodeRegistered(node=node, worker_id=worker_id, boot_id="boot", facts=FACTS))
    for record in port.settle():
        port.store(record)

    async def start(number: int) -> None:
        key, container_id = key_of(node, number), ContainerId(f"c{number}")
        if journal.container(container_id) is not None:
            return
        while True:
            answer = await bus.resolve(
                lambda sequence: ResolveRequest(key, container_id, node, worker_id, FACTS, ContainerFacts(), sequence)
            )
            assert not isinstance(answer, Refusal), answer
            if not isinstance(answer, WaitFor):
                break
        number_given = IncarnationNumber(answer.incarnation)
        record = ContainerRecord(
            container_id=container_id, key=key, bundle="/none", runc_root="/none", facts=ContainerFacts(),
            asked_at=datetime.now(UTC), state=ContainerState.RUNNING, incarnation=number_given,
        )  # fmt: skip
        started = ContainerStarted(key=key, incarnation=number_given, node=node, container_id=container_id)
        await asyncio.to_thread(journal.save_container, record, started)

    async def start_all() -> None:
        for number in range(containers):
            await start(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(bus.run(executor.obey))
        group.create_task(start_all())


class FakeWorkerProcess:
    """This module as a process, on a journal of its own, for tests that kill it."""

    def __init__(self, folder: Path, node: str, url: str, containers: int) -> None:
        self.node = node
        self.effects = folder / "effects"
        self.journal = folder / f"{node}.journal"
        self._log = folder / f"{node}.log"
        self._command = [sys.executable, __file__, str(folder), node, url, str(containers)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def text(self) -> str:
        return self._log.read_text()

    def effect(self, command_id: str) -> int:
        """Tell how often a command was really carried out."""
        path = self.effects / command_id
        return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    where, name, broker, count = sys.argv[1:]
    asyncio.run(until_signalled(live(Path(where), NodeName(name), broker, int(count))))
