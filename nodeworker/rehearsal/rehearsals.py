"""All rehearsals of one worker: which snapshots have one, within which bounds, and what is reported.

A rehearsal comes between the capture and the store, while the container runs on, so that a snapshot is proved restorable before
it counts as valid. It is the least important thing that a node does: one at a time, within bounds of memory and time, and ended at
once when any container is stopped. A final snapshot is never rehearsed, because nothing may come between it and the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from nodeworker import bundle, reports
from nodeworker.capture.criu.runc import Runc
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.domain.rehearsal import (
    MARGIN_BYTES,
    RESTORABLE,
    Policy,
    Verdict,
    kind_of,
    memory_problem,
    objection_to,
    skipped,
)
from nodeworker.errors import failure_of
from nodeworker.journal import ContainerRecord, DumpRecord, Journal
from nodeworker.rehearsal.cgroup import RehearsalCgroup
from nodeworker.rehearsal.task import RehearsalTask, Rehearsed, scratch_of
from nodeworker.settings import Settings
from woodfrog.protocol import wire
from woodfrog.protocol.events import RehearsalOutcome
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import SnapshotId

_log = structlog.get_logger(component="rehearsal")
_MOST_KINDS: Final = 4096
_END_SECONDS: Final = 20.0
_PACKAGES: Final = Path(__file__).parents[2]
_T = TypeVar("_T")


class Rehearsals:
    """Rehearses for one worker."""

    def __init__(
        self, settings: Settings, journal: Journal, runc: Runc, *, facts: NodeFacts, criu_config: CriuConfig | None
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._runc = runc
        self._facts = facts
        self._criu_config = criu_config
        self._name = f"woodfrog-rehearsal-{hashlib.sha256(str(settings.state_dir).encode()).hexdigest()[:8]}"
        self._cgroup = RehearsalCgroup(self._name, facts.cgroup_version or 1)
        self._scratch = scratch_of(settings.run_dir)
        self._kinds = settings.state_dir / "rehearsed"
        self._one = asyncio.Lock()
        self._stops = 0
        self._process: asyncio.subprocess.Process | None = None

    def recover(self) -> None:
        """Remove what an earlier life of the worker left in the middle of a rehearsal. Blocks."""
        self._cgroup.remove()
        _log.info("rehearsals are bounded by a cgroup", cgroup=self._name)

    async def aside(self, stop: Awaitable[_T]) -> _T:
        """Await a stop; meanwhile there is no rehearsal, and one that is under way ends at once."""
        self._stops += 1
        self._kill()
        try:
            return await stop
        finally:
            self._stops -= 1

    async def failure(self, record: DumpRecord) -> Failure | None:
        """Rehearse a capture whose container runs on, if its owner or the node wishes it; say why it cannot be restored."""
        container = await asyncio.to_thread(self._journal.container, record.container_id)
        if record.final or container is None:
            return None
        try:
            kind = await asyncio.to_thread(self._due, container)
        except (OSError, ValueError, FailureError):
            return None  # the container has gone meanwhile, and its bundle with it
        if kind is None:
            return None
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.rehearse_seconds):
                verdict = await self._verdict(record, container)
        except TimeoutError:
            limit = self._settings.rehearse_seconds
            verdict = skipped(f"the rehearsal was not done within {limit:g} s, or others of the node came first")
        except (OSError, ValueError, FailureError) as problem:
            verdict = skipped(f"the rehearsal could not be prepared: {failure_of(problem).cause}")
        if verdict.outcome is RehearsalOutcome.FAILED and await asyncio.to_thread(self._is_gone, container):
            verdict = skipped("the container ended meanwhile, and its files went with it")
        with suppress(sqlite3.Error):
            await asyncio.to_thread(self._note, record, verdict, kind, time.monotonic() - began)
        return verdict.failure if verdict.outcome is RehearsalOutcome.FAILED else None

    def _is_gone(self, container: ContainerRecord) -> bool:
        known = self._journal.container(container.container_id)
        return known is None or known.asked_at != container.asked_at

    def _due(self, container: ContainerRecord) -> str | None:
        """Return the kind of a container whose snapshot is to be rehearsed, else None."""
        policy = bundle.read(container.bundle).options.rehearse or self._settings.rehearse
        if policy is Policy.OFF:
            return None
        spec = _spec(container)
        kind = kind_of(container.facts, (spec.get("process") or {}).get("args") or (), self._facts)
        return None if policy is Policy.FIRST and (self._kinds / kind).exists() else kind

    async def _verdict(self, record: DumpRecord, container: ContainerRecord) -> Verdict:
        if container.facts.gpus:
            return skipped("the container uses GPUs, which a rehearsal cannot share")
        if self._criu_config is None:
            return skipped("the node has no CRIU")
        if (problem := objection_to(await asyncio.to_thread(_spec, container))) is not None:
            return skipped(problem)
        async with self._one:
            if self._stops:
                return skipped("a container was being stopped")
            limit_bytes = record.raw_bytes + MARGIN_BYTES
            available, total = await asyncio.to_thread(_memory)
            problem = memory_problem(
                limit_bytes,
                limit_bytes=self._settings.rehearse_memory_bytes,
                available_bytes=available,
                total_bytes=total,
            )
            if problem is not None:
                return skipped(problem)
            try:
                return await self._run(record, container, limit_bytes)
            finally:
                await asyncio.shield(asyncio.to_thread(self._cgroup.remove))

    async def _run(self, record: DumpRecord, container: ContainerRecord, limit_bytes: int) -> Verdict:
        procs = await asyncio.to_thread(self._cgroup.make, limit_bytes)
        if procs is None:
            return skipped("the node has no memory controller that could bound it")
        self._scratch.mkdir(exist_ok=True, mode=0o700)
        task = self._task(record, container, procs, limit_bytes)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "nodeworker.rehearsal"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_PACKAGES,
        )
        self._process = process
        if self._stops:  # a stop that came since has found nothing to end
            self._kill()
        try:
            said, _ = await process.communicate(wire.encode(task))
        finally:
            self._kill()
            await asyncio.shield(asyncio.wait_for(process.wait(), _END_SECONDS))
            self._process = None
        return await self._judged(said, process.returncode, limit_bytes)

    async def _judged(self, said: bytes, code: int | None, limit_bytes: int) -> Verdict:
        """Believe that a snapshot can be restored; that it cannot, only if nothing else has ended what tried it."""
        verdict: Verdict | None = None
        with suppress(wire.MalformedMessageError):
            rehearsed: Rehearsed = wire.decode(said, Rehearsed)
            verdict = rehearsed.verdict
        if verdict == RESTORABLE:
            return verdict
        if await asyncio.to_thread(self._cgroup.ran_out):
            return skipped(f"it needs more than {limit_bytes >> 20} MiB of memory, or the node has too little")
        if self._stops:
            return skipped("a container was being stopped")
        return verdict or skipped(f"the rehearsal ended with exit code {code}; see the worker's log")

    def _task(self, record: DumpRecord, container: ContainerRecord, procs: Path, limit_bytes: int) -> RehearsalTask:
        config = self._criu_config
        assert config is not None
        cgroup = self._cgroup.container
        bounds = self._settings.bounds_privileges
        return RehearsalTask(
            bundle=container.bundle,
            spool=str(self._settings.spool / record.snapshot_id),
            scratch=str(self._scratch),
            cgroup=cgroup,
            procs=str(procs),
            runc=str(self._runc.binary),
            criu=str(self._runc.criu),
            limit_bytes=limit_bytes,
            log=str(self._log_of(record.snapshot_id)),
            worker_pid=os.getpid(),
            criu_version=config.criu_version,
            yard=config.yard,
            cgroup_version=self._facts.cgroup_version or 1,
            spec=container.facts.privileges if bounds else None,
            recorded=record.facts.privileges,
            id_mapped=bool(container.facts.id_mappings),
        )

    def _log_of(self, snapshot_id: SnapshotId) -> Path:
        return self._settings.logs / f"{snapshot_id}.rehearsal.log"

    def _note(self, record: DumpRecord, verdict: Verdict, kind: str, seconds: float) -> None:
        _log.info(
            "a restore was rehearsed",
            snapshot_id=record.snapshot_id,
            key=str(record.key),
            outcome=verdict.outcome.value,
            why="" if verdict.failure is None else str(verdict.failure),
            seconds=round(seconds, 2),
        )
        if verdict.outcome is RehearsalOutcome.RESTORABLE:
            self._remember(kind)
        self._journal.report(reports.rehearsed(self._settings.node, record, verdict, seconds))

    def _remember(self, kind: str) -> None:
        with suppress(OSError):
            self._kinds.mkdir(exist_ok=True, mode=0o700)
            (self._kinds / kind).touch()
            known = sorted(self._kinds.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in known[:-_MOST_KINDS]:
                old.unlink()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()


def _spec(container: ContainerRecord) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((Path(container.bundle) / "config.json").read_bytes())
    return spec


def _memory() -> tuple[int, int]:
    """Return how many bytes of memory are available, and how many there are."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {words[0]: int(words[1]) << 10 for words in lines}
    return found.get("MemAvailable:", 0), found.get("MemTotal:", 0)
