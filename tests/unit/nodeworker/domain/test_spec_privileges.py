"""What a config.json allows, in the form in which it is compared."""

from __future__ import annotations

from typing import Any

import pytest

from nodeworker.domain.spec_privileges import allowed, lsm_profile, profile_digest, without_level

pytestmark = pytest.mark.timeout(10)


def is_hosts(_kind: str, path: str) -> bool:
    return path == "/proc/1/ns/net"


def test_what_is_not_said_is_the_least_or_the_nodes_own() -> None:
    found = allowed({}, is_hosts)
    assert (found.user, found.bounding, found.no_new_privs, found.seccomp, found.lsm) == (0, (), False, "", ())
    assert found.host_namespaces == ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")


def test_everything_that_is_said_is_read() -> None:
    config: dict[str, Any] = {
        "process": {
            "user": {"uid": 1000, "gid": 3000, "additionalGids": [2000, 5]},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "ambient": ["CAP_KILL"]},
            "noNewPrivileges": True,
            "apparmorProfile": "web",
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
            "oomScoreAdj": 300,
        },
        "root": {"readonly": True},
        "mounts": [
            {"destination": "/vol/", "options": ["rbind", "ro"]},
            {"destination": "/rw", "options": ["ro", "rw"]},
            {"destination": "/deep", "options": ["rbind", "rro"]},
            {"destination": "/plain"},
        ],
        "linux": {
            "readonlyPaths": ["/proc/sys"],
            "maskedPaths": ["/proc/kcore"],
            "namespaces": [
                {"type": "network", "path": "/proc/1/ns/net"},
                {"type": "pid"},
                {"type": "ipc", "path": "/proc/7/ns/ipc"},
            ],
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
        },
    }
    found = allowed(config, is_hosts)
    assert (found.user, found.uids, found.gids, found.groups) == (1000, (1000,), (3000,), (5, 2000))
    assert (found.bounding, found.ambient, found.given) == (("CAP_CHOWN", "CAP_KILL"), ("CAP_KILL",), ("CAP_KILL",))
    assert found.read_only == ("/", "/deep", "/proc/sys", "/vol")
    assert found.masked == ("/proc/kcore",)
    assert found.host_namespaces == ("cgroup", "mount", "network", "time", "user", "uts")
    assert (found.lsm, found.rlimits, found.oom_score_adj) == (("web",), (("RLIMIT_NOFILE", 2),), 300)
    assert found.no_new_privs
    assert found.seccomp


@pytest.mark.parametrize(
    "process",
    [{"user": {"uid": 1 << 32}}, {"user": {"gid": -1}}, {"user": {"uid": 1e999}}, {"user": {"additionalGids": [True]}},
     {"rlimits": [{"type": "RLIMIT_CPU", "hard": 1 << 64}]}, {"oomScoreAdj": "0"}],
)  # fmt: skip
def test_numbers_that_no_kernel_takes_are_refused(process: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a number"):
        allowed({"process": process}, is_hosts)


def test_a_profile_is_named_by_what_it_decides() -> None:
    rules = [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}, {"names": ["close"], "action": "SCMP_ACT_ALLOW"}]
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["A", "B"], "syscalls": rules}
    turned = {
        "syscalls": [rules[1], {"action": "SCMP_ACT_ALLOW", "names": ["write", "read"]}],
        "architectures": ["B", "A"],
        "defaultAction": "SCMP_ACT_ERRNO",
        "listenerPath": "/somewhere",
    }
    assert profile_digest(profile) == profile_digest(turned)
    assert profile_digest(profile) != profile_digest({**profile, "defaultAction": "SCMP_ACT_KILL"})
    assert profile_digest(None) == profile_digest({}) == ""


def test_a_profile_of_apparmor_or_a_label_of_selinux_is_named_for_the_runtime() -> None:
    label = "system_u:system_r:container_t:s0:c1,c2"
    assert lsm_profile({"process": {"selinuxLabel": label}}) == f"selinux:{label}"
    assert lsm_profile({"process": {"apparmorProfile": "web"}}) == "apparmor:web"
    assert lsm_profile({"process": {"apparmorProfile": "unconfined"}}) == ""
    assert lsm_profile({}) == ""
    assert without_level(label) == "system_u:system_r:container_t"
    assert without_level("web") == "web"
