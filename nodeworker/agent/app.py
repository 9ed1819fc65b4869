"""The node worker put together: what it does first, what it serves, and how it ends without leaving anything frozen.

It goes on without NATS and without the control plane: dumps at the stop signal are taken, journaled and stored, and told
when somebody listens again. Only a ``create`` has to wait, because only the control plane knows what to start from.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from nodeworker import reports
from nodeworker.agent import absence
from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.agent.forgotten_snapshots import ForgottenSnapshots
from nodeworker.agent.local_server import LocalServer
from nodeworker.agent.metrics import Metrics
from nodeworker.agent.recovery import release_gpus, settle_dumps, thaw_all
from nodeworker.agent.runtime_fifo import RuntimeFifo
from nodeworker.agent.status_watch import Creates, StatusWatch
from nodeworker.agent.store_watch import StoreWatch
from nodeworker.bus import Bus
from nodeworker.capture.criu import criu
from nodeworker.capture.criu.cgroup_yard import make_yard
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.gpu.cuda import Cuda, with_gpus
from nodeworker.capture.gpu.driver_process import DriverProcess
from nodeworker.disk.reservations import Disk
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.host import facts, self_test, self_test_report
from nodeworker.journal import ContainerRecord, ContainerState, FrozenRecord, Journal
from nodeworker.rehearsal.rehearsals import Rehearsals
from nodeworker.restore.fetch import Fetcher
from nodeworker.restore.fetch_gate import FetchGate
from nodeworker.restore.gpu_restore import GpuRestore
from nodeworker.restore.restore import Restorer
from nodeworker.restore.speculative_create import SpeculativeCreates
from nodeworker.runtime.container import Marker
from nodeworker.settings import Settings
from nodeworker.store.encryption_keys import KeyRing
from nodeworker.store.snapshots import SnapshotStore
from woodfrog.protocol.events import NodeRegistered
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import ContainerId, WorkerId
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.runtime_api import (
    Containers,
    ContainerStatus,
    CreateRequest,
    DeletedNotification,
    Done,
    GpuRestoreRequest,
    ListContainersRequest,
    LocalAnswer,
    LocalAsk,
    NotDumped,
    ProofRequest,
    RestoreFailedNotification,
    StartedNotification,
    Stopped,
    StopRequest,
)
from woodfrog.service.data_keys import DataKeyError, Recipient
from woodfrog.service.http import HttpServer, probes

_log = structlog.get_logger(component="worker")

_SWEEP_SECONDS: Final = 5.0
_CREATE_GRACE: Final = timedelta(minutes=10)
"""How long a container may be on its way to runc before nobody is believed to create it any more."""
_ASK_GRACE: Final = timedelta(minutes=1)
"""How long nobody may ask how to create a container until nobody is believed to do it any more."""
_LAST_WORDS_SECONDS: Final = 2.0


def _tool(name: str) -> Path:
    """Find a program: by its path, or by PATH."""
    found = shutil.which(name)
    if found is None:
        raise FailureError(
            Failure("tool-missing", f"{name} does not exist or is not a program", "Install it, or set its path.")
        )
    return Path(found).absolute()


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the state directory for this process only; the kernel lets go of it however the process ends.

    Raises:
        FailureError: ``worker-running``.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(settings.state_dir / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            cause = f"another node worker uses {settings.state_dir}"
            raise FailureError(
                Failure("worker-running", cause, "Stop that one, or use another directory.")
            ) from problem
        yield
    finally:
        os.close(descriptor)


def _open_store(settings: Settings) -> SnapshotStore:
    """Open the store, with its keys if there are any."""
    keys = KeyRing() if settings.store_key_file is None else KeyRing.from_file(settings.store_key_file)
    try:
        file = settings.data_key_recipient_file
        recipient = None if file is None else Recipient.from_file(file)
    except DataKeyError as problem:
        raise FailureError(
            Failure("data-key-unusable", str(problem), "Correct WOODFROG_DATA_KEY_RECIPIENT_FILE.")
        ) from problem
    try:
        return SnapshotStore(settings.store_url, keys=keys, recipient=recipient, remembered=settings.state_dir)
    except ValueError as problem:
        advice = "Correct WOODFROG_STORE_URL, or give what its cloud needs beside it."
        raise FailureError(Failure("store-url", str(problem), advice)) from problem


class Worker:
    """One life of a node worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker_id = WorkerId(str(uuid.uuid4()))
        self._missing: set[ContainerId] = set()
        self._serving_since: datetime | None = None
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    async def run(self) -> None:
        """Serve until cancelled, or until the node's GPU driver is another: whoever keeps workers starts the next.

        Raises:
            FailureError: if runc or CRIU is missing or unfit (``self-test-failed``), or another worker uses the same state
                directory.
        """
        settings = self._settings
        with _alone(settings):
            settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            journal = Journal(settings.journal, node=settings.node, worker_id=self._worker_id)
            try:
                await self._live(journal)
            finally:
                journal.close()

    async def _live(self, journal: Journal) -> None:
        settings = self._settings
        frozen = await thaw_all(settings, journal)
        self._journal = journal
        self._runc = Runc(_tool(settings.runc), _tool(settings.criu))
        driver = DriverProcess(settings.nvidia_libraries)
        self._facts: NodeFacts = await asyncio.to_thread(
            lambda: with_gpus(facts.probe(self._runc.binary, self._runc.criu), driver)
        )
        self._cuda = Cuda(driver, self._facts, lock_seconds=settings.gpu_lock_seconds)
        criu.refuse_too_old(self._runc.criu, self._facts.criu_version)
        outcome = await self._self_test()
        config = self._criu_config()
        store = await self._store()
        bus = Bus(
            settings.nats_url,
            settings.node,
            journal,
            heartbeat=self._heartbeat,
            seed_file=settings.nats_seed_file,
            token_file=settings.nats_token_file,
            trust=settings.nats_trust,
        )
        disk = Disk(
            settings.disk_limit_bytes,
            (settings.spool, settings.fetched, settings.copies),
            spare_share=settings.copies_spare_percent / 100,
        )
        gate = FetchGate(settings.prefetches_at_once)
        copies = await asyncio.to_thread(
            lambda: SnapshotCache(
                settings.copies, limit_bytes=settings.copies_bytes, limit_seconds=settings.copies_seconds, disk=disk
            )
        )
        self._uploader = SnapshotUploader(settings, journal, store, copies, self._facts, await self._rehearsals(config))
        self._dumper = Dumper(
            settings, journal, bus, self._runc, self._uploader, copies,
            cuda=self._cuda, disk=disk, criu_config=config, boot_id=self._boot_id,
        )  # fmt: skip
        self._gpus = GpuRestore(journal, self._runc, self._cuda, self._facts)
        self._restorer = Restorer(
            settings,
            journal,
            bus,
            Fetcher(store, copies, SpooledCaptures(settings.spool, journal), disk),
            self._runc,
            self._gpus,
            worker_id=self._worker_id,
            facts=self._facts,
            criu_config=config,
            gate=gate,
        )
        self._ahead = SpeculativeCreates(
            self._restorer.create,
            known=lambda container_id: journal.container(container_id) is not None,
            forget=self._restorer.ended,
        )
        executor = CommandExecutor(journal, self._dumper, self._uploader, store, copies, gate)
        creates = Creates(self._restorer.creates.is_under_way, self._restorer.creates.doing)
        self._status_watch = StatusWatch(
            settings.state_dir, journal, executor, self._dumper, creates, disk, outcome.told()
        )
        metrics = Metrics(journal, bus, self._dumper, self._uploader, disk, gate)
        self._restorer.on_fetched = metrics.fetched
        await asyncio.to_thread(journal.report, self._registration(journal))
        await self._recover(journal, frozen)
        await self._sweep()
        await self._sweep()  # nobody can be about to tell us of an end now, so the second look follows at once
        server = LocalServer(settings.socket, self._answer, self._void)
        try:
            async with asyncio.TaskGroup() as group:
                connection = group.create_task(
                    bus.run(executor.obey, ForgottenSnapshots(journal, store, copies).remove)
                )
                background = self._begin(group, metrics)
                tells = RuntimeFifo(settings.tells, lambda words: self._hear(group, words))
                try:
                    await server.start()
                    tells.start()
                    metrics.serves()
                    await _log.ainfo(
                        "node worker ready", node=settings.node, worker_id=self._worker_id, socket=str(settings.socket)
                    )
                    await self._keep_house(copies)
                finally:
                    tells.close()
                    await self._end(server, executor, bus)
                    connection.cancel()
                    for task in background:
                        task.cancel()
        finally:
            await _log.ainfo("node worker stopped", worker_id=self._worker_id)

    async def _self_test(self) -> self_test.Outcome:
        try:
            return await asyncio.to_thread(self_test.ensure, self._runc.binary, self._runc.criu)
        except self_test.SelfTestFailedError as problem:
            await self_test_report.tell(self._settings, problem.outcome.told())
            raise

    async def _recover(self, journal: Journal, frozen: dict[ContainerId, FrozenRecord]) -> None:
        """Settle what the life before left half done, and go on storing what it captured."""
        await asyncio.to_thread(release_gpus, journal, self._cuda, frozen)
        whole = await asyncio.to_thread(
            lambda: settle_dumps(
                self._settings, journal, self._uploader, self._runc, boot_id=self._boot_id, frozen=frozen
            )
        )
        for record in whole:
            self._uploader.store(record)
        await self._restorer.hear_out()

    async def _rehearsals(self, config: CriuConfig | None) -> Rehearsals:
        rehearsals = Rehearsals(self._settings, self._journal, self._runc, facts=self._facts, criu_config=config)
        await asyncio.to_thread(rehearsals.recover)
        return rehearsals

    async def _store(self) -> SnapshotStore:
        """Open the store and look which one it is."""
        store = await asyncio.to_thread(_open_store, self._settings)
        self._store_watch = StoreWatch(store.identity)
        await self._store_watch.look()
        return store

    def _criu_config(self) -> CriuConfig | None:
        number = self._facts.criu_version
        yard = make_yard(self._settings.run_dir, self._facts.cgroup_version)
        return None if number is None else CriuConfig(number, None if yard is None else str(yard))

    async def _keep_house(self, copies: SnapshotCache) -> None:
        """Look after what nobody asks for, until the node's GPU driver is another one: a new life registers with that."""
        self._serving_since = datetime.now(UTC)
        while not await asyncio.to_thread(lambda: self._cuda.driver_changed):
            await asyncio.sleep(_SWEEP_SECONDS)
            await self._sweep()
            await asyncio.to_thread(copies.prune)
            await asyncio.to_thread(self._cuda.rest)
        await _log.awarning("this node's NVIDIA driver has come, gone or changed: restarting")

    def _begin(self, group: asyncio.TaskGroup, metrics: Metrics) -> list[asyncio.Task[None]]:
        """Begin what runs beside everything else: the looks at the store and at the worker itself, and the pages."""
        shown = metrics.pages()
        pages = (
            group.create_task(HttpServer(address, some).run())
            for address, some in ((self._settings.http_address, shown), (self._settings.probe_address, probes(shown)))
            if address is not None
        )
        return [group.create_task(self._store_watch.run()), group.create_task(self._status_watch.run()), *pages]

    async def _end(self, server: LocalServer, executor: CommandExecutor, bus: Bus) -> None:
        """Finish what would leave a container half-way, leave the rest to the next life, and say what is to be said."""
        await server.refuse_new()
        await self._dumper.close()
        self._restorer.leave_fetches()
        await server.stop(_LAST_WORDS_SECONDS)
        await self._ahead.close()
        await self._restorer.close()
        await executor.close()
        await self._uploader.close()
        await asyncio.to_thread(self._cuda.close)
        if bus.connected:
            await bus.flush(_LAST_WORDS_SECONDS)

    def _heartbeat(self) -> Heartbeat:
        facts = self._store_watch.add_to(self._facts)
        node, now = self._settings.node, datetime.now(UTC)
        return Heartbeat(node, self._worker_id, self._boot_id, facts, at=now, status=self._status_watch.last)

    def _registration(self, journal: Journal) -> NodeRegistered:
        facts = self._store_watch.add_to(self._facts)
        return reports.registered(self._settings.node, self._worker_id, self._boot_id, facts, journal.identity)

    def _hear(self, group: asyncio.TaskGroup, words: list[str]) -> None:
        """Take in what the runtime's shell part says."""
        match words:
            case ["started", container_id]:
                group.create_task(self._note_started(ContainerId(container_id)))
            case ["create", container_id, root, folder, variable]:
                self._ahead.expect(ContainerId(container_id), root, folder, variable)

    async def _note_started(self, container_id: ContainerId) -> None:
        try:
            await self._restorer.started(container_id)
        except (OSError, sqlite3.Error) as problem:  # the next sweep sees that it runs
            await _log.awarning("a start could not be noted", container_id=container_id, error=problem)

    async def _answer(self, ask: LocalAsk) -> LocalAnswer:
        match ask:
            case CreateRequest():
                return await self._restorer.creates.carry_out(ask.container_id, self._ahead.create(ask))
            case RestoreFailedNotification():
                return await self._restorer.creates.carry_out(ask.container_id, self._restorer.restore_failed(ask))
            case ProofRequest():
                return await self._restorer.proved(ask)
            case GpuRestoreRequest():
                return await self._gpus.bring_back(ask.container_id)
            case StartedNotification():
                await self._restorer.started(ask.container_id)
                return Done()
            case StopRequest():
                return await self._stop(ask.container_id)
            case DeletedNotification():
                await self._ahead.cancel(ask.container_id)
                await self._restorer.ended(ask.container_id, ask.exit_code)
                self._dumper.forget(ask.container_id)
                return Done()
            case ListContainersRequest():
                records = await asyncio.to_thread(self._journal.containers)
                return Containers(tuple(self._status(record) for record in records))

    async def _stop(self, container_id: ContainerId) -> LocalAnswer:
        await self._note_overtaken_start(container_id)
        await self._restorer.stopped(container_id)
        if await asyncio.to_thread(self._is_unstarted, container_id):
            cause = f"container {container_id} has not started yet"
            return NotDumped(Failure("not-running", cause, "Ask again when it runs."))
        try:
            return Stopped(await self._dumper.stop(container_id))
        except FailureError as problem:
            return NotDumped(problem.failure)

    async def _note_overtaken_start(self, container_id: ContainerId) -> None:
        """Note a start that was told by a pipe, which a stop has overtaken; and if the container runs: a stop waits for no hook."""
        record = await asyncio.to_thread(self._journal.container, container_id)
        if record is not None and record.is_unstarted:
            _, runs = await asyncio.to_thread(self._look, record)
            if runs:
                await self._restorer.started(container_id, at_once=True)

    async def _void(self, container_id: ContainerId) -> None:
        """Forget a container whose create nobody waits for any more, unless somebody asks for it again."""
        unstarted = await asyncio.to_thread(self._is_unstarted, container_id)
        if unstarted and not self._restorer.creates.is_under_way(container_id):
            await self._restorer.ended(container_id)

    def _is_unstarted(self, container_id: ContainerId) -> bool:
        record = self._journal.container(container_id)
        return record is not None and record.is_unstarted

    def _status(self, record: ContainerRecord) -> ContainerStatus:
        state = "dumping" if self._dumper.is_dumping(record.container_id) else record.state.value
        marker = Marker.read(str(self._settings.container_dir(record.container_id)))
        if record.state is ContainerState.CREATED and marker is not None and marker.phase == "creating":
            state = ContainerState.CREATING.value  # runc is at it
        return ContainerStatus(
            container_id=record.container_id,
            key=record.key,
            incarnation=record.incarnation,
            state=state,
            doing=self._restorer.creates.doing(record.container_id) if state == "creating" else "",
            restored_from=record.restored_from,
            captured_as=record.final_snapshot,
            bundle=record.bundle,
            reason=record.reason,
            left=record.left,
            warnings=record.warnings,
        )

    async def _sweep(self) -> None:
        """Notice what the runtime could not tell, because no worker listened then: starts and ends of containers."""
        await self._report_missed()
        missing: set[ContainerId] = set()
        for record in await asyncio.to_thread(self._journal.containers):
            if self._dumper.is_dumping(record.container_id):
                continue
            exists, runs = await asyncio.to_thread(self._look, record)
            if not exists and not self._may_be_created(record):
                if record.container_id not in self._missing:
                    missing.add(record.container_id)  # the runtime may be about to tell, and knows the exit code
                    continue
                await _log.ainfo("a container is gone", container_id=record.container_id, key=str(record.key))
                await self._restorer.ended(record.container_id)
                self._dumper.forget(record.container_id)
            elif runs and record.state is ContainerState.CREATED:
                await self._restorer.started(record.container_id)
        self._missing = missing

    def _may_be_created(self, record: ContainerRecord) -> bool:
        """Whether somebody may be about to create a container that runc does not know."""
        if not record.is_unstarted:
            return False
        if self._restorer.creates.is_under_way(record.container_id):
            return True
        # A runtime that a worker died over asks the next one at once.
        grace = _ASK_GRACE if record.state is ContainerState.CREATING else _CREATE_GRACE
        return datetime.now(UTC) - record.asked_at < grace

    async def _report_missed(self) -> None:
        """Report what happened while no worker was there, each with its time."""
        for container_id, words in await asyncio.to_thread(absence.noted, self._settings):
            for word, at in words:
                record = await asyncio.to_thread(self._journal.container, container_id)
                if record is None or at < record.asked_at or not (record.incarnation or word in absence.ENDS):
                    continue  # nothing is to be said of it, or it is an earlier container of this name that was meant
                if word in absence.ENDS and self._serving_since is not None and at >= self._serving_since:
                    continue  # it was told as well, if late; its name may be another container's by now
                await _log.awarning("noted while no worker was there", what=word, at=str(at), key=str(record.key))
                if word == absence.STOP:
                    await self._restorer.stopped(container_id)
                if word == absence.STOP and record.final_snapshot is None:
                    failed = reports.stop_missed(self._settings.node, record, at)
                    await asyncio.to_thread(partial(self._journal.report, failed, at=at))
                elif word in absence.ENDS:
                    await self._restorer.ended(container_id, None, at, never_ran=word == absence.NEVER_RAN)
                    self._dumper.forget(container_id)
            await asyncio.to_thread(absence.forget, self._settings, container_id)

    def _look(self, record: ContainerRecord) -> tuple[bool, bool]:
        """Say whether runc knows the container, and whether its processes run; a restored one waits stopped for start.

        While CRIU restores, there are processes that run. They may fail yet, or be given up because not all of it was proved.
        """
        try:
            state = self._runc.state(Path(record.runc_root), record.container_id)
            pids = state.freezer.pids()
        except FailureError:
            return False, False
        marker = Marker.read(str(self._settings.container_dir(record.container_id)))
        if marker is not None and marker.phase in {"asking", "creating"}:
            return True, False
        if marker is not None and marker.phase == "started":  # what stands still was stopped by somebody else
            return True, state.status in {"running", "paused"}
        return True, state.status == "running" and len(criu.stopped_pids(pids)) < len(pids)
