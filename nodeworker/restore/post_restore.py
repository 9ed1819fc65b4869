"""What is put right in a restored container while its processes stand, and what they are told once they run.

CRIU gives no thread its processors and I/O priority back, SQLite takes a restored database for another file, and a program does not
see that it was restored. The first two are done between ``runc restore`` and ``start``, and so is a hook that is a signal or a file; a
command is run afterwards, for it may ask the program something. Nothing of it fails a start: what went wrong is a warning.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from nodeworker import bundle
from nodeworker.bundle import Bundle
from nodeworker.capture import sqlite_files, thread_placement
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.hooks import Hooks
from nodeworker.domain.hooks import HookKind
from nodeworker.journal import ContainerRecord, ContainerState, Journal
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.manifest import DatabaseFile, Manifest, ThreadPlacement


class PostRestore:
    """Settles the restored containers of one worker."""

    def __init__(self, journal: Journal, runc: Runc) -> None:
        self._journal = journal
        self._runc = runc
        self._hooks = Hooks(runc)
        self._recorded: dict[ContainerId, tuple[tuple[ThreadPlacement, ...], tuple[DatabaseFile, ...]]] = {}
        self._running: set[ContainerId] = set()

    def prepare(self, container_id: ContainerId, manifest: Manifest, live: Bundle) -> bool:
        """Remember what was recorded of a snapshot's processes, and say whether :meth:`settle` has anything to do."""
        self.forget(container_id)  # of a snapshot that was tried before
        recorded = bool(manifest.threads or manifest.databases)
        if recorded:
            self._recorded[container_id] = manifest.threads, manifest.databases
        hook = live.options.after_restore
        return recorded or (hook is not None and hook.kind is not HookKind.EXEC)

    def forget(self, container_id: ContainerId) -> None:
        """Forget what was to be done to a container: it is gone, or gets another snapshot."""
        self._recorded.pop(container_id, None)

    def settle(self, record: ContainerRecord) -> None:
        """Put right what can be while the processes stand. Blocks.

        Raises:
            FailureError: ``container-unknown``: it is gone.
        """
        threads, databases = self._recorded.pop(record.container_id, ((), ()))
        state = self._runc.state(Path(record.runc_root), record.container_id)
        if databases:
            sqlite_files.apply(databases, state.freezer.pids())
        warnings = thread_placement.apply(threads, state.freezer.pids()) if threads else ()
        live = bundle.read(record.bundle)
        hook, limit = live.options.after_restore, live.options.hook_limit_seconds
        if hook is not None and hook.kind is not HookKind.EXEC:
            warnings += self._hooks.after_restore(hook, state, live.bound, record.generation, limit)
        self._warn(record.container_id, warnings)

    async def started(self, container_id: ContainerId) -> bool:
        """Run the command that is to follow a restore, before the start is reported; False to who asks meanwhile."""
        if container_id in self._running:
            return False
        self._running.add(container_id)
        try:
            await asyncio.to_thread(self._run_command, container_id)
        finally:
            self._running.discard(container_id)
        return True

    def _run_command(self, container_id: ContainerId) -> None:
        record = self._journal.container(container_id)
        if record is None or record.restored_from is None or record.state is not ContainerState.CREATED:
            return
        try:
            live = bundle.read(record.bundle)
            hook = live.options.after_restore
            if hook is None or hook.kind is not HookKind.EXEC:
                return
            state = self._runc.state(Path(record.runc_root), container_id)
        except FailureError:  # it is gone
            return
        limit = live.options.hook_limit_seconds
        self._warn(container_id, self._hooks.after_restore(hook, state, live.bound, record.generation, limit))

    def _warn(self, container_id: ContainerId, warnings: tuple[str, ...]) -> None:
        with self._journal.transaction():
            record = self._journal.container(container_id)
            if warnings and record is not None and record.state is ContainerState.CREATED:
                self._journal.save_container(msgspec.structs.replace(record, warnings=(*record.warnings, *warnings)))
