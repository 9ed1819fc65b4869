"""Compiled seccomp filters of a snapshot: followed within bounds, or not shown to fit."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st
from support.criu_images import CONFINED, load, messages
from support.fuzzing import bytes_of, fuzz, is_short

from nodeworker.domain.criu_images.protobuf import Message
from nodeworker.domain.seccomp_filter import Budget, UnknownFilterError, paths
from nodeworker.domain.seccomp_profile import excess_calls

REAL = Message(messages(load(CONFINED), "seccomp.img")[0], "filters").messages(1, "filter")[0].data(1)
REFUSING = struct.pack("<HBBI", 0x06, 0, 0, 0x80000000)
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 7}]},
    ],
}
instructions = st.tuples(
    st.sampled_from([0x20, 0x00, 0x54, 0x05, 0x06, 0x16, 0x15, 0x25, 0x35, 0x45, 0x99]),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from([0, 1, 4, 8, 16, 20, 24, 64, 0x7FFF0000, 0x80000000, 0xC000003E, 0xFFFFFFFF]),
)
programs = st.lists(instructions, min_size=1, max_size=60).map(
    lambda code: b"".join(struct.pack("<HBBI", *one) for one in code)
)
forking = st.integers(1, 4096).map(
    lambda count: struct.pack("<HBBI", 0x20, 0, 0, 16) + struct.pack("<HBBI", 0x15, 0, 0, 1) * count + REFUSING
)


@fuzz(program=st.one_of(programs, forking, bytes_of([REAL])), number=st.integers(0, 500))
def test_a_filter_is_followed_within_bounds_or_unknown(program: bytes, number: int) -> None:
    budget = Budget(100_000)
    try:
        found = paths(program, 0xC000003E, number, budget)
    except UnknownFilterError as problem:
        is_short(problem)
        return
    assert len(found) <= 4096


@fuzz(chain=st.lists(st.one_of(programs, bytes_of([REAL])), max_size=2))
def test_a_chain_lets_something_through_or_fits(chain: list[bytes]) -> None:
    found = excess_calls([one[:800] for one in chain], PROFILE, "x86_64")
    assert found is None or len(found) < 200
    assert excess_calls([*chain, REFUSING], PROFILE, "x86_64") is None
