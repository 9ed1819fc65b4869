"""Pages over HTTP: whatever is asked, one bounded answer, and the process goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from woodfrog.service import http
from woodfrog.service.http import Address, HttpServer, InvalidAddressError, Page
from woodfrog.service.metrics import OTHER, BoundedLabel


async def fine() -> Page:
    return Page(b"fine\n")


async def broken() -> Page:
    raise RuntimeError("a defect")


@asynccontextmanager
async def served(pages: dict[str, http.Answerer] | None = None) -> AsyncIterator[int]:
    server = HttpServer(Address("127.0.0.1", 0), pages or {"/fine": fine, "/broken": broken})
    task = asyncio.create_task(server.run())
    try:
        yield await server.port()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def said(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /fine HTTP/1.1", "200 OK", "fine\n"),
        ("GET /fine?verbose=1 HTTP/1.0", "200 OK", "fine\n"),
        ("HEAD /fine HTTP/1.1", "200 OK", ""),
        ("GET /else HTTP/1.1", "404 Not Found", "there are: /fine /broken\n"),
        ("POST /fine HTTP/1.1", "405 Method Not Allowed", "GET only\n"),
        ("GET /broken HTTP/1.1", "500 Internal Server Error", "it cannot be shown; the process's log says why\n"),
        ("nonsense", "400 Bad Request", "not HTTP/1\n"),
        ("PRI * HTTP/2.0", "400 Bad Request", "not HTTP/1\n"),
    ],
)
async def test_each_request_gets_its_answer(request_line: str, status: str, body: str) -> None:
    async with served() as port:
        answer = await said(port, f"{request_line}\r\nHost: here\r\n\r\n".encode())
    head, _, rest = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert rest == body


async def test_a_head_without_end_is_hung_up_on_and_others_are_still_served() -> None:
    async with served() as port:
        with suppress(ConnectionResetError):
            assert await said(port, b"GET /fine HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n") == ""
        assert (await said(port, b"GET /fine HTTP/1.1\r\n\r\n")).endswith("fine\n")


async def test_who_never_comes_to_the_point_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_ASK_SECONDS", 0.1)
    async with served() as port:
        assert await said(port, b"GET /fi") == ""


async def test_at_the_limit_the_oldest_that_has_not_asked_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_AT_ONCE", 1)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert "200" in (await said(port, b"GET /fine HTTP/1.1\r\n\r\n")).splitlines()[0]
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_who_is_being_answered_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_AT_ONCE", 1)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Page:
        asked.set()
        await go_on.wait()
        return Page(b"slow\n")

    async with served({"/slow": slow}) as port:
        first = asyncio.create_task(said(port, b"GET /slow HTTP/1.1\r\n\r\n"))
        await asked.wait()
        with suppress(ConnectionResetError):
            assert await said(port, b"GET /slow HTTP/1.1\r\n\r\n") == ""
        go_on.set()
        assert (await first).endswith("slow\n")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", Address("0.0.0.0", 8080)),
        (":9", Address("", 9)),
        ("[::1]:80", Address("::1", 80)),
        ("host.example:1", Address("host.example", 1)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "8080", "host:", "host:http", "host:65536", "::1:80", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddressError):
        Address.parse(text)


def test_a_label_takes_so_many_values_and_calls_the_rest_other() -> None:
    label: Callable[[str], str] = BoundedLabel(2)
    assert [label(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
