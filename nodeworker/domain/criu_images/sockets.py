"""The Internet sockets of a snapshot, and which of its TCP connections have both ends in it.

They are in ``files.img`` (CRIU, images/sk-inet.proto). Connections are paired by their addresses, so two ends that lie need each
other: whoever forges one connection to elsewhere has to forge its other end, and that end comes back inside, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message

FILES: Final = "files.img"
ENTRY: Final = 4
"""images/fdinfo.proto, ``file_entry``."""
_ID, INO, FAMILY, _PROTOCOL, STATE, SOURCE_PORT, PEER_PORT, SOURCE, PEER = 1, 2, 3, 5, 6, 7, 8, 11, 12
_INTERFACE, _NAMESPACE, SHUTDOWN = 17, 18, 19
_TCP: Final = 6
IPV4, IPV6 = 2, 10
"""AF_INET and AF_INET6."""
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSED, CLOSE_WAIT, LAST_ACK, LISTENS, CLOSING = 1, 4, 5, 7, 8, 9, 10, 11
"""include/net/tcp_states.h."""
OPEN: Final = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING})

Address = IPv4Address | IPv6Address
Place = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Socket:
    """One Internet socket, of whatever protocol."""

    id: int
    ino: int
    namespace: int
    state: int
    is_tcp: bool
    is_scoped: bool
    """Whether its address is one of an interface's own (fe80::), which other interfaces may have as well."""
    source: Place
    peer: Place

    @property
    def is_connection(self) -> bool:
        """Whether it is what CRIU takes for a TCP connection."""
        return self.is_tcp and self.peer[1] != 0

    @property
    def ends(self) -> tuple[int, Place, Place]:
        """By what the other end knows it."""
        return self.namespace, self.source, self.peer


def read_sockets(files: Collection[Message]) -> dict[int, Socket]:
    """Return the sockets among the messages of ``files.img``, by their place there.

    Raises:
        MalformedImageError: one is not what CRIU writes.
    """
    found = {}
    for index, file in enumerate(files):
        entry = file.optional_message(ENTRY, "a socket")
        if entry is not None:
            found[index] = _socket(entry)
    return found


def _socket(entry: Message) -> Socket:
    family = entry.uint32(FAMILY)
    return Socket(
        entry.uint32(_ID),
        entry.uint32(INO),
        entry.optional_uint32(_NAMESPACE) or 0,
        entry.uint32(STATE),
        entry.uint32(_PROTOCOL) == _TCP,
        entry.optional_data(_INTERFACE) is not None,
        (address(family, entry.uint32s(SOURCE)), entry.uint32(SOURCE_PORT)),
        (address(family, entry.uint32s(PEER)), entry.uint32(PEER_PORT)),
    )


def address(family: int, words: tuple[int, ...]) -> Address:
    """Read an address as CRIU stores it; an IPv4 address of an IPv6 socket is an IPv4 address."""
    if family == IPV4 and words:
        return IPv4Address(words[0].to_bytes(4, "little"))
    if family == IPV6 and len(words) == 4:
        six = IPv6Address(b"".join(word.to_bytes(4, "little") for word in words))
        return six.ipv4_mapped or six
    raise MalformedImageError(f"a socket of family {family} has an address of {len(words)} words")


def words(family: int, place: Address) -> tuple[int, ...]:
    """Write an address as CRIU stores it."""
    packed = place.packed
    if family == IPV6 and place.version == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    return tuple(int.from_bytes(packed[start : start + 4], "little") for start in range(0, len(packed), 4))


def pairs(sockets: Collection[Socket]) -> Iterator[tuple[Socket, Socket]]:
    """Return the connections of which both ends are among these sockets, each once."""
    ends = {one.ends: one for one in sockets if one.is_connection and one.state in OPEN}
    for (namespace, source, peer), one in ends.items():
        other = ends.get((namespace, peer, source))
        if other is not None and one.ino < other.ino:
            yield one, other


def listening_ports(sockets: Collection[Socket]) -> Iterator[int]:
    """Return the ports at which a snapshot accepts connections."""
    return (one.source[1] for one in sockets if one.is_tcp and one.state == LISTENS)
