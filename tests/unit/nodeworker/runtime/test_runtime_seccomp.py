"""io_uring is taken out of any profile, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodeworker.runtime.container import adapt
from nodeworker.runtime.seccomp import CALLS, take_io_uring, without_io_uring

pytestmark = pytest.mark.timeout(10)

DENY = {"names": list(CALLS), "action": "SCMP_ACT_ERRNO", "errnoRet": 38}


def test_a_container_without_a_profile_gets_one_that_allows_all_else() -> None:
    profile = without_io_uring(None, "x86_64")
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert profile["syscalls"] == [DENY]
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert "architectures" not in without_io_uring(None, "riscv64")


def test_a_profile_that_allows_it_among_others_goes_on_allowing_the_others() -> None:
    allowed: dict[str, Any] = {"names": ["read", "io_uring_enter", "write"], "action": "SCMP_ACT_ALLOW"}
    only = {"names": ["io_uring_setup", "io_uring_register"], "action": "SCMP_ACT_ALLOW"}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [allowed, only], "flags": ["X"]}
    untouched = json.loads(json.dumps(profile))
    assert without_io_uring(profile, "x86_64") == {
        **profile,
        "syscalls": [{**allowed, "names": ["read", "write"]}, DENY],
    }
    assert profile == untouched


@pytest.mark.parametrize("syscalls", [None, [], "nonsense"])
def test_a_profile_without_rules_gets_the_one(syscalls: object) -> None:
    assert without_io_uring({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}, "x86_64")["syscalls"] == [DENY]


def test_what_is_adapted_twice_is_written_once(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"linux": {"resources": {}}}))
    adapt(str(tmp_path), "/criu.conf", take_io_uring)
    first = config.stat().st_ino
    spec = json.loads(config.read_text())
    assert spec["linux"]["seccomp"]["syscalls"] == [DENY]
    assert spec["linux"]["resources"] == {}
    adapt(str(tmp_path), "/criu.conf", take_io_uring)
    assert config.stat().st_ino == first
