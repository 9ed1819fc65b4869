"""When a restore is rehearsed, with what container, and whom its failure blames."""

from __future__ import annotations

from typing import Any

import pytest

from nodeworker.domain.rehearsal import (
    NOT_REHEARSED,
    kind_of,
    memory_problem,
    objection_to,
    rehearsal_spec,
    skipped,
    verdict_on,
)
from woodfrog.protocol.events import RehearsalOutcome
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import PASSING_CODES, Failure

pytestmark = pytest.mark.timeout(10)

MIB = 1 << 20
NODE = NodeFacts("x86_64", kernel_release="6.1", runc_version="1.1", criu_version="4.1")
IMAGE = ContainerFacts(image="job:1", image_digest="sha256:1", mounts=("/proc",))


def spec(**linux: Any) -> dict[str, Any]:
    """A pod's container."""
    kinds: list[dict[str, str]] = [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}]
    return {
        "process": {"args": ["sleep"], "capabilities": {"bounding": ["CAP_KILL"]}},
        "root": {"path": "rootfs", "readonly": True},
        "hooks": {"prestart": [{"path": "/bin/hook"}]},
        "annotations": {"org.criu.config": "/run/criu.conf", "a": "b"},
        "mounts": [
            {"destination": "/v", "type": "bind", "source": "volume", "options": ["rbind"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ],
        "linux": {"cgroupsPath": "/pod/c", "namespaces": kinds, "resources": {"pids": {"limit": 9}}} | linux,
    }


@pytest.mark.parametrize(
    ("needed", "limit", "available", "total", "problem"),
    [
        (100, 4096, 1000, 2000, None),
        (100, 99, 1000, 2000, "the node allows 99 MiB for rehearsals"),
        (900, 4096, 1000, 2000, "the node has 800 MiB to spare"),
        (900, 4096, 100, 2000, "the node has 0 MiB to spare"),
    ],
)
def test_a_rehearsal_leaves_a_tenth_of_the_memory_free(
    needed: int, limit: int, available: int, total: int, problem: str | None
) -> None:
    said = memory_problem(
        needed * MIB, limit_bytes=limit * MIB, available_bytes=available * MIB, total_bytes=total * MIB
    )
    assert said is None if problem is None else problem in str(said)


def test_another_image_command_kernel_or_tool_is_another_kind() -> None:
    kinds = [
        kind_of(IMAGE, ["a", "b"], NODE),
        kind_of(IMAGE, ["a b"], NODE),
        kind_of(ContainerFacts(image="job:1", image_digest="sha256:2", mounts=("/proc",)), ["a", "b"], NODE),
        kind_of(IMAGE, ["a", "b"], NodeFacts("x86_64", kernel_release="6.2", runc_version="1.1", criu_version="4.1")),
        kind_of(IMAGE, ["a", "b"], NodeFacts("x86_64", kernel_release="6.1", runc_version="1.1", criu_version="4.2")),
        kind_of(IMAGE, ["a", "b"], NodeFacts("x86_64", kernel_release="6.1", runc_version="1.2", criu_version="4.1")),
    ]
    assert len(set(kinds)) == len(kinds)
    assert kind_of(IMAGE, ["a", "b"], NODE) == kinds[0]


def test_the_rehearsed_container_is_the_same_but_for_its_hooks_and_what_it_joins() -> None:
    made = rehearsal_spec(spec(), folder="/bundle", cgroups_path="/rehearsal/c", criu_config="/x/criu.conf", pid=1)
    expected = spec()
    del expected["hooks"]
    expected["root"]["path"] = "/bundle/rootfs"
    expected["mounts"][0]["source"] = "/bundle/volume"
    expected["annotations"]["org.criu.config"] = "/x/criu.conf"
    expected["linux"]["cgroupsPath"] = "/rehearsal/c"
    expected["linux"]["namespaces"][2]["path"] = "/proc/1/ns/net"
    assert made == expected


@pytest.mark.parametrize(
    ("namespaces", "objection"),
    [
        ([{"type": "pid"}], None),
        ([], "shares its process ids"),
        ([{"type": "pid", "path": "/proc/7/ns/pid"}], "shares its process ids"),
        ([{"type": "pid"}, {"type": "user", "path": "/proc/7/ns/user"}], "joins a namespace"),
    ],
)
def test_a_container_that_would_meet_others_is_not_rehearsed(
    namespaces: list[dict[str, str]], objection: str | None
) -> None:
    said = objection_to(spec(namespaces=namespaces))
    assert said is None if objection is None else objection in str(said)


@pytest.mark.parametrize("code", sorted(PASSING_CODES))
def test_what_the_place_caused_says_nothing_about_the_snapshot(code: str) -> None:
    verdict = verdict_on(Failure(code, "the cause", "advice"))
    assert verdict.outcome is RehearsalOutcome.NOT_REHEARSED
    assert verdict.failure is not None
    assert verdict.failure.code == NOT_REHEARSED
    assert verdict.failure.cause == f"the cause ({code})"


@pytest.mark.parametrize("code", ["criu-config", "kernel-limit", "mount-propagation", "network-lock", "tcp-state"])
def test_what_is_otherwise_in_a_rehearsal_says_nothing_about_the_snapshot(code: str) -> None:
    assert verdict_on(Failure(code, "the cause", "advice")).outcome is RehearsalOutcome.NOT_REHEARSED


@pytest.mark.parametrize("code", ["criu-failed", "criu-crashed"])
def test_a_complaint_in_no_table_is_held_against_nobody(code: str) -> None:
    verdict = verdict_on(Failure(code, "the cause", "advice", "Error (criu/pie/restorer.c:1): Can't restore it"))
    assert verdict.outcome is RehearsalOutcome.NOT_REHEARSED


def test_what_criu_found_in_the_images_condemns_the_capture() -> None:
    verdict = verdict_on(Failure("link-remap", "a file's other name is gone", "Advice.", "Error: x"))
    assert verdict.outcome is RehearsalOutcome.FAILED
    assert verdict.failure is not None
    assert verdict.failure.code == "unrestorable"
    assert verdict.failure.cause == "a rehearsal of its restore failed: a file's other name is gone (link-remap)"
    assert verdict.failure.detail == "Error: x"


def test_a_reason_is_given_once() -> None:
    first = skipped("too little memory")
    assert first.failure is not None
    assert verdict_on(first.failure) == first
