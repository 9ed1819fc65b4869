"""io_uring, taken away from a container: CRIU cannot dump its rings, and programs that find none do without.

libuv (Node, uvloop), MariaDB and PostgreSQL open rings whenever the kernel has them and fall back where the answer is ENOSYS, as on a
kernel without. So the container's seccomp profile answers that to its three calls, joined with whatever else the profile says.
"""

from __future__ import annotations

import os

from nodeworker.runtime.container import Json, part

CALLS = ("io_uring_setup", "io_uring_enter", "io_uring_register")
_ENOSYS = 38
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "s390x": ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
}
"""A profile must name the machine's other modes as well: a call in one that it does not name kills the process."""


def without_io_uring(profile: object, machine: str) -> Json:
    """Return a profile (``linux.seccomp`` of config.json, or None) that answers ENOSYS to io_uring and is otherwise the same.

    ``machine`` is what ``uname -m`` says.
    """
    deny: Json = {"names": list(CALLS), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
    if not isinstance(profile, dict):
        fresh: Json = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [deny],
        }
        if machine in _ARCHITECTURES:
            fresh["architectures"] = _ARCHITECTURES[machine]
        return fresh
    rules = []
    listed = profile.get("syscalls")
    for rule in listed if isinstance(listed, list) else []:
        names = [name for name in rule.get("names") or () if name not in CALLS]
        if names:
            rules.append({**rule, "names": names})
    return {**profile, "syscalls": [*rules, deny]}


def take_io_uring(spec: Json) -> bool:
    """Take io_uring away in a config.json; say whether that changed it."""
    linux = part(spec, "linux")
    before = linux.get("seccomp")
    after = without_io_uring(before, os.uname().machine)
    spec["linux"] = {**linux, "seccomp": after}
    return after != before
