"""Which cgroup a runtime makes for a container on cgroup v2."""

from __future__ import annotations

import pytest

from nodeworker.domain.cgroup_path import absolute_path, expand_slice

pytestmark = pytest.mark.timeout(5)


@pytest.mark.parametrize(
    ("cgroups_path", "path"),
    [
        ("/kubepods/burstable/pod1/c", "/kubepods/burstable/pod1/c"),
        ("/docker/abc", "/docker/abc"),
        ("/default//x/", "/default/x"),
        (
            "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
        ),
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        (":docker:abc", "/system.slice/docker-abc.scope"),
        ("machine.slice:libpod:abc", "/machine.slice/libpod-abc.scope"),
        ("-.slice:p:abc", "/p-abc.scope"),
        ("a.slice:p:own.slice", "/a.slice/own.slice"),
    ],
)
def test_the_path_is_the_one_that_runc_makes(cgroups_path: str, path: str) -> None:
    assert absolute_path(cgroups_path) == path


@pytest.mark.parametrize("cgroups_path", ["", "relative/x", "a:b", "no-slice:p:x", "a--b.slice:p:x", "a/b.slice:p:x"])
def test_what_cannot_be_known_before_or_is_not_a_slice_is_refused(cgroups_path: str) -> None:
    with pytest.raises(ValueError, match=r"slice|absolute"):
        absolute_path(cgroups_path)


def test_a_slice_lies_in_the_slices_that_its_name_begins_with() -> None:
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert expand_slice("-.slice") == "/"
