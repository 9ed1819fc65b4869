"""Commands, each carried out once: the stream may deliver one twice, and the worker may die in between.

The journal is the memory: a command is taken before it is begun and its end is written with the report of it. A command
that comes again is not obeyed again; its end is told again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from nodeworker import reports
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper, NotBegunError
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.errors import failure_of
from nodeworker.journal import ContainerRecord, ContainerState, Journal
from nodeworker.restore.fetch_gate import FetchGate
from nodeworker.store.snapshots import SnapshotStore
from nodeworker.threads import in_daemon_thread
from woodfrog.protocol.commands import CheckCommand, Command, DeleteCommand, DumpCommand, PrefetchCommand, StoreCommand
from woodfrog.protocol.events import ReportedEvent
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CommandId
from woodfrog.service import faultpoints, logs

_log = structlog.get_logger(component="obey")
_PREFETCHES: Final = 4
_DELETIONS: Final = 8
"""At the same time: each takes a thread."""


class CommandExecutor:
    """Carries out the commands of one worker, those for different containers at the same time.

    Their deadlines are moments of this node's clock, as the bus gives them.
    """

    def __init__(
        self,
        journal: Journal,
        dumper: Dumper,
        uploader: SnapshotUploader,
        store: SnapshotStore,
        copies: SnapshotCache,
        gate: FetchGate | None = None,
    ) -> None:
        self._journal = journal
        self._dumper = dumper
        self._uploader = uploader
        self._store = store
        self._copies = copies
        self._gate = gate or FetchGate(_PREFETCHES)
        self._deletions = asyncio.Semaphore(_DELETIONS)
        self._running: dict[CommandId, tuple[asyncio.Task[None], Command, datetime]] = {}
        """The commands that were taken and have not ended, each with when it came."""

    @property
    def under_way(self) -> list[tuple[Command, datetime]]:
        """The commands that were taken and have not ended, each with when it came."""
        return [(command, came) for _, command, came in self._running.values()]

    async def close(self) -> None:
        """Stop waiting for the ends of commands; their dumps are the dumper's."""
        tasks = [task for task, _, _ in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def obey(self, command: Command) -> None:
        """Carry out a command, once; returns when its end is in the journal. Given again, reports its end again."""
        name = command.command_id
        if name not in self._running:
            task = asyncio.create_task(self._obey(command))
            self._running[name] = task, command, datetime.now(UTC)
            task.add_done_callback(lambda _: self._running.pop(name, None))
        await asyncio.shield(self._running[name][0])

    async def _obey(self, command: Command) -> None:
        with logs.about(command_id=command.command_id, key=command.key):
            await self._carry_out(command)

    async def _carry_out(self, command: Command) -> None:
        known = await asyncio.to_thread(self._journal.take_command, command)
        if known is not None and known.outcome is not None:
            await asyncio.to_thread(self._journal.report, reports.command_finished(command, known.failure))
            return
        if known is not None:  # it was taken by an earlier life of the worker, and does not gain time by coming again
            command = msgspec.structs.replace(command, deadline=min(command.deadline, known.command.deadline))
        if isinstance(command, DeleteCommand):
            async with self._deletions:
                await in_daemon_thread(lambda: self._delete(command))
        elif isinstance(command, CheckCommand):
            await in_daemon_thread(lambda: self._check(command))
        elif isinstance(command, PrefetchCommand):
            async with self._gate.prefetch():
                await in_daemon_thread(lambda: self._prefetch(command))
        elif isinstance(command, StoreCommand):
            await self._store_now(command)
        else:
            await self._dump(command)

    async def _store_now(self, command: StoreCommand) -> None:
        """Have a capture that waits tried at once; what is stored or lost already was reported by itself."""
        late = datetime.now(UTC) > command.deadline
        failure = _too_late(command) if late else await self._uploader.try_now(command.snapshot_id)
        await asyncio.to_thread(
            self._journal.finish_command, command.command_id, failure, reports.command_finished(command, failure)
        )

    async def _dump(self, command: DumpCommand) -> None:
        storing = await self._uploader.storing_for(command.command_id)
        if storing is not None:
            await self._uploader.wait(storing)
            return
        container = await asyncio.to_thread(self._journal.container, command.container_id)
        # Behind a stop that waits for its turn a command waits, too: refused, it would have a successor go on without that last dump.
        refused = self._objection(command, container, busy=self._dumper.is_dumping(command.container_id))
        if refused is not None or container is None:
            told: list[ReportedEvent] = [reports.command_finished(command, refused)]
            if (
                container is None
            ):  # the log believes that it runs: its end fell into a time without a worker, or without its journal
                told.append(reports.commanded_container_gone(command))
            await asyncio.to_thread(self._journal.finish_command, command.command_id, refused, *told)
            return
        try:
            snapshot_id = await self._dumper.checkpoint(container, command)
        except NotBegunError as problem:
            await asyncio.to_thread(self._end, command, problem.failure)
            return
        except FailureError:
            return  # reported by the dump itself, together with the command's end
        await self._uploader.wait(snapshot_id)

    def _delete(self, command: DeleteCommand) -> None:
        """Remove a snapshot; what is gone already, by an earlier life or another worker, is as good as removed now."""
        if datetime.now(UTC) > command.deadline:
            self._end(command, _too_late(command))
            return
        faultpoints.reach("delete.taken")
        try:
            store = self._store.identity.read()
            if command.store not in {None, store}:
                cause = f"{command.node} has the store {store}, and {command.snapshot_id} is in {command.store}"
                self._end(command, Failure("store-differs", cause, "Another node removes it; nothing to do."))
                return
            self._copies.drop(command.key, command.snapshot_id)
            self._store.discard(command.key, command.snapshot_id)
        except FailureError as problem:
            self._end(command, problem.failure)
            return
        except (OSError, ValueError) as problem:
            _log.warning("a snapshot could not be deleted", snapshot_id=command.snapshot_id, error=str(problem))
            advice = "It is tried again; look at the store if this persists."
            self._end(
                command, Failure("store-refused", f"the store did not remove {command.snapshot_id}: {problem}", advice)
            )
            return
        faultpoints.reach("delete.done")
        self._journal.finish_command(command.command_id, None, reports.snapshot_deleted(command))
        _log.info("a snapshot is deleted", snapshot_id=command.snapshot_id)

    def _check(self, command: CheckCommand) -> None:
        """Look at a container as before a dump; what speaks against one is the end of the command."""
        container = self._journal.container(command.container_id)
        busy = self._dumper.is_dumping(command.container_id)
        refused = self._objection(command, container, busy=busy)
        if refused is None and container is not None:
            refused = self._dumper.preflight.objection(container)
        self._journal.finish_command(command.command_id, refused, reports.command_finished(command, refused))

    def _prefetch(self, command: PrefetchCommand) -> None:
        """Lay a snapshot ready; where no copies are made, that is told and does no harm."""
        if datetime.now(UTC) > command.deadline:
            self._end(command, _too_late(command))
            return
        try:
            copy = self._copies.fill(command.key, command.snapshot_id, command.manifest_digest, self._store, whole=True)
        except Exception as problem:  # noqa: BLE001 -- whatever it was, the restore will meet it again and say more
            self._end(command, failure_of(problem))
            return
        if copy is None:
            cause = f"{command.node} makes no copy of {command.snapshot_id}: none are wanted there, or it is too large"
            self._end(
                command, Failure("no-copies", cause, "See WOODFROG_COPIES; a restore fetches it as it always did.")
            )
            return
        self._journal.finish_command(command.command_id, None, reports.command_finished(command, None))
        _log.info("a snapshot lies ready", snapshot_id=command.snapshot_id)

    def _end(self, command: Command, failure: Failure) -> None:
        self._journal.finish_command(command.command_id, failure, reports.command_finished(command, failure))

    def _objection(
        self, command: DumpCommand | CheckCommand, container: ContainerRecord | None, *, busy: bool
    ) -> Failure | None:
        if datetime.now(UTC) > command.deadline:
            return _too_late(command)
        if container is None or container.key != command.key:
            return Failure(
                "container-unknown",
                f"{command.node} has no container {command.container_id} of {command.key}",
                "It has ended; `woodfrog ps` shows what runs.",
            )
        if container.incarnation != command.incarnation:
            cause = f"the container is incarnation {container.incarnation}, the command is for {command.incarnation}"
            return Failure("incarnation-superseded", cause, "Ask again for the one that runs.")
        if container.state in {ContainerState.CREATING, ContainerState.ENDED}:
            return Failure("not-running", f"the container is {container.state}", "Ask again when it runs.")
        if busy:
            return Failure("dump-in-flight", "another dump of the container is under way", "Wait for that one.")
        return None


def _too_late(command: Command) -> Failure:
    return Failure("command-expired", f"the command's deadline was {command.deadline:%FT%TZ}", "Ask again.")
