"""Which CRIU options a dump and a restore get, by CRIU version.

CRIU refuses a configuration file with a key that it does not know, with errno 56 and no log, so each key is tied here
to the version that brought it. runc hands the file over by the annotation ``org.criu.config``; it overrides what runc
sets by itself. Keys are CRIU's long options (criu(8), criu/config.c). Options that runc has flags for in every version
that we support (``--ext-unix-sk``, ``--file-locks``) are not repeated here. A key whose argument is optional for CRIU
(``manage-cgroups`` is the only one of ours) takes it after an equals sign only: ``manage-cgroups ignore`` means *soft*.

docs/decisions/0039 says what runc's ``--manage-cgroups-mode`` and these keys each do in which version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

CriuVersion = tuple[int, int, int]

DUMP_TIMEOUT_SECONDS: Final = 60
GHOST_LIMIT_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a CRIU configuration file. ``since`` is the first version that accepts this key with this value."""

    text: str
    since: CriuVersion
    dump: bool
    restore: bool
    reason: str


OPTIONS: Final = (
    Option("skip-in-flight", (3, 11, 0), True, False, "a half-open connection on a listener is not a reason to fail"),
    Option(
        f"ghost-limit {GHOST_LIMIT_BYTES >> 20}M",
        (3, 10, 0),
        True,
        False,
        "deleted open files travel; the default stops at 1 MiB",
    ),
    Option("link-remap", (1, 0, 0), True, False, "a deleted name of a file with other names travels as link_remap.N"),
    Option(
        "network-lock skip",
        (4, 2, 0),
        True,
        False,
        "both ends of what is kept are frozen, so no packet has to be held back; 4.1.1 dies of SIGSEGV at this key when runc "
        "hands it over",
    ),
    Option(f"timeout {DUMP_TIMEOUT_SECONDS}", (2, 5, 0), True, False, "large process trees take longer than 10 s"),
    Option("force-irmap", (1, 3, 0), True, False, "inotify watches are found by path where handles do not open"),
    Option("enable-external-masters", (1, 7, 0), True, True, "mounts may be slaves of a mount outside"),
    Option(
        "manage-cgroups=soft",
        (3, 15, 0),
        True,
        True,
        "the engine makes and limits the new container's cgroup; what the container made below it comes back",
    ),
    Option("allow-uprobes", (4, 2, 0), True, True, "tracing agents map uprobes into processes; wanted on both sides"),
    Option("leave-stopped", (3, 19, 0), False, True, "OCI: processes must not run between create and start"),
)
"""Every option in force. Before 3.19 the key ``leave-stopped`` of a configuration file is ignored over RPC."""

CLOSES: Final = Option("tcp-close", (3, 6, 0), True, True, "restore refuses if only dump had it")
KEEPS: Final = Option("tcp-established", (1, 0, 0), True, True, "connections within a container stay open")
"""One of both: whether connections are closed at the restore, or what they were is in the images."""
KEPT_SINCE: Final[CriuVersion] = (4, 2, 0)
"""Without ``network-lock skip`` CRIU changes the node's packet filter, for each connection on the node's own network."""

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


@dataclass(frozen=True, slots=True)
class CriuConfig:
    """Writes the configuration files for one CRIU on one node."""

    criu_version: str
    yard: str | None = None
    """The directory of ``nodeworker.capture.criu.cgroup_yard`` on a node with cgroup v2, ``None`` on one with v1."""

    @property
    def keeps_connections(self) -> bool:
        """Whether a dump by this CRIU may write down what TCP connections were; any can restore them."""
        return parse_version(self.criu_version) >= KEPT_SINCE

    def for_dump(self, *, keep: bool = False) -> str:
        """Return the file that is in force during a dump. With ``keep`` it holds what TCP connections were."""
        return self._render([KEEPS if keep else CLOSES, *(option for option in OPTIONS if option.dump)])

    def for_restore(
        self, v2_cgroup: str | None = None, mounts: Mapping[str, str] = MappingProxyType({}), *, keep: bool = False
    ) -> str:
        """Return the file that is in force during a restore. With ``keep`` TCP connections come back, without it closed.

        ``v2_cgroup`` is the new container's cgroup on a node with cgroup v2, as :func:`cgroup_path.absolute_path` gives it; on
        v1 runc names one for each controller. ``mounts`` say what is mounted where in the container, instead of what runc says;
        a path with a blank cannot be written in this file and is left to runc.
        """
        config = self._render([KEEPS if keep else CLOSES, *(option for option in OPTIONS if option.restore)])
        config += "".join(
            f"external mnt[{place}]:{source}\n"
            for place, source in mounts.items()
            if not re.search(r"\s", place + source)
        )
        return config if self.yard is None or v2_cgroup is None else f"{config}cgroup-root {v2_cgroup}\n"

    def _render(self, options: list[Option]) -> str:
        version = parse_version(self.criu_version)
        config = "".join(f"{option.text}\n" for option in options if version >= option.since)
        return config if self.yard is None else f"{config}cgroup-yard {self.yard}\n"
