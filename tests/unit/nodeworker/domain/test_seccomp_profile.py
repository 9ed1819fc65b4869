"""A filter is allowed where it lets no call through that the new container's profile does not; what cannot be shown is not."""

from __future__ import annotations

import copy
import struct
from typing import Any

import pytest
from support.seccomp import compiled

from nodeworker.domain.seccomp_filter import UnknownFilterError, paths
from nodeworker.domain.seccomp_profile import excess_calls

pytestmark = pytest.mark.timeout(60)

Profile = dict[str, Any]
X86_64 = 0xC000003E
MASK = 0x7E020000


def default(
    *more: str, architectures: tuple[str, ...] = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
) -> Profile:
    """Like that of an engine: an allowlist, some of it by arguments."""
    names = [
        "read",
        "write",
        "openat",
        "close",
        "mmap",
        "exit_group",
        "execve",
        "brk",
        "futex",
        "fcntl",
        "fcntl64",
        "recv",
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": list(architectures),
        "syscalls": [
            {"names": [*names, *more], "action": "SCMP_ACT_ALLOW"},
            *(
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}
                ]} for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
            ),
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": MASK, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            ]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }  # fmt: skip


def beyond(old: Profile, new: Profile) -> str | None:
    return excess_calls([compiled(old)], new, "x86_64")


def test_a_filter_fits_the_profile_that_it_was_made_from() -> None:
    assert beyond(default(), default()) is None
    assert beyond(default(architectures=("SCMP_ARCH_X86_64",)), default()) is None


def test_a_profile_that_has_grown_allows_what_was_allowed_and_one_that_has_shrunk_does_not() -> None:
    assert beyond(default(), default("mseal", "io_uring_setup")) is None
    assert beyond(default("io_uring_setup"), default()) == "io_uring_setup"
    assert beyond(default("mount"), default()) == "mount"


def test_a_profile_that_refuses_some_calls_is_narrower_than_none() -> None:
    some = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}
    more = copy.deepcopy(some)
    more["syscalls"][0]["names"].append("unshare")
    assert beyond(some, some) is None
    assert beyond(more, some) is None
    assert beyond(some, more) == "unshare"
    assert beyond(default(architectures=("SCMP_ARCH_X86_64",)), some) is None
    assert beyond(default(), some) == "read of SCMP_ARCH_X32"
    assert beyond(some, default()) is not None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("personality", {"value": 0x40000, "op": "SCMP_CMP_EQ"}),
        ("clone", {"value": 0x7E000000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}),
        ("socket", {"value": 41, "op": "SCMP_CMP_NE"}),
        ("socket", None),
    ],
)
def test_arguments_count(name: str, change: dict[str, Any] | None) -> None:
    old = default(architectures=("SCMP_ARCH_X86_64",))
    rule = next(each for each in old["syscalls"] if each["names"] == [name])
    if change is None:
        del rule["args"]
    else:
        rule["args"] = [{"index": 0, **change}]
    assert beyond(old, default()) == name
    assert excess_calls([compiled(default(architectures=("SCMP_ARCH_X86_64",)))], default(name), "x86_64") is None


def test_calls_of_other_architectures_count() -> None:
    assert beyond(default(), default(architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X32"))) == "read of SCMP_ARCH_X86"
    assert beyond(default(), default(architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))) == "read of SCMP_ARCH_X32"


def test_of_several_filters_one_that_fits_is_enough() -> None:
    wide, narrow = compiled(default("mount")), compiled(default())
    assert excess_calls([wide, narrow], default(), "x86_64") is None
    assert excess_calls([wide, wide], default(), "x86_64") == "mount"
    assert excess_calls([], default(), "x86_64") == "every call"


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *each) for each in instructions)


ALLOW, REFUSE = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)


def test_what_is_not_understood_is_not_shown_to_fit() -> None:
    for code in (
        b"",
        b"1234567",
        program((0x20, 0, 0, 0)),
        program((0x87, 0, 0, 0), ALLOW),
        program((0x20, 0, 0, 3), ALLOW),
    ):
        with pytest.raises(UnknownFilterError):
            paths(code, X86_64, 0)
        assert (excess_calls([code], default(), "x86_64") or "").startswith("calls that cannot be determined")
    assert excess_calls([program(ALLOW)], default(), "s390x") is not None


def test_every_path_is_followed_and_what_it_depends_on_is_kept() -> None:
    low = (0x20, 0, 0, 16)
    code = program((0x20, 0, 0, 0), (0x15, 0, 3, 7), low, (0x15, 0, 1, 5), ALLOW, REFUSE)
    assert paths(code, X86_64, 8) == []
    assert [[tuple(each) for each in way] for way in paths(code, X86_64, 7)] == [[(0, 0xFFFFFFFF, 5, True)]]


def test_a_filter_that_takes_long_to_follow_is_not_shown_to_fit() -> None:
    forks = program((0x20, 0, 0, 16), *[(0x15, 0, 0, 1)] * 4094, (0x06, 0, 0, 0x80000000))
    assert "too" in str(excess_calls([forks] * 50, {"defaultAction": "SCMP_ACT_ERRNO"}, "x86_64"))
    with pytest.raises(UnknownFilterError, match="not a program"):
        paths(forks + forks, 0xC000003E, 0)
