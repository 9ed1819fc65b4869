"""The few pages that a process shows over HTTP: whether it lives, whether it is ready, its numbers.

Written on asyncio alone. A kubelet and Prometheus ask for a handful of fixed paths, and every worker on every node would pay
for a web framework in memory and in start-up time. So this answers GET and HEAD, closes each connection after one answer, and
bounds what it reads, how long it waits and how many it serves at once.

Anybody who reaches the port may connect, and a kubelet whose probe fails ends the process. So places are not first come,
first served: when all are taken, the oldest connection that waits for its peer is closed, and one address has only a
few places to fill. Probes are best shown by a server of their own, on an address that only the kubelet reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, Self

import msgspec
import structlog

_log = structlog.get_logger(component="http")

TEXT: Final = "text/plain; charset=utf-8"
_LONGEST_HEAD_BYTES: Final = 16 * 1024
_ASK_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 20.0
_MOST_AT_ONCE: Final = 32
_MOST_OF_ONE_ADDRESS: Final = 4


class InvalidAddressError(ValueError):
    """Not ``host:port``; the message says what it is."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen. Port 0 takes any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port``; the host of ``:8080`` is every address, and an IPv6 address stands in brackets.

        Raises:
            InvalidAddressError: it is something else.
        """
        host, colon, port = text.rpartition(":")
        if (
            not colon
            or not (port.isascii() and port.isdigit() and int(port) < 65536)
            or (":" in host and host[0] != "[")
        ):
            raise InvalidAddressError(f"{text!r} is not a host:port, such as 0.0.0.0:8080")
        return cls(host.strip("[]"), int(port))


class Page(msgspec.Struct, frozen=True):
    """One answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT

    @classmethod
    def verdict(cls, problem: str | None) -> Self:
        """Say ``ok``, or what is wrong, as a probe wants it."""
        if problem is None:
            return cls(b"ok\n")
        return cls(f"{problem}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)


Answerer = Callable[[], Awaitable[Page]]


def probes(pages: Mapping[str, Answerer]) -> dict[str, Answerer]:
    """Return those of the pages that a kubelet asks for."""
    return {path: pages[path] for path in ("/healthz", "/readyz")}


class _Place(msgspec.Struct):
    """One connection that is served."""

    address: str
    """Empty on loopback, where whoever connects has the same address."""
    peer_is_awaited: bool = True
    """For its request, or to take the answer; not while the page is made."""


class HttpServer:
    """Shows pages by their paths while :meth:`run` runs."""

    def __init__(self, address: Address, pages: Mapping[str, Answerer]) -> None:
        self._address = address
        self._pages = pages
        self._served: dict[asyncio.StreamWriter, _Place] = {}
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def port(self) -> int:
        """Tell on which port it listens, once it does."""
        return await self._port

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            OSError: the address is taken or is not this machine's.
        """
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if self._make_room(address := _address_of(writer)):
                    self._served[writer] = _Place(address)
                    group.create_task(self._serve(reader, writer))
                else:
                    writer.close()

            server = await asyncio.start_server(
                accept, self._address.host or None, self._address.port, limit=_LONGEST_HEAD_BYTES
            )
            async with server:
                self._port.set_result(server.sockets[0].getsockname()[1])
                await _log.ainfo("showing pages", host=self._address.host, port=self._port.result())
                await server.serve_forever()

    def _make_room(self, address: str) -> bool:
        """Return whether there is a place for one more connection, for which one that waits for its peer is hung up on if need be."""
        of_address = [writer for writer, place in self._served.items() if address and place.address == address]
        if len(of_address) >= _MOST_OF_ONE_ADDRESS:
            full = of_address
        elif len(self._served) >= _MOST_AT_ONCE:
            full = list(self._served)
        else:
            return True
        oldest = next((writer for writer in full if self._served[writer].peer_is_awaited), None)
        if oldest is None:
            return False
        del self._served[oldest]
        oldest.transport.abort()
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
            writer.close()
            async with asyncio.timeout(_ASK_SECONDS):
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked went away, or never came to the point
        finally:
            self._served.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_ASK_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        if (place := self._served.get(writer)) is None:
            return  # another took its place while the request was on its way
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            writer.write(_written(Page(b"not HTTP/1\n", HTTPStatus.BAD_REQUEST)))
            return
        method, target, _ = words
        place.peer_is_awaited = False
        page = await self._page(method, target.partition("?")[0])
        place.peer_is_awaited = True
        writer.write(_written(page, bodiless=method == "HEAD"))

    async def _page(self, method: str, path: str) -> Page:
        answerer = self._pages.get(path)
        if answerer is None:
            return Page(f"there are: {' '.join(self._pages)}\n".encode(), HTTPStatus.NOT_FOUND)
        if method not in {"GET", "HEAD"}:
            return Page(b"GET only\n", HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await answerer()
        except Exception:  # noqa: BLE001 - a page that cannot be shown must not end the process
            await _log.aexception("a page cannot be shown", path=path)
            return Page(b"it cannot be shown; the process's log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)


def _address_of(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername")
    if not peer:  # gone already
        return ""
    host = ip_address(peer[0].partition("%")[0])
    return "" if host.is_loopback else str(host)


def _written(page: Page, *, bodiless: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if bodiless else page.body)
