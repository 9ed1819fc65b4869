"""What a restored container has at /sys/fs/cgroup on cgroup v1."""

from __future__ import annotations

import pytest

from nodeworker.capture import cgroup_v1
from nodeworker.domain.criu_options import CriuConfig
from woodfrog.service.procfs import Mount

pytestmark = pytest.mark.timeout(5)

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 /docker/x /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:33 / /sys/fs/cgroup/misc rw,relatime - cgroup cgroup rw,misc
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def mounts(mountinfo: str, cgroups_path: str) -> dict[str, str]:
    return cgroup_v1.mounts(cgroups_path, ["/sys/fs/cgroup"], lambda: map(Mount.read, mountinfo.splitlines()))


def nobody() -> list[Mount]:
    raise AssertionError("nothing is to be read")


def test_each_controller_in_which_runc_makes_a_cgroup_is_the_new_containers() -> None:
    assert mounts(V1, "/kubepods/pod1/c1") == {
        "/sys/fs/cgroup/cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c1",
        "/sys/fs/cgroup/memory": "/sys/fs/cgroup/memory/kubepods/pod1/c1",
        "/sys/fs/cgroup/systemd": "/sys/fs/cgroup/systemd/kubepods/pod1/c1",
    }


def test_with_the_systemd_driver_it_is_the_scope() -> None:
    found = mounts(V1, "kubepods-pod1.slice:cri-containerd:c1")
    assert found["/sys/fs/cgroup/memory"] == (
        "/sys/fs/cgroup/memory/kubepods.slice/kubepods-pod1.slice/cri-containerd-c1.scope"
    )


def test_runc_is_left_alone_on_v2_and_where_the_cgroup_is_not_known() -> None:
    assert mounts(V2, "/kubepods/pod1/c1") == {}
    assert mounts(V1, "relative") == {}
    assert cgroup_v1.mounts("/kubepods/pod1/c1", [], nobody) == {}


def test_criu_is_told_by_the_restores_file_alone() -> None:
    config = CriuConfig("4.1.1")
    said = config.for_restore(None, {"/sys/fs/cgroup/memory": "/sys/fs/cgroup/memory/x", "/a b": "/c"})
    assert said.endswith("\nexternal mnt[/sys/fs/cgroup/memory]:/sys/fs/cgroup/memory/x\n")
    assert "external mnt" not in config.for_restore()
