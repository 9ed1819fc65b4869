"""Which TCP connections of a snapshot go on in another network, what of them is on its way, and what is said of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

import pytest
from support.criu_images import SPECIMENS, load

from nodeworker.domain.criu_images import MalformedImageError, connections, form, sockets
from nodeworker.domain.criu_images.connections import Network
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field

pytestmark = pytest.mark.timeout(20)

ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSED, CLOSE_WAIT, LISTENS = 1, 4, 5, 7, 8, 10
V4, V6 = sockets.IPV4, sockets.IPV6
NEW = Network(
    frozenset({ip_address("127.0.0.1"), ip_address("::1"), ip_address("10.2.0.9")}), {4: IPv4Address("10.2.0.9")}
)


@dataclass
class End:
    """One socket; ``known`` is how far it has received, ``sending`` begins at ``at``."""

    place: str
    peer: str = "0.0.0.0:0"
    state: int = ESTABLISHED
    family: int = V4
    protocol: int = 6
    received: bytes = b""
    known: int = 1000
    sending: bytes = b""
    at: int = 1000
    ino: int = field(default=0)

    def entry(self, number: int) -> bytes:
        self.ino = self.ino or 0xA0 + number
        fields = {1: number, 2: self.ino, 3: self.family, 4: 1, 5: self.protocol, 6: self.state}
        (here, port), (there, other) = (place.rsplit(":", 1) for place in (self.place, self.peer))
        fields |= {7: int(port), 8: int(other), 9: 2, 10: 0}
        raw = b"".join(number_field(key, value) for key, value in fields.items())
        for key, text in ((11, here), (12, there)):
            raw += b"".join(number_field(key, word) for word in sockets.words(self.family, ip_address(text)))
        raw += data_field(13, b"") + data_field(14, b"")
        return number_field(1, 4) + number_field(2, number) + data_field(4, raw)

    def stream(self) -> bytes:
        ended, got = self.state in {4, 5, 9, 11}, self.state in {8, 9, 11}
        fields = {1: len(self.received), 2: self.known + got, 3: len(self.sending)}
        fields |= {4: (self.at + len(self.sending) + ended) % (1 << 32), 5: 7, 6: 7, 7: 65483, 12: len(self.sending)}
        fields |= {14: 50, 16: 40, 17: self.known + got}
        raw = b"".join(number_field(key, value) for key, value in fields.items())
        return form.write_first(raw, self.received + self.sending, form.TCP_STREAM)


def images(*ends: End, closed: bool = False) -> dict[str, bytes]:
    made = {"files.img": form.write_messages([end.entry(number) for number, end in enumerate(ends, 1)], form.FILES)}
    made["inventory.img"] = form.write_messages([number_field(1, 2) + number_field(10, closed)], form.INVENTORY)
    if not closed:
        made |= {f"tcp-stream-{end.ino:x}.img": end.stream() for end in ends if not end.peer.endswith(":0")}
    return made


def after(
    before: dict[str, bytes], network: Network = NEW, *, keep: bool = True
) -> tuple[list[str], connections.Settled]:
    """What is restored of the sockets, and what is said."""
    settled = connections.settle(before, network, keep=keep)
    whole = before | settled.changed
    files = form.read_messages(whole["files.img"], form.FILES, "files.img")
    found = sockets.read_sockets(files).values()
    return [f"{one.source[0]}:{one.source[1]} {one.peer[0]}:{one.peer[1]} {one.state}" for one in found], settled


def stream(whole: dict[str, bytes], end: End) -> tuple[Message, bytes]:
    name = f"tcp-stream-{end.ino:x}.img"
    return form.read_first(whole[name], form.TCP_STREAM, name)


def test_a_connection_over_loopback_is_kept_and_one_to_outside_is_closed_and_named() -> None:
    restored, settled = after(
        images(
            End("127.0.0.1:80", "127.0.0.1:4000"),
            End("127.0.0.1:4000", "127.0.0.1:80"),
            End("10.1.0.5:5000", "9.9.9.9:443"),
            End("10.1.0.5:5001", "9.9.9.9:443"),
        )
    )
    assert restored == [
        "127.0.0.1:80 127.0.0.1:4000 1",
        "127.0.0.1:4000 127.0.0.1:80 1",
        "10.1.0.5:0 9.9.9.9:0 7",
        "10.1.0.5:0 9.9.9.9:0 7",
    ]
    assert settled.kept == 1
    assert settled.closed == ("2 TCP connections to outside of the container were closed: 9.9.9.9:443 (2)",)


def test_what_was_bound_to_the_old_address_is_bound_to_the_new_one_also_behind_ipv6() -> None:
    restored, settled = after(
        images(
            End("10.1.0.5:80", state=LISTENS),
            End("10.1.0.5:80", "10.1.0.5:4000", family=V6),
            End("10.1.0.5:4000", "10.1.0.5:80"),
            End("10.1.0.5:53000", "8.8.8.8:53", state=CLOSED, protocol=17),
            End("0.0.0.0:8080", state=LISTENS),
            End("224.0.0.251:5353", state=CLOSED, protocol=17),
        )
    )
    assert [line.split()[0] for line in restored] == [
        "10.2.0.9:80",
        "10.2.0.9:80",
        "10.2.0.9:4000",
        "10.2.0.9:53000",
        "0.0.0.0:8080",
        "224.0.0.251:5353",
    ]
    assert restored[1] == "10.2.0.9:80 10.2.0.9:4000 1"
    assert settled.closed == ()


def test_a_connection_is_closed_where_the_new_network_has_no_place_for_it_and_a_listener_is_left_to_criu() -> None:
    restored, settled = after(
        images(
            End("10.1.0.5:80", state=LISTENS),
            End("10.1.0.5:80", "10.1.0.5:4000"),
            End("10.1.0.5:4000", "10.1.0.5:80"),
        ),
        Network(),
    )
    assert restored == ["10.1.0.5:80 0.0.0.0:0 10", "10.1.0.5:0 10.1.0.5:0 7", "10.1.0.5:0 10.1.0.5:0 7"]
    assert settled.kept == 0
    assert settled.closed == (
        "1 TCP connection inside of the container, at addresses that the new one lacks, was closed: 10.1.0.5:80",
    )


def test_what_is_on_its_way_both_ways_is_delivered_and_the_windows_shrink() -> None:
    one = End("127.0.0.1:80", "127.0.0.1:4000", received=b"ab", known=2000, sending=b"0123456789", at=500)
    other = End("127.0.0.1:4000", "127.0.0.1:80", received=b"xy", known=504, sending=b"ABC", at=2000)
    before = images(one, other)
    whole = before | after(before)[1].changed
    numbers, body = stream(whole, one)
    assert body == b"abABC"
    assert [numbers.uint32(each) for each in (1, 2, 3, 4, 12)] == [5, 2003, 0, 510, 0]
    assert [numbers.uint32(each) for each in (14, 16, 17)] == [40, 37, 2003]
    numbers, body = stream(whole, other)
    assert body == b"xy456789", "what it had received already does not come twice"
    assert [numbers.uint32(each) for each in (1, 2, 3, 4, 12)] == [8, 510, 0, 2003, 0]


def test_numbers_may_wrap_around() -> None:
    one = End("127.0.0.1:80", "127.0.0.1:4000", sending=b"0123456789", at=(1 << 32) - 4)
    other = End("127.0.0.1:4000", "127.0.0.1:80", known=(1 << 32) - 4)
    before = images(one, other)
    numbers, body = stream(before | after(before)[1].changed, other)
    assert (body, numbers.uint32(2)) == (b"0123456789", 6)


def test_a_connection_of_which_something_is_in_neither_image_is_closed() -> None:
    one = End("127.0.0.1:80", "127.0.0.1:4000", sending=b"89", at=1008)
    restored, settled = after(images(one, End("127.0.0.1:4000", "127.0.0.1:80", known=1000)))
    assert all(line.endswith(" 7") for line in restored)
    assert "caught between sending and receiving" in settled.closed[0]


@pytest.mark.parametrize("state", [FIN_WAIT1, FIN_WAIT2])
@pytest.mark.parametrize("heard", [ESTABLISHED, CLOSE_WAIT])
@pytest.mark.parametrize("sender_first", [True, False])
def test_the_end_of_what_is_sent_is_left_to_the_end_that_is_restored_last(
    state: int, heard: int, *, sender_first: bool
) -> None:
    sender = End("127.0.0.1:80", "127.0.0.1:4000", state=state)
    receiver = End("127.0.0.1:4000", "127.0.0.1:80", state=heard)
    before = images(*((sender, receiver) if sender_first else (receiver, sender)))
    restored, settled = after(before)
    states = {line.split()[0]: int(line.split()[2]) for line in restored}
    assert states["127.0.0.1:80"] == (FIN_WAIT2 if sender_first else FIN_WAIT1)
    assert states["127.0.0.1:4000"] == (CLOSE_WAIT if sender_first else ESTABLISHED)
    numbers, _ = stream(before | settled.changed, receiver)
    assert numbers.uint32(2) == 1000 + sender_first, "the end has a number"
    assert numbers.uint32(17) == numbers.uint32(2)


def test_a_connection_that_nobody_accepted_is_closed_and_one_whose_other_end_is_gone_is_read_to_its_end() -> None:
    restored, settled = after(
        images(End("127.0.0.1:4000", "127.0.0.1:80"), End("127.0.0.1:4001", "127.0.0.1:80", state=CLOSE_WAIT))
    )
    assert [line.split()[2] for line in restored] == ["7", "8"]
    assert settled.closed == (
        "1 TCP connection inside of the container, not yet accepted or held by one end only, was closed: 127.0.0.1:80",
    )


def test_of_a_snapshot_that_holds_no_connections_only_addresses_change_and_all_are_named() -> None:
    before = images(
        End("127.0.0.1:80", "127.0.0.1:4000"),
        End("127.0.0.1:4000", "127.0.0.1:80"),
        End("10.1.0.5:22", "9.9.9.9:999"),
        End("10.1.0.5:22", state=LISTENS),
        closed=True,
    )
    assert connections.were_closed(before)
    restored, settled = after(before, keep=False)
    assert restored[0] == "127.0.0.1:80 127.0.0.1:4000 1"
    assert restored[3].startswith("10.2.0.9:22")
    assert settled.closed == (
        "1 TCP connection to outside of the container was closed: clients of port 22",
        "1 TCP connection inside of the container, of which the snapshot holds no state, was closed: 127.0.0.1:80",
    )


def test_ends_in_other_networks_are_no_pair_and_a_lie_about_both_ends_stays_inside() -> None:
    restored, _ = after(images(End("6.6.6.6:80", "10.1.0.5:4000"), End("10.1.0.5:4000", "6.6.6.6:80")))
    assert restored == ["10.2.0.9:80 10.2.0.9:4000 1", "10.2.0.9:4000 10.2.0.9:80 1"]


def test_a_body_of_another_length_is_refused() -> None:
    before = images(End("127.0.0.1:80", "127.0.0.1:4000"), End("127.0.0.1:4000", "127.0.0.1:80"))
    before["tcp-stream-a1.img"] += b"more"
    with pytest.raises(MalformedImageError):
        connections.settle(before, NEW, keep=True)


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_real_images_without_connections_stay_as_they_are(specimen: str) -> None:
    before = load(specimen)
    assert connections.were_closed(before)
    assert connections.settle(before, NEW, keep=False).changed == {}
