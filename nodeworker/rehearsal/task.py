"""What the worker asks the rehearsing process, and what that answers: one line of JSON each way."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nodeworker.domain.rehearsal import Verdict
from woodfrog.protocol.privileges import Privileges


class RehearsalTask(msgspec.Struct, frozen=True):
    """One rehearsal."""

    bundle: str
    spool: str
    scratch: str
    """An empty directory, over which memory is mounted."""
    cgroup: str
    """``linux.cgroupsPath`` of the container."""
    procs: str
    """The ``cgroup.procs`` that bounds this process."""
    runc: str
    criu: str
    limit_bytes: int
    log: str
    """Where CRIU's log of a restore that failed goes."""
    worker_pid: int
    criu_version: str
    yard: str | None
    """As in ``CriuConfig``."""
    cgroup_version: int
    spec: Privileges | None = None
    """What the container's spec allows; None: it is not compared."""
    recorded: Privileges | None = None
    id_mapped: bool = False


class Rehearsed(msgspec.Struct, frozen=True):
    """The answer."""

    verdict: Verdict


def scratch_of(run_dir: Path) -> Path:
    """Return the directory over which each rehearsal of a worker mounts its memory."""
    return run_dir / "rehearsal"
