"""What a restored container has at /sys/fs/cgroup on a node with cgroup v1: its own cgroup of each controller.

runc makes of a mount of type ``cgroup`` one bind mount for each controller, whose source is found by /proc/self/cgroup
(``getCgroupMounts`` in libcontainer/rootfs_linux.go). At create the process that looks there is in the new container's cgroups. At
restore it is runc itself, in the container engine's, so the container would see the engine's cgroups, or the whole
machine's, and read its limits from there. CRIU's option ``external mnt[PLACE]:SOURCE`` overrides what runc names: CRIU
reads the configuration file a second time after runc's request (``setup_opts_from_req`` in criu/cr-service.c).
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from pathlib import Path
from typing import Final

from nodeworker.domain.cgroup_path import absolute_path

_MADE_BY_RUNC: Final = frozenset({
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "name=systemd", "net_cls", "net_prio",
    "perf_event", "pids", "rdma",
})  # fmt: skip
"""Controllers in which runc 1.1 makes a cgroup (libcontainer/cgroups/fs/fs.go)."""
_ROOT, _POINT, _OPTIONAL = 3, 4, 6
"""Fields of a line of mountinfo; optional ones follow up to a hyphen (proc_pid_mountinfo(5))."""


def mounts(
    cgroups_path: str, destinations: Collection[str], mountinfo: Path = Path("/proc/self/mountinfo")
) -> dict[str, str]:
    """Return what belongs where in a container, for all controllers; nothing on a node with cgroup v2.

    ``destinations`` are those of its mounts of type ``cgroup``. Nothing either where ``cgroups_path`` does not name the cgroup.
    """
    try:
        cgroup = absolute_path(cgroups_path)
    except ValueError:
        return {}
    points = _hierarchies(mountinfo.read_text()) if destinations else []
    return {
        posixpath.join(destination, posixpath.basename(point)): posixpath.join(point, cgroup.lstrip("/"))
        for destination in destinations
        for point in points
    }


def _hierarchies(mountinfo: str) -> list[str]:
    """Return where the whole hierarchies of cgroup v1 are mounted."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split()
        kind, _, options = fields[fields.index("-", _OPTIONAL) + 1 :][:3]
        if kind == "cgroup" and fields[_ROOT] == "/" and not _MADE_BY_RUNC.isdisjoint(options.split(",")):
            found.append(fields[_POINT])
    return found
