"""A wire that misbehaves: TCP connections passed on late, slowly, in one direction only, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes connections on to a port of this machine. What is held back arrives once the wire is whole, as TCP has it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.delay_seconds = 0.0
        self.bytes_per_second = 0
        """0 for as fast as it goes."""
        self._there = asyncio.Event()
        self._back = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    def heal(self) -> None:
        self.delay_seconds, self.bytes_per_second = 0.0, 0
        self._there.set()
        self._back.set()

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """Hold back what the client says (``there``), what it is told (``back``), or both."""
        if there:
            self._there.clear()
        if back:
            self._back.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pumps = [
                asyncio.create_task(self._pump(reader, out_writer, self._there)),
                asyncio.create_task(self._pump(out_reader, writer, self._back)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                out_writer.close()
        writer.close()
        self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        loop = asyncio.get_running_loop()

        async def take() -> None:
            while data := await reader.read(4096):
                await line.put((loop.time(), data))
            await line.put((loop.time(), b""))

        taking = asyncio.create_task(take())
        try:
            while True:
                came, data = await line.get()
                await open_.wait()
                if self.delay_seconds:
                    await asyncio.sleep(max(0.0, came + self.delay_seconds - loop.time()))
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Take connections; give the URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"nats://127.0.0.1:{self.port}"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
