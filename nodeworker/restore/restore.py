"""From ``create`` to a decided start: asking how, fetching what is needed, putting it into the container, and undoing it.

Nothing of a snapshot touches the container before all of CRIU's images are fetched and verified. A snapshot that fails at
any step is reported, what was applied is undone, and the control plane is asked again: it then names the one before, and
at last a cold start. Only a start that nobody could decide in time is refused.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from nodeworker import bundle, reports
from nodeworker.bundle import Bundle
from nodeworker.bus import Bus
from nodeworker.capture import cgroup_v1, hostname, user_namespace
from nodeworker.capture.criu import criu, image_files
from nodeworker.capture.criu.runc import Runc
from nodeworker.domain import changed_environment, gained_files, restore_limits
from nodeworker.domain.common_failures import LOCAL_COPY_BROKEN
from nodeworker.domain.criu_complaints import SANDBOX_GONE
from nodeworker.domain.criu_options import CriuConfig, parse_version
from nodeworker.errors import failure_of, refusal
from nodeworker.host import cri_images
from nodeworker.journal import ContainerRecord, ContainerState, Journal
from nodeworker.restore import connections, generation, pod_peers, privilege_check, restore_files, volume_check
from nodeworker.restore.container_lifecycle import ContainerLifecycle, check_container_id
from nodeworker.restore.fetch import Fetched, Fetcher
from nodeworker.restore.fetch_gate import FetchGate
from nodeworker.restore.gpu_restore import GpuRestore
from nodeworker.restore.pending_creates import PendingCreates
from nodeworker.restore.proofs import Proofs
from nodeworker.restore.start_questions import StartQuestions
from nodeworker.settings import Settings
from nodeworker.threads import in_daemon_thread, to_the_end, to_the_end_unless
from woodfrog.protocol.events import RestoreStage
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import CONDEMNING_CODES, QUOTA, REPEATED_CODES, Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId, InvalidIdError, SnapshotId, WorkerId
from woodfrog.protocol.manifest import EnvironmentMarks
from woodfrog.protocol.privileges import Privileges
from woodfrog.protocol.requests import (
    FRESH_VERSION,
    REQUEST_VERSION,
    Refusal,
    Resolution,
    ResolveRequest,
    RestoreFrom,
    StartCold,
    WaitFor,
)
from woodfrog.protocol.runtime_api import (
    CreateCold,
    CreateRequest,
    CreateRestored,
    LocalAnswer,
    ProofRequest,
    Refused,
    RestoreFailedNotification,
)
from woodfrog.service import logs, tracing

_log = structlog.get_logger(component="restore")
_ASK_EVERY_SECONDS: Final = 0.5
_SALT_BYTES: Final = 16


class Restorer:
    """Decides all starts of one worker's containers, and keeps the record of each from ``create`` to ``delete``."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        bus: Bus,
        fetcher: Fetcher,
        runc: Runc,
        gpus: GpuRestore,
        *,
        worker_id: WorkerId,
        facts: NodeFacts,
        criu_config: CriuConfig | None,
        gate: FetchGate | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._lifecycle = ContainerLifecycle(settings, journal)
        self._bus = bus
        self._questions = StartQuestions(bus, journal, self._lifecycle)
        self._fetcher = fetcher
        self._runc = runc
        self._gpus = gpus
        self._worker_id = worker_id
        self._facts = facts
        self._criu_config = criu_config
        self._gate = gate or FetchGate(1)
        self.on_fetched: Callable[[float], None] = lambda _seconds: None
        """Called with the seconds that it took to fetch and verify a snapshot's images."""
        self._began: dict[ContainerId, float] = {}
        self._kept: dict[ContainerId, tuple[CreateRestored, str]] = {}
        """What was answered with connections kept, and CRIU's configuration that closes them."""
        self.creates = PendingCreates()
        self._closing = asyncio.Event()
        self._proofs = Proofs(fetcher, runc)

    async def create(self, ask: CreateRequest, asked: asyncio.Event | None = None) -> LocalAnswer:
        """Answer how to create a container; takes as long as a hand-over and a fetch, within the limit of the settings.

        The container is not touched before ``asked`` is set: until then, a create is only announced.
        """
        self._began[ask.container_id] = time.monotonic()
        await self._lifecycle.removed(ask.container_id)
        try:
            live, record = await to_the_end(self._open, ask)
        except FailureError as problem:
            return Refused(problem.failure)
        with tracing.span("start", key=record.key, container_id=record.container_id):
            return await self._decide(record, live, asked)

    async def restore_failed(self, ask: RestoreFailedNotification) -> LocalAnswer:
        """Undo what was applied for a restore that runc could not do, tell of it, and answer the next best way."""
        record = await to_the_end(self._journal.container, ask.container_id)
        if record is None or record.applied is None:
            cause = f"the worker gave container {ask.container_id} nothing to restore"
            return Refused(Failure("container-unknown", cause, "Create it again."))
        stage, failure = RestoreStage.CRIU, await self._proofs.failure(ask.container_id)
        if failure is None and (failure := self._gpus.take_failure(ask.container_id)) is not None:
            stage = RestoreStage.GPU
        if failure is None:
            failure = restore_limits.killed(ask.message)
        if failure is None:
            log = self._lifecycle.work(record, record.applied) / "restore.log"
            failure = await to_the_end(criu.explain, log, ask.message, self._runc.criu)
        kept = self._kept.pop(ask.container_id, None)
        if failure.code == connections.FAILED and kept is not None:
            return await to_the_end(self._close_connections, record, *kept)
        try:
            live = await to_the_end(bundle.read, record.bundle)
            record = await to_the_end(self._give_up, record, live, record.applied, stage, failure)
        except FailureError as problem:
            return Refused(problem.failure)
        if failure.code == SANDBOX_GONE:
            return Refused(failure)
        return await self._decide(record, live)

    async def proved(self, ask: ProofRequest) -> LocalAnswer:
        """Wait until all that a container was given is proved and its mounts are right, and say whether it may run."""
        return await self._proofs.answer(ask.container_id)

    async def started(self, container_id: ContainerId, *, at_once: bool = False) -> None:
        """Note and report that a container's processes run; what was fetched for it is needed no more.

        A command that is to follow a restore comes first, whose failure is told with the start; ``at_once`` waits for none.
        """
        if not at_once and not await self._gpus.settler.started(container_id):
            return  # whoever runs the command notes it
        if await self._lifecycle.started(container_id):
            self._proofs.forget(container_id)
            self._kept.pop(container_id, None)

    async def stopped(self, container_id: ContainerId) -> None:
        """Note that a container was sent a stop signal."""
        await self._lifecycle.stopped(container_id)

    async def ended(
        self,
        container_id: ContainerId,
        exit_code: int | None = None,
        at: datetime | None = None,
        *,
        never_ran: bool = False,
    ) -> None:
        """Report that a container is gone, and if not now since when, and forget it; an unknown one needs nothing.

        ``never_ran`` says that the runtime was sure of that when it told.
        """
        # Before its start is noted, a hook may run; and of an end that nobody was told of, nor was anybody of the start.
        ran = at is not None or await asyncio.to_thread(self._lifecycle.was_started, container_id)
        await self.creates.cancel(container_id)
        await self._lifecycle.removed(container_id)
        if not ran:
            await to_the_end(self._lifecycle.undo_unstarted, container_id)
        of_earlier_life = self._began.pop(container_id, None) is None
        self._proofs.forget(container_id)
        self._gpus.settler.forget(container_id)
        self._kept.pop(container_id, None)
        record = await to_the_end(self._journal.container, container_id)
        if record is None:
            return
        if not record.incarnation and (of_earlier_life or self._questions.is_hearing(container_id)):
            await self._questions.give_up(record, self._question(record))
        else:
            await to_the_end(partial(self._lifecycle.end, record, exit_code, at, never_ran=never_ran))

    async def hear_out(self) -> None:
        """Ask on about the starts that an earlier life of the worker knew to be given up, and had no number of."""
        for record in await asyncio.to_thread(self._journal.given_up):
            self._questions.hear_out(record, self._question(record))

    def leave_fetches(self) -> None:
        """Wait for no fetch of a create that is cancelled from now on: the process ends."""
        self._closing.set()

    async def close(self) -> None:
        """Wait until nothing is being removed; what is put into a container is done when its create has ended."""
        await self._questions.close()
        if pending := {*self._lifecycle.removals}:
            await asyncio.wait(pending)

    def _open(self, ask: CreateRequest) -> tuple[Bundle, ContainerRecord]:
        """Check what the runtime asks for and write the container down.

        Raises:
            FailureError: if the id may not be one, or the bundle cannot be read.
        """
        check_container_id(ask.container_id)
        live = bundle.read(ask.bundle)
        self._v2_cgroup(live)
        facts = self._gpus.facts_of(live)
        facts = cri_images.known(facts, live.sandbox, ask, bounded=self._settings.bounds_privileges)
        try:
            namespace = live.namespace or self._settings.namespace
            key = CheckpointKey.checked(self._settings.cluster, namespace, ask.checkpoint_id)
        except InvalidIdError as problem:
            advice = "Correct the value of the variable CEDANA_CHECKPOINT in the container's environment."
            raise refusal("invalid-id", str(problem), advice) from problem
        known = self._journal.container(ask.container_id)
        if known is not None and (known.key != key or known.state in {ContainerState.RUNNING, ContainerState.ENDED}):
            self._lifecycle.end(
                known, None
            )  # the engine reuses the name, and nobody could tell us of the end of the one before
            known = None
        if known is None:
            known = ContainerRecord(
                container_id=ask.container_id,
                key=key,
                bundle=ask.bundle,
                runc_root=ask.runc_root,
                facts=facts,
                asked_at=datetime.now(UTC),
                create_id=uuid.uuid4().hex,
            )
        elif known.applied is not None:
            restore_files.rollback(live, self._lifecycle.fetched(known))
            known = msgspec.structs.replace(known, applied=None, restored_from=None, generation=0)
        known = msgspec.structs.replace(
            known,
            state=ContainerState.CREATING,
            asked_at=datetime.now(UTC),
            given_up=False,
            bundle=ask.bundle,
            runc_root=ask.runc_root,
            facts=facts,
            environment=self._marks(live),
        )
        self._journal.save_container(known)
        return live, known

    def _own_names(self, live: Bundle) -> tuple[str | None, ...]:
        return live.facts.pod, live.facts.pod_uid, self._settings.node

    def _marks(self, live: Bundle) -> EnvironmentMarks:
        return changed_environment.marks(live.declared, self._own_names(live), os.urandom(_SALT_BYTES))

    async def _decide(self, record: ContainerRecord, live: Bundle, asked: asyncio.Event | None = None) -> LocalAnswer:
        """Ask until there is a way to start that works, or the time is up."""
        logs.also_about(key=record.key)
        began = self._began.setdefault(record.container_id, time.monotonic())
        reason = "the control plane does not answer"
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + self._settings.create_limit_seconds - (time.monotonic() - began)
            ):
                while True:
                    asked_at = time.monotonic()
                    with tracing.span("start resolve"):
                        resolution = await self._questions.ask(record, self._question(record))
                    record = await self._numbered(record, resolution)
                    if isinstance(resolution, WaitFor | Refusal):
                        outcome = await self._not_now(record, resolution, asked_at, asked)
                        if not isinstance(outcome, str):
                            return outcome
                        reason = outcome
                        continue
                    if isinstance(resolution, StartCold):
                        failure = live.options.objection_to_cold(resolution.unusable, resolution.reason)
                        if failure is not None:
                            return Refused(failure)
                        await _until(asked)
                        return await to_the_end(self._answer_cold, record, live, resolution)
                    reason = f"snapshot {resolution.snapshot_id} takes long to fetch"
                    answer = await self._try(record, live, resolution, asked)
                    if isinstance(answer, CreateRestored):
                        return answer
                    record = answer
        except TimeoutError:
            if self._bus.reports_refused:
                reason = "NATS has no room for what this node has to report about it"
            cause = f"no start was possible within {self._settings.create_limit_seconds:g} s: {reason}"
            advice = "Start it again if its engine does not; look at the control plane and at NATS if this persists."
            return Refused(Failure("start-timeout", cause, advice))
        except FailureError as problem:
            return Refused(problem.failure)

    async def _not_now(
        self, record: ContainerRecord, resolution: WaitFor | Refusal, asked_at: float, asked: asyncio.Event | None
    ) -> str | Refused | CreateCold:
        """Wait for the next question and say for what; or refuse the start, or let it go on without protection."""
        if isinstance(resolution, Refusal) and resolution.failure.code == QUOTA:
            await _until(asked)
            return await to_the_end(self._answer_unprotected, record, resolution.failure)
        if isinstance(resolution, Refusal) and resolution.failure.code not in REPEATED_CODES:
            await to_the_end(self._lifecycle.end, record, None)
            return Refused(resolution.failure)
        # The control plane holds the question for a while, unless it has too many to hold.
        await asyncio.sleep(_ASK_EVERY_SECONDS - (time.monotonic() - asked_at))
        waits = (
            resolution.failure.cause if isinstance(resolution, Refusal) else f"it waits for {resolution.waiting_for}"
        )
        self.creates.note(record.container_id, waits.replace("it waits", "waiting"))
        return waits

    async def _unlocked(self, record: ContainerRecord, choice: RestoreFrom) -> bool:
        """Have the key of a snapshot that has one of its own; return whether the choice still stands.

        Without the key the attempt to fetch it says what is missing.
        """
        wrapped = await in_daemon_thread(lambda: self._fetcher.locked(record.key, choice))
        if not wrapped:
            return True
        again = await self._questions.ask(record, self._question(record, wrapped))
        if not isinstance(again, RestoreFrom) or again.snapshot_id != choice.snapshot_id:
            return False
        if again.data_key:
            self._fetcher.unlock(record.key, again)
        return True

    def _question(self, record: ContainerRecord, wrapped_key: str = "") -> Callable[[int], ResolveRequest]:
        def ask(reports_sequence: int) -> ResolveRequest:
            return ResolveRequest(
                key=record.key,
                container_id=record.container_id,
                node=self._settings.node,
                worker_id=self._worker_id,
                facts=msgspec.structs.replace(self._facts, store=self._fetcher.store),
                container=record.facts,
                reports_sequence=reports_sequence,
                create_id=record.create_id,
                wrapped_key=wrapped_key,
                version=FRESH_VERSION if record.facts.fresh else REQUEST_VERSION,
            )

        return ask

    async def _numbered(self, record: ContainerRecord, resolution: Resolution) -> ContainerRecord:
        """Note what the answer says of the start; its number also while it waits, as it may be given up."""
        match resolution:
            case Refusal(incarnation=0):
                return record
            case WaitFor() | Refusal():
                numbered = msgspec.structs.replace(record, incarnation=resolution.incarnation)
            case _:
                told = {"incarnation": resolution.incarnation, "reason": resolution.reason, "left": resolution.left}
                numbered = msgspec.structs.replace(record, **told)
        if numbered == record:
            return record
        record = numbered
        await to_the_end(self._journal.save_container, record)
        return record

    def _answer_cold(self, record: ContainerRecord, live: Bundle, resolution: StartCold) -> CreateCold:
        config = self._lifecycle.write_config(record, self._config.for_dump())
        generation.remove(live.rootfs)
        self._save_created(record)
        deny = not live.options.io_uring and self._runc.filters_calls
        return CreateCold(criu_config=str(config), reason=resolution.reason, deny_io_uring=deny)

    def _answer_unprotected(self, record: ContainerRecord, failure: Failure) -> CreateCold:
        """Let a container start that the log does not take up: it runs, and nobody dumps it."""
        config = self._lifecycle.write_config(record, self._config.for_dump())
        self._journal.forget_container(record.container_id)
        _log.warning("a container starts without protection", key=str(record.key), failure=str(failure))
        return CreateCold(criu_config=str(config), reason=f"not protected: {failure}", unprotected=True)

    def _save_created(self, record: ContainerRecord) -> None:
        seconds = time.monotonic() - self._began.get(record.container_id, time.monotonic())
        self._journal.save_container(
            msgspec.structs.replace(record, state=ContainerState.CREATED, create_seconds=seconds)
        )

    @property
    def _config(self) -> CriuConfig:
        if self._criu_config is None:
            raise refusal(
                "criu-missing", f"{self._settings.criu} says no version", "Install CRIU, or set WOODFROG_CRIU."
            )
        return self._criu_config

    def _v2_cgroup(self, live: Bundle) -> str | None:
        return live.v2_cgroup if self._facts.cgroup_version == 2 else None

    async def _try(
        self, record: ContainerRecord, live: Bundle, choice: RestoreFrom, asked: asyncio.Event | None
    ) -> CreateRestored | ContainerRecord:
        """Put a snapshot into the container; if that fails, all is as before, and told: the record is the answer then."""
        if not await self._unlocked(record, choice):
            return record
        began = time.monotonic()
        try:
            with self._gate.restore():
                self.creates.note(record.container_id, f"fetching snapshot {choice.snapshot_id}")
                with tracing.span("restore fetch", snapshot_id=choice.snapshot_id):
                    fetched = await to_the_end_unless(self._closing, lambda: self._fetch(record, live, choice))
                self.creates.note(record.container_id, f"restoring snapshot {choice.snapshot_id}")
            self.on_fetched(time.monotonic() - began)
        except Exception as problem:  # noqa: BLE001 -- whatever it was, the next best snapshot is asked for
            failure = failure_of(problem)
            return await self._give_up_fetch(record, live, choice, failure)
        self._proofs.begin(record, fetched)
        await _until(asked)
        try:
            # From here on the container's files change: whoever gives up waiting must not leave them half changed.
            with tracing.span("restore apply", snapshot_id=choice.snapshot_id):
                return await to_the_end(self._apply_and_answer, record, live, fetched)
        except Exception as problem:  # noqa: BLE001 -- whatever it was, the next best snapshot is asked for
            failure = await self._proofs.failure(record.container_id) or failure_of(problem)
            if failure.code in CONDEMNING_CODES:
                return await self._give_up_fetch(record, live, choice, failure)
            return await to_the_end(self._give_up, record, live, choice.snapshot_id, RestoreStage.APPLY, failure)

    async def _give_up_fetch(
        self, record: ContainerRecord, live: Bundle, choice: RestoreFrom, failure: Failure
    ) -> ContainerRecord:
        """Undo and report as :meth:`_give_up`; what is missing is looked for once more in a store that is identified."""
        failure, store = await in_daemon_thread(lambda: self._fetcher.confirm(record.key, choice, failure))
        return await to_the_end(self._give_up, record, live, choice.snapshot_id, RestoreStage.FETCH, failure, store)

    def _fetch(self, record: ContainerRecord, live: Bundle, choice: RestoreFrom) -> Fetched:
        """Fetch CRIU's images, and lower in them what the new container does not allow."""
        folder = self._lifecycle.fetched(record)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._lifecycle.make_work(record, choice.snapshot_id)
        fetched = self._fetcher.fetch(record.key, choice, folder / "images")
        if choice.bounded and self._settings.bounds_privileges:
            version = parse_version(self._config.criu_version)
            spec = record.facts.privileges or live.facts.privileges or Privileges()
            fetched.checked = privilege_check.check(fetched.images, live, spec, choice.recorded, version)
        return fetched

    def _apply_and_answer(self, record: ContainerRecord, live: Bundle, fetched: Fetched) -> CreateRestored:
        folder = self._lifecycle.fetched(record)
        manifest, withheld = gained_files.of_restore(fetched.manifest, fetched.checked.gains_for)
        snapshot_id = manifest.snapshot_id
        ignore = live.options.ignore_volume_changes
        noticed = volume_check.check(fetched.images, live, manifest.held_files, ignore=ignore)
        sources = self._gpus.sources(manifest, record.facts)
        before = manifest.environment
        record = msgspec.structs.replace(
            record,
            applied=snapshot_id,
            restored_from=snapshot_id,
            gpu_sources=sources,
            environment=before,
            generation=manifest.generation + 1,
        )
        self._journal.save_container(record)
        peers = restore_files.PodPeers(
            lambda: pod_peers.of(self._runc, Path(record.runc_root), record.container_id, live),
            returning=self._journal.has_lived(record),
        )
        warnings = restore_files.apply(manifest.trees, live, folder, fetched.reader, peers)
        generation.put(live, record.generation, fetched.images)
        if before is not None:
            warnings += changed_environment.warning(
                changed_environment.changed(before, live.declared, self._own_names(live))
            )
        names = hostname.names_in(live.uts_namespace) if live.uts_namespace else live.names
        names_set = bool(names) and hostname.name_images(fetched.images, names)
        image_files.repair(fetched.images)
        restored = connections.prepare(fetched.images, live)
        places = self._v2_cgroup(live), cgroup_v1.mounts(live.cgroups_path, live.cgroup_mounts)
        config = self._lifecycle.write_config(record, self._config.for_restore(*places, keep=restored.keep))
        warnings += restored.warnings
        if record.facts.id_mappings:
            user_namespace.let_in(fetched.images)
        lowered = (*fetched.checked.lowered, *withheld)
        self._save_created(msgspec.structs.replace(record, warnings=(*lowered, *noticed, *warnings)))
        answer = CreateRestored(
            snapshot_id=snapshot_id,
            image_path=str(fetched.images),
            work_path=str(self._lifecycle.work(record, snapshot_id)),
            criu_config=str(config),
            stopped_pids=manifest.stopped_pids,
            unproved=self._proofs.wanted(record.container_id),
            names_set=names_set,
            limit_seconds=live.options.restore_limit_seconds or self._settings.restore_limit_seconds,
            lsm_profile=fetched.checked.lsm_profile,
            gpus=self._gpus.settler.prepare(record.container_id, manifest, live) or bool(sources),
        )
        if restored.kept:
            self._kept[record.container_id] = answer, self._config.for_restore(*places)
        return answer

    def _close_connections(self, record: ContainerRecord, answer: CreateRestored, config: str) -> CreateRestored:
        """Restore once more what failed because of its connections, without them."""
        _log.warning("connections could not be restored, so they are closed", key=str(record.key))
        self._lifecycle.write_config(record, config)
        self._save_created(msgspec.structs.replace(record, warnings=(*record.warnings, connections.GIVEN_UP)))
        return answer

    def _give_up(
        self,
        record: ContainerRecord,
        live: Bundle,
        snapshot_id: SnapshotId,
        stage: RestoreStage,
        failure: Failure,
        store: str | None = None,
    ) -> ContainerRecord:
        """Undo what was applied of a snapshot and report why it was not restored.

        Raises:
            FailureError: ``undo-failed``: the container may hold files of the snapshot and must not be started.
        """
        with suppress(OSError):  # unless CRIU has left its log there
            self._lifecycle.work(record, snapshot_id).rmdir()
        _log.warning(
            "a restore failed",
            snapshot_id=snapshot_id,
            key=str(record.key),
            stage=stage,
            failure=str(failure),
            detail=failure.detail,
        )
        event = reports.restore_failed(self._settings.node, record, snapshot_id, stage, failure, store)
        self._proofs.forget(record.container_id)
        if stage is not RestoreStage.FETCH or self._journal_says_applied(record):
            restore_files.rollback(live, self._lifecycle.fetched(record))
        shutil.rmtree(self._lifecycle.fetched(record), ignore_errors=True)
        record = msgspec.structs.replace(
            record,
            state=ContainerState.CREATING,
            applied=None,
            restored_from=None,
            generation=0,
            environment=self._marks(live),
        )
        # Neither a broken copy on this node nor a pod that is gone says anything about the snapshot: it may be chosen again.
        self._journal.save_container(record, *(() if failure.code in {LOCAL_COPY_BROKEN, SANDBOX_GONE} else (event,)))
        return record

    def _journal_says_applied(self, record: ContainerRecord) -> bool:
        known = self._journal.container(record.container_id)
        return known is not None and known.applied is not None


async def _until(asked: asyncio.Event | None) -> None:
    if asked is not None:
        await asked.wait()
