"""Nobody keeps a process from answering its probes, however many connections they open and however slowly they read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from woodfrog.service import http
from woodfrog.service.http import Address, HttpServer, Page, probes

pytestmark = pytest.mark.timeout(60)


async def live() -> Page:
    return Page.verdict(None)


async def numbers() -> Page:
    return Page(b"x" * 32_000_000)


PAGES = {"/healthz": live, "/readyz": live, "/metrics": numbers}


@asynccontextmanager
async def served(pages: dict[str, http.Answerer]) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(Address("127.0.0.1", 0), pages)
    task = asyncio.create_task(server.run())
    try:
        yield server, await server.port()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def probe(port: int, source: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await reader.read()).split(b"\r\n")[0]
    except OSError:
        return b"hung up"
    finally:
        writer.close()


@asynccontextmanager
async def crowd(port: int, *, sources: list[str], request: bytes = b"") -> AsyncIterator[None]:
    """Connections that say nothing, or ask and do not read; each that is closed is opened again."""
    opened = asyncio.Semaphore(0)

    async def hold(source: str) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                opened.release()
                try:
                    if request:
                        writer.write(request)
                        await asyncio.Event().wait()
                    await reader.read(1)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    held = [asyncio.create_task(hold(source)) for source in sources]
    try:
        for _ in held:
            await opened.acquire()
        yield
    finally:
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_all_probes_are_answered_while_others_hold_more_connections_than_there_are_places() -> None:
    async with served(PAGES) as (_, port), crowd(port, sources=["127.0.0.1"] * 40):
        assert [await probe(port) for _ in range(20)] == [b"HTTP/1.1 200 OK"] * 20


async def test_a_crowd_at_the_metrics_takes_no_place_of_the_probes() -> None:
    async with (
        served(PAGES) as (_, shown),
        served(probes(PAGES)) as (_, probed),
        crowd(shown, sources=["127.0.0.1"] * 40, request=b"GET /metrics HTTP/1.1\r\n\r\n"),
    ):
        assert [await probe(probed) for _ in range(20)] == [b"HTTP/1.1 200 OK"] * 20


async def test_who_asks_and_does_not_read_gives_up_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_AT_ONCE", 8)
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    async with served(PAGES) as (server, port), crowd(port, sources=["127.0.0.1"] * 12, request=request):
        assert [await probe(port) for _ in range(20)] == [b"HTTP/1.1 200 OK"] * 20
        assert len(server._served) <= 8


async def test_one_address_has_four_places_and_leaves_the_rest_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_address_of", lambda writer: writer.get_extra_info("peername")[0])
    async with served(PAGES) as (server, port), crowd(port, sources=["127.0.0.2"] * 40):
        assert await probe(port, "127.0.0.3") == b"HTTP/1.1 200 OK"
        assert [place.address for place in server._served.values()].count("127.0.0.2") <= 4


async def test_probes_show_no_numbers() -> None:
    assert set(probes(PAGES)) == {"/healthz", "/readyz"}
