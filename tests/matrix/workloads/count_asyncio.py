"""An event loop that counts with a client and a server of its own, over a unix socket and over TCP; argument: uvloop."""

import asyncio
import sys

if "uvloop" in sys.argv:
    import uvloop

    uvloop.install()


async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(b"%d\n" % (int(line) + 1))
        await writer.drain()


async def main():
    if "tcp" in sys.argv:
        server = await asyncio.start_server(serve, "127.0.0.1", 7000)
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
    else:
        server = await asyncio.start_unix_server(serve, "/run/count.sock")
        reader, writer = await asyncio.open_unix_connection("/run/count.sock")
    number = b"0\n"
    with open("/out", "a", buffering=1) as out:
        while True:
            writer.write(number)
            await writer.drain()
            number = await reader.readline()
            out.write(number.decode())
            await asyncio.sleep(0.05)


asyncio.run(main())
