"""What the worker says of itself with every sign of life, looked up now and then: its self-test, its disk, and what it does.

People see it on the page and in ``woodfrog get nodes``; nobody decides by it, so it may be a moment old.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.disk.reservations import Disk
from nodeworker.dump.dump import Dumper
from nodeworker.journal import ContainerRecord, ContainerState, DumpRecord, DumpStep, Journal
from woodfrog.protocol.commands import Command, DumpCommand, StoreCommand
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.node_status import MOST_WORK, DiskSpace, NodeStatus, SelfTest, Work

_log = structlog.get_logger(component="worker")
_EVERY_SECONDS: Final = 2.0
_WAITS: Final = "waits for its turn"


class Creates(msgspec.Struct, frozen=True):
    """What is known of creates: whether one is under way, and what is being done for it."""

    is_under_way: Callable[[ContainerId], bool]
    doing: Callable[[ContainerId], str]


class StatusWatch:
    """Keeps a worker's status up to date."""

    def __init__(
        self,
        state_dir: Path,
        journal: Journal,
        executor: CommandExecutor,
        dumper: Dumper,
        creates: Creates,
        disk: Disk,
        self_test: SelfTest,
    ) -> None:
        self._state_dir = state_dir
        self._journal = journal
        self._executor = executor
        self._dumper = dumper
        self._creates = creates
        self._disk = disk
        self.last = NodeStatus(self_test=self_test)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except (OSError, sqlite3.Error) as problem:  # what was last known is shown on
                _log.debug("the worker's status cannot be read", error=str(problem))
            await asyncio.sleep(_EVERY_SECONDS)

    async def look(self) -> None:
        """Look once."""
        dumps, containers = await asyncio.to_thread(lambda: (self._journal.dumps(), self._journal.containers()))
        work = work_of(dumps, containers, self._executor.under_way, self._dumper.waiting_stops, self._creates)
        disk = await asyncio.to_thread(self._space, [dump for dump in dumps if dump.delay is not None])
        self.last = msgspec.structs.replace(
            self.last, disk=disk, work=work[:MOST_WORK], more_work=len(work[MOST_WORK:])
        )

    def _space(self, waiting: Collection[DumpRecord]) -> DiskSpace:
        space = os.statvfs(self._state_dir)
        return DiskSpace(
            total_bytes=space.f_blocks * space.f_frsize,
            free_bytes=space.f_bavail * space.f_frsize,
            reserved_bytes=self._disk.reserved_bytes,
            waiting_captures=len(waiting),
            waiting_bytes=sum(dump.raw_bytes for dump in waiting),
        )


def work_of(
    dumps: Collection[DumpRecord],
    containers: Collection[ContainerRecord],
    commands: Collection[tuple[Command, datetime]],
    waiting_stops: Collection[tuple[ContainerId, datetime]],
    creates: Creates,
) -> tuple[Work, ...]:
    """Put together what a worker does, each thing once, the oldest first."""
    keys = {container.container_id: container.key for container in containers}
    found = [
        *(_dump(dump) for dump in dumps),
        *_commands(commands, dumps),
        *(Work("dump", keys[name], since, _WAITS) for name, since in waiting_stops if name in keys),
        *(
            Work("start", each.key, each.asked_at, creates.doing(each.container_id))
            for each in containers
            if each.state is ContainerState.CREATING and creates.is_under_way(each.container_id)
        ),
    ]
    return tuple(sorted(found, key=lambda work: work.since))


def _dump(record: DumpRecord) -> Work:
    if record.step is not DumpStep.CAPTURED:
        return Work("dump", record.key, record.started_at)
    if record.delay is None:
        return Work("store", record.key, record.started_at)
    return Work("store", record.key, record.delayed_since or record.started_at, f"waits: {record.delay.cause}")


def _commands(commands: Collection[tuple[Command, datetime]], dumps: Collection[DumpRecord]) -> Iterator[Work]:
    """Name the commands that are not shown by their dumps already."""
    begun = {dump.command_id for dump in dumps}
    captured = {dump.snapshot_id for dump in dumps}
    for command, since in commands:
        match command:
            case DumpCommand():
                if command.command_id not in begun:
                    yield Work("dump", command.key, since, _WAITS)
            case StoreCommand() if command.snapshot_id in captured:
                pass
            case _:
                yield Work(str(command.__struct_config__.tag), command.key, since)
