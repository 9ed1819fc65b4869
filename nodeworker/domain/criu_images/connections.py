"""What becomes of a snapshot's TCP connections and addresses in another network.

A connection with both ends in the snapshot goes on: nothing of it was ever outside. One to elsewhere cannot, its other end knows
nothing of the new container: it comes back closed, as CRIU's ``tcp-close`` leaves it, a socket without an address of which both
directions are shut down. What was bound to an address of the old container is bound to the new one's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from nodeworker.domain.criu_images import form, sockets, streams
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from nodeworker.domain.criu_images.sockets import Address, Socket
from nodeworker.domain.criu_images.tasks import INVENTORY, image

_TCP_CLOSE: Final = 10
"""images/inventory.proto."""
_BOTH: Final = 3
"""SHUT_RDWR in images/sk-opts.proto."""
_MOST_NAMED: Final = 6
_OUTSIDE: Final = "to outside of the container"
_NOT_HELD: Final = "inside of the container, of which the snapshot holds no state,"
_TORN: Final = "inside of the container, caught between sending and receiving,"
_NO_PLACE: Final = "inside of the container, at addresses that the new one lacks,"
_HALF: Final = "inside of the container, not yet accepted or held by one end only,"


@dataclass(frozen=True, slots=True)
class Network:
    """The network of the new container."""

    addresses: frozenset[Address] = frozenset()
    """Those that can be bound to now, with those of the loopback interface."""
    own: Mapping[int, Address] = field(default_factory=dict)
    """By version of IP, the one that stands for any of the old container's; none if that is not known yet."""

    def place(self, address: Address) -> Address | None:
        """Return what an address of the old container is here, or None if there is none."""
        if address in self.addresses:
            return address
        if address.is_loopback:
            return address if address.version == 4 and any(one.is_loopback for one in self._of(4)) else None
        return None if address.is_link_local else self.own.get(address.version)

    def _of(self, version: int) -> Iterator[Address]:
        return (one for one in self.addresses if one.version == version)


@dataclass(frozen=True, slots=True)
class Settled:
    """What has to be restored."""

    changed: dict[str, bytes]
    """Images that take the place of those of the same name."""
    kept: int
    """How many connections go on, each counted once."""
    closed: tuple[str, ...]
    """Sentences about those that do not, as warnings of the start."""


def were_closed(images: Mapping[str, bytes]) -> bool:
    """Say whether the dump left out what connections were, so that a restore can only close them.

    Raises:
        MalformedImageError: the inventory is not what CRIU writes.
    """
    return form.read_message(image(images, INVENTORY), form.INVENTORY, INVENTORY).boolean(_TCP_CLOSE)


def settle(images: Mapping[str, bytes], network: Network, *, keep: bool) -> Settled:
    """Say what to restore of a snapshot's sockets. Without ``keep`` CRIU closes every connection by itself.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    if sockets.FILES not in images:
        return Settled({}, 0, ())
    files = form.read_messages(images[sockets.FILES], form.FILES, sockets.FILES)
    found = sockets.read_sockets(files)
    own = {one.source[0] for one in found.values()}
    inside = _inside(images, found.values(), own, network) if keep else _Inside()
    lost = [one for one in found.values() if one.is_connection and one.ino not in inside.states]
    written = []
    for index, file in enumerate(files):
        one = found.get(index)
        if one is None or (one in lost and not keep):
            written.append(file.raw)
        elif one in lost:
            written.append(_with(file, _closed()))
        else:
            written.append(_with(file, _moved(file, one, own, network, inside.states.get(one.ino, one.state))))
    changed = dict(inside.images)
    data = form.write_messages(written, form.FILES)
    if data != images[sockets.FILES]:
        changed[sockets.FILES] = data
    ended = [one for one in lost if one.state != sockets.CLOSED]
    reasons = {
        one.ino: inside.reasons.get(one.ino, _HALF if keep else _NOT_HELD) if _is_inner(one, own) else _OUTSIDE
        for one in ended
    }
    return Settled(
        changed, inside.kept, tuple(_sentences(ended, reasons, set(sockets.listening_ports(found.values()))))
    )


@dataclass(slots=True)
class _Inside:
    """The connections that are inside."""

    states: dict[int, int] = field(default_factory=dict)
    """In which those are that go on, by their ``ino``."""
    images: dict[str, bytes] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    """Why others do not, though both ends are there."""
    kept: int = 0


def _inside(
    images: Mapping[str, bytes], found: Collection[Socket], own: Collection[Address], network: Network
) -> _Inside:
    inside = _Inside()
    for one, other in sockets.pairs(found):
        if not (_has_place(one, network) and _has_place(other, network)):
            inside.reasons |= dict.fromkeys((one.ino, other.ino), _NO_PLACE)
        elif (delivered := streams.deliver(images, one, other)) is None:
            inside.reasons |= dict.fromkeys((one.ino, other.ino), _TORN)
        else:
            inside.states |= delivered.states
            inside.images |= delivered.images
            inside.kept += 1
    for one in found:
        if _is_left(one, own) and one.ino not in inside.states | inside.reasons and _has_place(one, network):
            inside.states[one.ino] = one.state
    return inside


def _is_inner(one: Socket, own: Collection[Address]) -> bool:
    return one.peer[0] in own or one.peer[0].is_loopback


def _is_left(one: Socket, own: Collection[Address]) -> bool:
    """Whether its other end was closed, so that all that was sent has arrived and only waits to be read."""
    return one.is_connection and one.state == sockets.CLOSE_WAIT and _is_inner(one, own)


def _has_place(one: Socket, network: Network) -> bool:
    return not one.is_scoped and all(network.place(each[0]) is not None for each in (one.source, one.peer))


def _with(file: Message, fields: Mapping[int, bytes]) -> bytes:
    if not fields:
        return file.raw
    entry = file.message(sockets.ENTRY, "a socket").rewritten(fields)
    return file.rewritten({sockets.ENTRY: data_field(sockets.ENTRY, entry)})


def _closed() -> dict[int, bytes]:
    values = {sockets.STATE: sockets.CLOSED, sockets.SOURCE_PORT: 0, sockets.PEER_PORT: 0, sockets.SHUTDOWN: _BOTH}
    return {number: number_field(number, value) for number, value in values.items()}


def _moved(file: Message, one: Socket, own: Collection[Address], network: Network, state: int) -> dict[int, bytes]:
    """Give a socket the new container's addresses in the place of the old one's; what has none here stays as it is."""
    family = file.message(sockets.ENTRY, "a socket").uint32(sockets.FAMILY)
    fields = {} if state == one.state else {sockets.STATE: number_field(sockets.STATE, state)}
    for number, place in ((sockets.SOURCE, one.source[0]), (sockets.PEER, one.peer[0])):
        if one.is_scoped or place not in own or place.is_unspecified or place.is_multicast:
            continue
        new = network.place(place)
        if new is not None and new != place:
            fields[number] = b"".join(number_field(number, word) for word in sockets.words(family, new))
    return fields


def _sentences(lost: Collection[Socket], reasons: Mapping[int, str], listening: Collection[int]) -> Iterator[str]:
    for reason in (_OUTSIDE, _NOT_HELD, _TORN, _NO_PLACE, _HALF):
        pairs = {frozenset((one.source, one.peer)): one for one in lost if reasons[one.ino] == reason}
        if not pairs:
            continue
        named = Counter(
            f"clients of port {one.source[1]}" if one.source[1] in listening else _text(one) for one in pairs.values()
        )
        most = [f"{name} ({count})" if count > 1 else name for name, count in named.most_common(_MOST_NAMED)]
        if len(named) > _MOST_NAMED:
            most.append(f"{len(named) - _MOST_NAMED} more")
        count = "1 TCP connection" if len(pairs) == 1 else f"{len(pairs)} TCP connections"
        yield f"{count} {reason} {'was' if len(pairs) == 1 else 'were'} closed: {', '.join(most)}"


def _text(one: Socket) -> str:
    address, port = one.peer
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
