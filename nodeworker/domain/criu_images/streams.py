"""What two ends of a connection had not delivered to each other when they were dumped, delivered in their images.

CRIU counts on a packet filter that lets nothing pass before all sockets are back: it has the kernel send what was not sent yet, and
times what was not acknowledged. Without one, an end that is back before the other speaks to nobody, and the kernel answers that
there is no such connection (soccr/soccr.c, ``libsoccr_restore``). So what one end still had to send is put into the receive buffer
of the other: then neither has anything to say before the program goes on, and the window is as full as it would have become.

It is in ``tcp-stream-INO.img``: numbers, then what was received, then what is to be sent (images/tcp-stream.proto). The end of what is
sent, a FIN, has a number of its own, and the queues do not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message, number_field
from nodeworker.domain.criu_images.sockets import (
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    Socket,
)
from nodeworker.domain.criu_images.tasks import image

_NAME: Final = "tcp-stream-{:x}.img"
_IN_LENGTH, _IN_SEQUENCE, _OUT_LENGTH, _OUT_SEQUENCE, _UNSENT = 1, 2, 3, 4, 12
_SEND_WINDOW, _WINDOW, _WINDOW_FROM = 14, 16, 17
_NUMBERS: Final = 1 << 32
_ENDED: Final = frozenset({FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK})
"""Those that have sent their end, or are about to."""
_GOT_THE_END: Final = frozenset({CLOSE_WAIT, CLOSING, LAST_ACK})


@dataclass(frozen=True, slots=True)
class _Stream:
    name: str
    state: int
    numbers: Message
    received: bytes
    sending: bytes

    @property
    def received_to(self) -> int:
        """The number of the next byte that it expects."""
        return self.numbers.uint32(_IN_SEQUENCE) - (self.state in _GOT_THE_END)

    @property
    def sending_from(self) -> int:
        """The number of the first byte that it was not told to have arrived."""
        return self.numbers.uint32(_OUT_SEQUENCE) - (self.state in _ENDED) - len(self.sending)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A connection in which nothing is on its way."""

    images: dict[str, bytes]
    states: dict[int, int]
    """Of its sockets, by their ``ino``."""


def deliver(images: Mapping[str, bytes], one: Socket, other: Socket) -> Delivered | None:
    """Deliver what is on its way between two ends; None if something of it is in neither image.

    CRIU looks at one end after the other, and the kernel sends on between: what the sender was told to have arrived after the
    receiver was looked at is lost to both.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    here, there = _read(images, one), _read(images, other)
    forth, back = _on_its_way(here, there), _on_its_way(there, here)
    if forth is None or back is None:
        return None
    first = one.id < other.id
    states = {one.ino: _settled(here, there, first=first), other.ino: _settled(there, here, first=not first)}
    return Delivered(
        {
            here.name: _written(here, back, states[one.ino]),
            there.name: _written(there, forth, states[other.ino]),
        },
        states,
    )


def _read(images: Mapping[str, bytes], one: Socket) -> _Stream:
    name = _NAME.format(one.ino)
    numbers, body = form.read_first(image(images, name), form.TCP_STREAM, name)
    received = numbers.uint32(_IN_LENGTH)
    if len(body) != received + numbers.uint32(_OUT_LENGTH):
        raise MalformedImageError(f"{name} has {len(body)} bytes of a connection instead of what it says")
    return _Stream(name, one.state, numbers, body[:received], body[received:])


def _on_its_way(sender: _Stream, receiver: _Stream) -> bytes | None:
    known = (receiver.received_to - sender.sending_from) % _NUMBERS
    return sender.sending[known:] if known <= len(sender.sending) else None


def _settled(own: _Stream, other: _Stream, *, first: bool) -> int:
    """The state of an end once all has arrived, if only one of both has ended; ``first`` if it is restored before the other.

    The end of what is sent is the one thing that CRIU cannot restore without a packet: the receiver acknowledges it, or the sender
    sends it, as their states say. So it is left to that which is restored last. Descriptors come back in the order of their ids.
    """
    if own.state in {FIN_WAIT1, FIN_WAIT2} and other.state in {ESTABLISHED, CLOSE_WAIT}:
        return FIN_WAIT2 if first else FIN_WAIT1
    if own.state in {ESTABLISHED, CLOSE_WAIT} and other.state in {FIN_WAIT1, FIN_WAIT2}:
        return ESTABLISHED if first else CLOSE_WAIT
    return own.state


def _written(stream: _Stream, arrived: bytes, state: int) -> bytes:
    numbers = stream.numbers
    received_to = (stream.received_to + len(arrived) + (state in _GOT_THE_END)) % _NUMBERS
    fields = {
        _IN_LENGTH: len(stream.received) + len(arrived),
        _IN_SEQUENCE: received_to,
        _OUT_LENGTH: 0,
        _UNSENT: 0,
    }
    send_window, window, window_from = (numbers.optional_uint32(each) for each in (_SEND_WINDOW, _WINDOW, _WINDOW_FROM))
    if send_window is not None:
        fields[_SEND_WINDOW] = max(0, send_window - len(stream.sending))
    if window is not None and window_from is not None:
        taken = (received_to - window_from + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
        fields |= {_WINDOW_FROM: received_to, _WINDOW: max(0, window - taken)}
    message = numbers.rewritten({number: number_field(number, value) for number, value in fields.items()})
    return form.write_first(message, stream.received + arrived, form.TCP_STREAM)
