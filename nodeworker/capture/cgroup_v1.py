"""What a restored container has at /sys/fs/cgroup on a node with cgroup v1: its own cgroup of each controller.

runc makes of a mount of type ``cgroup`` one bind mount for each controller, whose source is found by /proc/self/cgroup
(``getCgroupMounts`` in libcontainer/rootfs_linux.go). At create the process that looks there is in the new container's cgroups. At
restore it is runc itself, in the container engine's, so the container would see the engine's cgroups, or the whole
machine's, and read its limits from there. CRIU's option ``external mnt[PLACE]:SOURCE`` overrides what runc names: CRIU
reads the configuration file a second time after runc's request (``setup_opts_from_req`` in criu/cr-service.c).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterable
from typing import Final

from nodeworker.domain.cgroup_path import absolute_path
from woodfrog.service import procfs

_MADE_BY_RUNC: Final = frozenset({
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "name=systemd", "net_cls", "net_prio",
    "perf_event", "pids", "rdma",
})  # fmt: skip
"""Controllers in which runc 1.1 makes a cgroup (libcontainer/cgroups/fs/fs.go)."""


def mounts(
    cgroups_path: str, destinations: Collection[str], node_mounts: Callable[[], Iterable[procfs.Mount]] = procfs.mounts
) -> dict[str, str]:
    """Return what belongs where in a container, for all controllers; nothing on a node with cgroup v2.

    ``destinations`` are those of its mounts of type ``cgroup``. Nothing either where ``cgroups_path`` does not name the cgroup.
    """
    try:
        cgroup = absolute_path(cgroups_path)
    except ValueError:
        return {}
    points = [mount.place for mount in node_mounts() if _is_hierarchy(mount)] if destinations else []
    return {
        posixpath.join(destination, posixpath.basename(point)): posixpath.join(point, cgroup.lstrip("/"))
        for destination in destinations
        for point in points
    }


def _is_hierarchy(mount: procfs.Mount) -> bool:
    """Whether a whole hierarchy of cgroup v1 is mounted there."""
    return mount.kind == "cgroup" and mount.root == "/" and not _MADE_BY_RUNC.isdisjoint(mount.options)
