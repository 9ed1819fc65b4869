"""Networks: which addresses a namespace has now, and whether a container's connections have both ends in it.

Reading another namespace's addresses means entering it, which a thread can do for itself alone; setns(2).
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from nodeworker.domain.criu_images.connections import Network
from nodeworker.domain.criu_images.sockets import Address
from woodfrog.service import libc
from woodfrog.service.procfs import descriptors

HOST: Final = Path("/proc/1/ns/net")
OURS: Final = Path("/proc/self/ns/net")
"""Which is the node's where nobody may look at its first process."""
LOOPBACK: Final = Network(frozenset({IPv4Address("127.0.0.1"), IPv6Address("::1")}))
"""A network that the engine makes while the container is restored: nothing more can be known of it."""
_OWN: Final = Path("/proc/thread-self/net")
_SIOCGIFADDR: Final = 0x8915
_LOCAL: Final = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
_GLOBAL: Final = 0
"""IPV6_ADDR_ANY of ``if_inet6``'s column for scopes: an address that any host may use."""
_TENTATIVE: Final = 0x40
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def of(namespace: Path) -> Network | None:
    """Read the addresses of a network namespace; None if it cannot be entered."""
    found: list[Network] = []

    def read() -> None:
        with suppress(OSError, ValueError):
            libc.enter(namespace, libc.CLONE_NEWNET)
            found.append(_here())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found[0] if found else None


def _here() -> Network:
    """Read the calling thread's network. Of several interfaces the one of the default route stands for all."""
    leading = _default_interface()
    names = sorted((name for _, name in socket.if_nameindex()), key=lambda name: (name != leading, name))
    own: dict[int, Address] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in names:
            with suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                address = IPv4Address(answer[20:24])
                if not address.is_loopback:
                    own.setdefault(4, address)
    sixes = sorted(_sixes(), key=lambda each: (each[1] != leading, each[1]))
    for six, _, is_global in sixes:
        if is_global and not six.is_loopback:
            own.setdefault(6, six)
    fours = {IPv4Address(text) for text in _LOCAL.findall((_OWN / "fib_trie").read_text())}
    return Network(frozenset({*fours, *(six for six, _, _ in sixes)}), own)


def _default_interface() -> str:
    for line in (_OWN / "route").read_text().splitlines()[1:]:
        name, destination, _gateway, _flags, _, _, _, mask = line.split()[:8]
        if int(destination, 16) == 0 and int(mask, 16) == 0:
            return name
    return ""


def _sixes() -> Iterator[tuple[IPv6Address, str, bool]]:
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in (_OWN / "if_inet6").read_text().splitlines():
            digits, _, _, scope, flags, name = line.split()
            if not int(flags, 16) & _TENTATIVE:
                yield IPv6Address(bytes.fromhex(digits)), name, int(scope, 16) == _GLOBAL


def has_inner_connections(pids: Collection[int]) -> bool:
    """Say whether processes in one network hold both ends of a TCP connection, or what is left of one; proc_net_tcp(5).

    On a node's own network most connections are others': so the ends are looked for among the descriptors, if there are any.
    """
    rows: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            # The kernel goes through the connections of the whole node for each of these files, and the container stands still.
            if (namespace := str(Path(f"/proc/{pid}/ns/net").readlink())) in seen:
                continue
            seen.add(namespace)
        for table in ("tcp", "tcp6"):
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    words = line.split()
                    if int(words[9]):
                        rows[_plain(words[1]), _plain(words[2])] = int(words[9])
        if rows:
            break
    own = {local.rpartition(":")[0] for local, _ in rows}
    inodes = {
        inode
        for (local, peer), inode in rows.items()
        if not peer.endswith(":0000") and ((peer, local) in rows or peer.rpartition(":")[0] in own)
    }
    return bool(inodes) and any(inode in inodes for pid in pids for inode in _inodes(pid))


def _plain(place: str) -> str:
    """Write an IPv4 address of an IPv6 socket as IPv4 does."""
    return place.removeprefix("0000000000000000FFFF0000")


def _inodes(pid: int) -> Iterator[int]:
    for held in descriptors(pid).values():
        found = _SOCKET.fullmatch(held)
        if found is not None:
            yield int(found[1])
