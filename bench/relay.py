"""A TCP relay that is far away: what passes arrives later, and a connection takes one way there and back to open.

Usage: relay.py ADDRESS:PORT ADDRESS:PORT MILLISECONDS, which are where it listens, whom it connects to, and the time of
a way there and back. The kernel's own means for that, netem, is not everywhere. It uses the standard library alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

# Of what is under way, so that a slow reader does not fill the memory.
MOST_CHUNKS = 256


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes in one direction, each piece so many seconds after it came, until there is no more."""
    clock, under_way = asyncio.get_running_loop().time, asyncio.Queue(MOST_CHUNKS)

    async def read() -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await under_way.put((clock() + delay, data))
        await under_way.put((clock() + delay, b""))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - clock())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()
    finally:
        reading.cancel()


async def main(here: str, there: str, milliseconds: float) -> None:
    """Relay until it is ended."""
    seconds = milliseconds / 1000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port = there.rsplit(":", 1)
        # The kernel has accepted already: what the client says next arrives as if it had waited for that.
        await asyncio.sleep(seconds)
        try:
            far = await asyncio.open_connection(address, int(port))
        except OSError:
            writer.transport.abort()
            return
        both = pass_on(reader, far[1], seconds / 2), pass_on(far[0], writer, seconds / 2)
        await asyncio.gather(*both, return_exceptions=True)
        far[1].close()
        writer.close()

    address, port = here.rsplit(":", 1)
    server = await asyncio.start_server(serve, address, int(port), backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
