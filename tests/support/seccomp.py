"""Compiles seccomp profiles as runc does, with the system's libseccomp."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import tempfile
from functools import cache
from typing import Any, Final

_ACTIONS: Final = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ERRNO": 0x00050001,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
_ARCHITECTURES: Final = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
_OPERATORS: Final = {name: 1 + place for place, name in enumerate(["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"])}


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare),
    ]  # fmt: skip
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


def compiled(profile: dict[str, Any], machine: str = "SCMP_ARCH_X86_64") -> bytes:
    """Compile ``linux.seccomp`` for a machine."""
    library = _library()
    context = library.seccomp_init(_ACTIONS[profile["defaultAction"]])
    library.seccomp_arch_remove(context, 0)
    for architecture in {machine, *profile.get("architectures", ())}:
        library.seccomp_arch_add(context, _ARCHITECTURES[architecture])
    for rule in profile["syscalls"]:
        if rule["action"] == profile["defaultAction"]:
            continue
        given = [
            _Compare(
                each["index"], _OPERATORS[each["op"].removeprefix("SCMP_CMP_")], each["value"], each.get("valueTwo", 0)
            )
            for each in rule.get("args", ())
        ]
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            array = (_Compare * len(given))(*given)
            assert library.seccomp_rule_add_array(context, _ACTIONS[rule["action"]], number, len(given), array) == 0, (
                name
            )
    with tempfile.TemporaryFile() as file:
        assert library.seccomp_export_bpf(context, file.fileno()) == 0
        library.seccomp_release(context)
        return os.pread(file.fileno(), 1 << 20, 0)
