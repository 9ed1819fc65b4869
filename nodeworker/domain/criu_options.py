"""Which CRIU options a dump and a restore get, by CRIU version.

CRIU refuses a configuration file with a key that it does not know, with errno 56 and no log, so each key is tied here
to the version that brought it. runc hands the file over by the annotation ``org.criu.config``; it overrides what runc
sets by itself. Keys are CRIU's long options (criu(8), criu/config.c). Options that runc has flags for in every version
that we support (``--ext-unix-sk``, ``--file-locks``) are not repeated here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CriuVersion = tuple[int, int, int]

DUMP_TIMEOUT_SECONDS: Final = 60
GHOST_LIMIT: Final = "512M"


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a CRIU configuration file. ``since`` is the first version that accepts this key with this value."""

    text: str
    since: CriuVersion
    dump: bool
    restore: bool
    reason: str


OPTIONS: Final = (
    Option("tcp-close", (3, 6, 0), True, True, "a new pod has a new address; restore refuses if only dump had it"),
    Option("skip-in-flight", (3, 11, 0), True, False, "a half-open connection on a listener is no reason to fail"),
    Option(
        f"ghost-limit {GHOST_LIMIT}", (3, 10, 0), True, False, "deleted open files travel; the default stops at 1 MiB"
    ),
    Option("link-remap", (1, 0, 0), True, False, "a deleted name of a file with other names travels as link_remap.N"),
    Option("network-lock skip", (3, 19, 0), True, False, "with closed connections there is no packet to protect"),
    Option(f"timeout {DUMP_TIMEOUT_SECONDS}", (2, 5, 0), True, False, "large process trees take longer than 10 s"),
    Option("force-irmap", (1, 3, 0), True, False, "inotify watches are found by path where handles do not open"),
    Option("enable-external-masters", (1, 7, 0), True, True, "mounts may be slaves of a mount outside"),
    Option(
        "manage-cgroups ignore",
        (3, 15, 0),
        True,
        True,
        "the engine makes the new container's cgroup; runc's flag is newer",
    ),
    Option("allow-uprobes", (4, 2, 0), True, True, "tracing agents map uprobes into processes; wanted on both sides"),
    Option("leave-stopped", (3, 19, 0), False, True, "OCI: processes must not run between create and start"),
)
"""Every option in force. Before 3.19 the key ``leave-stopped`` of a configuration file is ignored over RPC."""

OLDEST: Final[CriuVersion] = (3, 19, 0)
"""The first CRIU whose ``leave-stopped`` holds for runc's RPC: an older one cannot restore with OCI's semantics."""

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def parse_version(text: str) -> CriuVersion:
    """Read a version from ``4.1.1``, ``v4.2`` or the output of ``criu --version``.

    Raises:
        ValueError: when there is none in the text.
    """
    found = _VERSION.search(text)
    if found is None:
        raise ValueError(f"no version number in {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def dump_config(criu_version: str) -> str:
    """Write the configuration file that is in force during a dump."""
    version = parse_version(criu_version)
    return _render([option for option in OPTIONS if option.dump and version >= option.since])


def restore_config(criu_version: str) -> str:
    """Write the configuration file that is in force during a restore."""
    version = parse_version(criu_version)
    return _render([option for option in OPTIONS if option.restore and version >= option.since])


def _render(options: list[Option]) -> str:
    return "".join(f"{option.text}\n" for option in options)
