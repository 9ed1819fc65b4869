"""Getting from a privileged pod onto its node: into the namespaces of the host's first process.

The worker must see what containerd sees: its mounts, processes and cgroups. A pod with ``hostPID`` can step over, and
that is done here with the system calls themselves, since a node image need not have ``nsenter`` and a volume of the pod
has to come along: a token that the kubelet renews is a file of the pod, which the host knows under no stable name. Such a
volume is taken up as a detached mount before the step and attached after it (open_tree(2), move_mount(2)), in a mount
namespace of the worker's own, which gets all that is mounted on the host later and gives nothing back.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from woodfrog.service import libc, procfs

_OPEN_TREE, _MOVE_MOUNT = 428, 429
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_KINDS: Final = ("cgroup", "uts", "ipc", "net", "pid", "mnt")
"""In this order: after ``mnt`` nothing of the pod can be opened any more."""
_OF_THE_POD: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/dev", "/proc", "/sys")


@dataclass(frozen=True, slots=True)
class Carried:
    """A mount of the pod, taken up."""

    mount_point: str
    descriptor: int


def outside() -> bool:
    """Whether the first process lives in another mount namespace than this one, as seen from a privileged hostPID pod."""
    try:
        return Path("/proc/1/ns/mnt").stat().st_ino != Path("/proc/self/ns/mnt").stat().st_ino
    except PermissionError:  # a machine that does not let its root look at its first process; such a pod may
        return False


def in_pod_without_host_pid() -> bool:
    """Whether this is a pod that cannot see its host's processes, or may not."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and not outside()


def enter(pid: int = 1, kinds: Sequence[str] = _KINDS) -> None:
    """Step into namespaces of a process; the working directory becomes its root."""
    held = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for descriptor, kind in zip(held, kinds, strict=True):
        libc.call("setns", descriptor, 0, about=f"setns {kind}")
        os.close(descriptor)
    os.chdir("/")


def own_mounts() -> None:
    """Get a mount namespace of one's own, which follows the host's."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", None, libc.MS_REC | libc.MS_SLAVE)


def bind(source: Path, target: Path) -> None:
    """Lay one file over another."""
    libc.mount(source, target, None, libc.MS_BIND)


def take_up(mount_point: str) -> Carried:
    """Take a mount up, to be attached elsewhere."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    descriptor = libc.call("syscall", _OPEN_TREE, _AT_FDCWD, os.fsencode(mount_point), flags, about=mount_point)
    return Carried(mount_point, descriptor)


def attach(carried: Carried, target: Path) -> None:
    """Attach what was taken up."""
    source, place = carried.descriptor, os.fsencode(target)
    libc.call("syscall", _MOVE_MOUNT, source, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH, about=str(target))
    os.close(carried.descriptor)


def volume_of(path: str, mount_points: Collection[str]) -> tuple[str, str] | None:
    """The volume of the pod that a path lies on, and the path within it; ``None`` if it is the image's or the host's own.

    Links are followed above the volume (``/var/run`` is one), never within: there they are how the kubelet renews files.
    """
    for folder in (path, *map(str, Path(path).parents)):
        volume = os.path.realpath(folder)
        if volume in mount_points:
            return volume, path.removeprefix(folder).lstrip("/")
    return None


def volumes() -> list[str]:
    """Where volumes are mounted in this pod."""
    points = [mount.place for mount in procfs.mounts()]
    return [each for each in points if each != "/" and not any(_below(each, other) for other in _OF_THE_POD)]


@dataclass(frozen=True, slots=True)
class Named:
    """A variable that names a file on a volume, or a store there."""

    variable: str
    prefix: str
    volume: str
    rest: str


def named_files(environment: Mapping[str, str], mount_points: Collection[str]) -> Iterator[Named]:
    """Find the variables that name a file on a volume of the pod, or a ``file://`` store there."""
    for name, value in environment.items():
        prefix = "file://" if value.startswith("file:///") else ""
        # The pod's own root, as seen from the host, is named so where a shell writes the path.
        path = value.removeprefix(prefix).removeprefix(f"/proc/{os.getpid()}/root")
        if not path.startswith("/") or not (prefix or os.path.isfile(path)):  # noqa: PTH113
            continue
        found = volume_of(path, mount_points)
        if found is not None:
            yield Named(name, prefix, *found)


def _below(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")
