"""The names of Linux capabilities, by their numbers in every set of bits (include/uapi/linux/capability.h, capabilities(7))."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Final

NAMES: Final = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)


@lru_cache(maxsize=256)
def names_of(bits: int) -> tuple[str, ...]:
    """Return the names of a set of bits, sorted; one that has none here is called ``CAP_`` and its number."""
    numbers = (number for number in range(bits.bit_length()) if bits >> number & 1)
    return tuple(sorted(NAMES[number] if number < len(NAMES) else f"CAP_{number}" for number in numbers))


def kept(bits: int, names: Collection[str]) -> int:
    """Return those of a set of bits whose names, as :func:`names_of` gives them, are among ``names``."""
    return sum(
        1 << number for number in range(bits.bit_length()) if bits >> number & 1 and names_of(1 << number)[0] in names
    )
