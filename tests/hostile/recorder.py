"""A service that notes what reaches it, byte for byte, and answers every request with 200.

    python3 recorder.py LOG PLACE...

Each PLACE is a path of a unix socket to listen on, or ADDRESS:PORT. LOG gets a JSON line for all that arrives at once:
`place`, `connection`, a number, and `data`, its bytes as Latin-1. It stands alone, so that a host can run it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
from pathlib import Path

NUMBERS = itertools.count(1)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str, log: Path) -> None:
    """Note what one connection brings, and answer what looks like a request."""
    number, held = next(NUMBERS), b""
    try:
        while data := await reader.read(65536):
            # Everything in one write: connections share the file.
            line = json.dumps({"place": place, "connection": number, "data": data.decode("latin-1")})
            with log.open("a", encoding="ascii") as file:
                file.write(f"{line}\n")
            held += data
            while (end := ended(held)) is not None:
                writer.write(ANSWER + (b"" if held.startswith(b"HEAD ") else b"{}"))
                held = held[end:]
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def ended(held: bytes) -> int | None:
    """Return where the first request ends, as far as it is there.

    What two readers could understand differently is a finding of the judge's; here it only has to get an answer.
    """
    head, found, _ = held.partition(b"\r\n\r\n")
    if not found:
        return None
    start = len(head) + 4
    if re.search(rb"(?im)^transfer-encoding:", head):
        end = re.compile(rb"(?:^|\r\n)0+[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n").search(held, start)
        return end.end() if end else None
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    end = start + int(length[1]) if length else start
    return end if len(held) >= end else None


async def main(log: Path, places: list[str]) -> None:
    """Listen until it is ended."""
    for place in places:

        def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str = place) -> asyncio.Task:
            return asyncio.ensure_future(serve(reader, writer, place, log))

        if place.startswith("/"):
            Path(place).unlink(missing_ok=True)
            await asyncio.start_unix_server(met, place)
            Path(place).chmod(0o666)
        else:
            address, _, port = place.rpartition(":")
            await asyncio.start_server(met, address, int(port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
