"""When a snapshot does not fit a node, and that ignorance is no misfit."""

from __future__ import annotations

import msgspec
import pytest

from woodfrog.protocol.facts import ContainerFacts, NodeFacts, misfit

pytestmark = pytest.mark.timeout(5)

NODE = NodeFacts(architecture="x86_64", page_size_bytes=4096, cpu_features=("avx", "sse"))
CONTAINER = ContainerFacts(image="app:1", image_digest="sha256:one", mounts=("/data", "/proc"))


def test_a_snapshot_fits_where_it_was_taken() -> None:
    assert misfit(NODE, CONTAINER, NODE, CONTAINER) is None


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (NodeFacts(architecture="aarch64"), "it was taken on architecture x86_64, this node has aarch64"),
        (NodeFacts(page_size_bytes=65536), "it was taken on page size 4096, this node has 65536"),
        (NodeFacts(cpu_features=("sse",)), "this node's CPU lacks avx"),
    ],
)
def test_a_node_that_cannot_run_the_processes_does_not_fit(node: NodeFacts, why: str) -> None:
    assert misfit(NODE, CONTAINER, node, CONTAINER) == why


def test_a_node_that_can_do_more_fits() -> None:
    assert misfit(NODE, CONTAINER, NodeFacts(cpu_features=("avx", "avx2", "sse")), CONTAINER) is None


def test_a_long_list_of_lacking_features_is_cut_short() -> None:
    many = NodeFacts(cpu_features=tuple(f"feature{number:02}" for number in range(20)))
    why = misfit(many, CONTAINER, NodeFacts(cpu_features=("sse",)), CONTAINER)
    assert why is not None
    assert why.endswith("feature07 …")


@pytest.mark.parametrize(
    "node",
    [
        NodeFacts(),
        NodeFacts(kernel_release="7.0", cgroup_version=2, cpu_model="another", criu_version="5", runc_version="2"),
    ],
    ids=["unknown", "different but harmless"],
)
def test_what_is_unknown_or_does_not_matter_is_no_misfit(node: NodeFacts) -> None:
    assert misfit(NODE, CONTAINER, node, CONTAINER) is None
    assert misfit(node, CONTAINER, NODE, CONTAINER) is None


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (ContainerFacts(image_digest="d1"), ContainerFacts(image_digest="d2"), "the image changed from d1 to d2"),
        (
            ContainerFacts(image="app:1", image_digest="sha256:" + 64 * "a"),
            ContainerFacts(image="app:1", image_digest="sha256:" + 64 * "b"),
            "the image changed from app:1 (sha256:aaaaaaaaaaaa) to app:1 (sha256:bbbbbbbbbbbb)",
        ),
        (ContainerFacts(image="app:1"), ContainerFacts(image="app:2"), "the image changed from app:1 to app:2"),
        (ContainerFacts(image="app:1", image_digest="d"), ContainerFacts(image="app:2", image_digest="d"), None),
        (ContainerFacts(image="app:1", image_digest="d"), ContainerFacts(image="app:1"), None),
        (ContainerFacts(), ContainerFacts(image="app:1"), None),
    ],
    ids=["digest", "digest and name", "name", "same digest, other name", "digest unknown on one side", "unknown"],
)
def test_another_image_does_not_fit_and_a_digest_says_more_than_a_name(
    before: ContainerFacts, now: ContainerFacts, why: str | None
) -> None:
    assert misfit(NODE, before, NODE, now) == why


def test_a_mount_that_is_gone_does_not_fit_and_one_that_is_new_does() -> None:
    less = ContainerFacts(mounts=("/proc",))
    assert misfit(NODE, CONTAINER, NODE, less) == "the new container has no mount at /data"
    assert misfit(NODE, less, NODE, CONTAINER) is None


@pytest.mark.parametrize(
    ("was", "now", "why"),
    [
        (
            (),
            ("uid 0 100000 65536",),
            "its users are mapped to the node's own, the new container's to uid 0 100000 65536",
        ),
        (
            ("uid 0 1 9", "gid 0 1 9"),
            (),
            "its users are mapped to uid 0 1 9, gid 0 1 9, the new container's to the node's own",
        ),
        (("uid 0 1 9",), ("uid 0 2 9",), "its users are mapped to uid 0 1 9, the new container's to uid 0 2 9"),
        (("uid 0 1 9",), ("uid 0 1 9",), None),
    ],
)
def test_a_container_in_another_user_namespace_does_not_fit(
    was: tuple[str, ...], now: tuple[str, ...], why: str | None
) -> None:
    there, here = (msgspec.structs.replace(CONTAINER, id_mappings=mappings) for mappings in (was, now))
    assert misfit(NODE, there, NODE, here) == why


def test_mounts_that_nobody_listed_are_unknown() -> None:
    assert misfit(NODE, CONTAINER, NODE, ContainerFacts()) is None
