"""What is looked at before a container is frozen, so that what cannot work is refused while it still runs.

A dump that fails after the freeze has cost the workload its pause for nothing. So everything that can be known beforehand is found here:
whether the container runs, what CRIU is known to refuse, what has to be copied, and whether there is room for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeworker import bundle
from nodeworker.bundle import Bundle
from nodeworker.capture import (
    deleted_files,
    executable_memory,
    file_locks,
    handles,
    message_queues,
    privileges,
    user_namespace,
    volume_files,
    watches,
)
from nodeworker.capture.bounds import Bounds, Tally, measure
from nodeworker.capture.criu import criu
from nodeworker.capture.criu.freezer import Freezer
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.capture.criu.spool import dump_bytes
from nodeworker.capture.gpu.cuda import Cuda, GpuPlan
from nodeworker.capture.hooks import Hooks
from nodeworker.capture.overlay import find_overlay
from nodeworker.disk.reservations import Disk, Room
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.unstored_captures import UnstoredCaptures
from nodeworker.domain import checkpoint_options
from nodeworker.domain.criu_images.watches import Inode
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.errors import refusal
from nodeworker.journal import ContainerRecord
from nodeworker.settings import Settings
from woodfrog.protocol.events import Trigger
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.privileges import Privileges

_LAYER: Final = "the writable layer"
_SHM: Final = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a container before it is frozen."""

    root: Path
    freezer: Freezer
    criu_config: Path
    criu: CriuConfig
    upper: Path | None
    shm: Path | None
    volumes: dict[str, Path]
    outside: dict[str, Path]
    """The mounts whose files do not travel, by where they are."""
    cpusets: tuple[str, ...]
    """Cgroups that say which processors the container may use."""
    noticed: tuple[str, ...]
    """What is to be told with the snapshot."""
    bounds: Bounds
    configs: dict[str, Path]
    stopped_pids: tuple[int, ...]
    privileges: Privileges | None
    gpus: GpuPlan | None
    watches: dict[Inode, str]
    """Inodes on overlay that processes watch, with their paths."""
    watchers: tuple[tuple[int, int], ...]
    """Processes that watch files, and the descriptors by which they do."""
    wished_freeze_seconds: float | None
    """What the container's owner says about it."""
    usual_freeze_seconds: float
    room: Room
    """Reserved on the disk until the capture is written."""

    def freeze_limit(self, trigger: Trigger) -> float | None:
        """Say how long the container may stand still; None for as long as it takes.

        Of a container that is to end there is no later snapshot, and who asks for one now wants it, unless its owner says otherwise.
        """
        if trigger is Trigger.STOP_SIGNAL:
            return None
        return self.wished_freeze_seconds or (self.usual_freeze_seconds if trigger is Trigger.SCHEDULE else None)


class Preflight:
    """Looks at containers for one worker. Every method blocks."""

    def __init__(
        self,
        settings: Settings,
        runc: Runc,
        cuda: Cuda,
        copies: SnapshotCache,
        unstored: UnstoredCaptures,
        disk: Disk,
        config: CriuConfig | None,
    ) -> None:
        self._settings = settings
        self._runc = runc
        self._cuda = cuda
        self._copies = copies
        self._unstored = unstored
        self._disk = disk
        self._config = config
        self._hooks = Hooks(runc)

    def look(self, container: ContainerRecord, *, only: bool = False, final: bool = False) -> Plan:
        """Find all that the dump needs and refuse what cannot work; nothing is frozen or written yet.

        Args:
            container: the one that is to be dumped.
            only: whether nobody is going to dump it now, so that nothing has to make room.
            final: whether it is to end: one that is paused is thawed, as its stop signal would thaw it.

        Raises:
            FailureError: saying what speaks against the dump.
        """
        return self._look(container, only=only, final=final, noticed=() if only else None)

    def _look(self, container: ContainerRecord, *, only: bool, final: bool, noticed: tuple[str, ...] | None) -> Plan:
        """Look; while ``noticed`` is None, the program has not been told to prepare yet."""
        if self._config is None:
            raise refusal(
                "criu-missing", f"{self._settings.criu} says no version", "Install CRIU, or set WOODFROG_CRIU."
            )
        root = Path(container.runc_root)
        state = self._runc.state(root, container.container_id)
        if final and state.status == "paused":
            state.freezer.thaw()
            state = self._runc.state(root, container.container_id)
        freezer = state.freezer
        pids = freezer.pids()
        stopped = criu.stopped_pids(pids)
        if state.status != "running" or not pids or container.is_unstarted:
            known = "created" if container.is_unstarted else state.status if pids else "no process is in its cgroup"
            cause = f"the container is not running (state: {known})"
            raise refusal("not-running", cause, "Only a running container can be dumped.")
        config = self._settings.container_dir(container.container_id) / "criu.conf"
        if state.criu_config != config:
            cause = f"the container was created with CRIU's configuration in {state.criu_config}, not {config}"
            raise refusal(
                "criu-config-foreign", cause, "Create it through Woodfrog's runtime, with the same run directory."
            )
        live = bundle.read(container.bundle)
        user_namespace.refuse_unrestorable(joins=live.joins_user_namespace, idmapped=live.idmapped)
        user_namespace.refuse_nested(pids, state.pid)
        dumped = criu.descendants(pids, state.pid)
        criu.refuse_traced(dumped)
        criu.refuse_io_uring(dumped)
        handles.refuse(dumped)
        message_queues.refuse(state.pid)
        executable_memory.refuse_shared(dumped)
        watched = watches.find(watchers := watches.watchers(dumped), dumped, state.pid)
        criu.refuse_unreadable_limits(dumped)
        criu.refuse_adopted(pids, state.pid)
        file_locks.refuse_lost(dumped)
        outside = live.outside
        deleted_files.refuse_unrestorable(dumped, outside)
        overlay = find_overlay(state.rootfs)
        upper = None if overlay is None else overlay.upper
        shm, volumes = live.travelling_shm, live.travelling
        bounds = self._settings.bounds
        copied_bytes = _measured(upper, shm, volumes, bounds, live.options.volumes_limit_bytes)
        self._settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        gpus = self._cuda.plan(state, pids, container.facts.gpus)
        gpu_bytes = 0 if gpus is None else gpus.gpu_bytes
        held = privileges.held(dumped, state.pid, container.facts.privileges or live.facts.privileges)
        if noticed is None and live.options.before_dump is not None:
            # What it has open, watches and holds in its files may be other afterwards.
            return self._look(container, only=only, final=final, noticed=self._hooked(live, state))
        if not only:
            volume_files.flush(outside, dumped)
        wished, usual = live.options.freeze_limit_seconds, self._settings.freeze_limit_seconds
        needed = dump_bytes(pids, copied_bytes + gpu_bytes)
        room = self._take(needed) if only else self._make_room(needed)
        return Plan(
            root,
            freezer,
            config,
            self._config,
            upper,
            shm,
            volumes,
            outside,
            tuple(state.cgroup_paths[name] for name in ("cpuset", "") if name in state.cgroup_paths),
            noticed or (),
            bounds,
            live.configs,
            stopped,
            held,
            gpus,
            watched,
            watchers,
            wished,
            usual,
            room,
        )

    def objection(self, container: ContainerRecord) -> Failure | None:
        """Say what a dump would be refused for, or ``None``."""
        try:
            self.look(container, only=True).room.close()
        except FailureError as problem:
            return problem.failure
        return None

    def _take(self, needed_bytes: int) -> Room:
        return self._disk.take(needed_bytes, self._settings.spool / "next", "the dump")

    def _hooked(self, live: Bundle, state: RuncState) -> tuple[str, ...]:
        """Let the program prepare, now that nothing speaks against the dump."""
        wishes = live.options
        if wishes.before_dump is None:
            return ()
        return self._hooks.before_dump(wishes.before_dump, state, live.bound, wishes.hook_limit_seconds)

    def _make_room(self, needed_bytes: int) -> Room:
        """Let copies go, and then captures that wait for the store and whose containers run on, until the dump has room.

        Raises:
            FailureError: ``disk-full``.
        """
        while True:
            try:
                return self._take(needed_bytes)
            except FailureError:
                if not (self._copies.give_way() or self._unstored.give_way()):
                    raise


def _measured(upper: Path | None, shm: Path | None, volumes: dict[str, Path], bounds: Bounds, limit_bytes: int) -> int:
    """Add up what is to be copied. More than is allowed is no snapshot: without its files no process goes on rightly.

    Raises:
        FailureError: ``volumes-too-large``, naming the largest; ``too-many-files``, ``files-too-large``, ``tree-too-deep``.
    """
    tally = Tally(bounds)
    own = {_LAYER: upper, _SHM: shm}
    sizes = {name: measure(place, tally) for name, place in own.items() if place is not None}
    counted = {key: measure(source, tally) for key, source in volumes.items()}
    if bounds.layer_counts:
        counted = {**sizes, **counted}
        sizes = {}
    total = sum(counted.values())
    if total > limit_bytes:
        what = "writable layer, /dev/shm, emptyDirs" if bounds.layer_counts else "emptyDirs"
        largest = max(counted, key=counted.__getitem__)
        cause = (
            f"the container's {what} and anonymous volumes hold {total >> 20} MiB, {counted[largest] >> 20} MiB of them "
            f"in {largest}; the limit is {limit_bytes >> 20} MiB"
        )
        advice = (
            f"Raise the annotation {checkpoint_options.VOLUMES_LIMIT}, or name in {checkpoint_options.VOLUMES} the volumes that are captured: "
            "a cache need not be."
        )
        raise refusal("volumes-too-large", cause, advice)
    return total + sum(sizes.values())
