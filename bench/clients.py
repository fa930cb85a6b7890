"""Runs on an app node, in a service's release: clients that stay connected and send a short SELECT now and then.

    clients.py COUNT BEGIN SECONDS [ADDRESS PORT CA_FILE]

They connect by DATABASE_URL until BEGIN (seconds of the epoch), from there on each asks about once a second for so many
seconds, and what they saw is printed as JSON. With an address they go to that PostgreSQL instead of the pooler, over
TLS. A client that is refused does not try again, and its reason is told.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter

import psycopg
from psycopg.conninfo import make_conninfo

# How many come at the same time, as a service that starts opens its pool.
AT_ONCE = 20
MOST = 1000
LONGEST = 120
# Between two questions of a client, in seconds: about one a second, and not all in step.
PAUSE = (0.5, 1.5)
CONNECT_TIMEOUT = 10
ORDERS = 1_000_000
QUESTION = "SELECT user_id, total_cents FROM orders WHERE id = %s"


def direct(url: str, address: str, port: int, ca_file: str) -> str:
    """Return where a server itself is reached that a URL leads to through a pooler."""
    return make_conninfo(url, host=address, port=port, sslmode="verify-full", sslrootcert=ca_file)


def reason(error: Exception) -> str:
    """Return why a client was not served: what the server said last, or the first line of what else there is."""
    text = str(error).rpartition("FATAL:")[2].strip()
    return text.splitlines()[0] if text else type(error).__name__


async def client(where: str, room: asyncio.Semaphore, begin: float, end: float, told: dict) -> None:
    """Connect, wait for the begin, and ask until the end."""
    try:
        async with room:
            connection = await psycopg.AsyncConnection.connect(
                where, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_TIMEOUT
            )
    except (psycopg.Error, OSError) as error:
        told["refused"][reason(error)] += 1
        return
    told["connected"] += 1
    async with connection:
        await asyncio.sleep(max(begin - time.time(), 0) + random.random())  # noqa: S311 (no secret)
        while time.time() < end:
            start = time.perf_counter()
            try:
                cursor = await connection.execute(QUESTION, [random.randint(1, ORDERS)])  # noqa: S311 (no secret)
                await cursor.fetchall()
            except psycopg.Error as error:
                told["failed"][reason(error)] += 1
                return
            told["took_ms"].append(round((time.perf_counter() - start) * 1000, 2))
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 (no secret)


async def main(count: int, begin: float, seconds: float, *server: str) -> dict:
    """Return what so many clients saw."""
    if not 1 <= count <= MOST or not 1 <= seconds <= LONGEST or not 0 <= begin - time.time() <= LONGEST:
        sys.exit(f"clients.py: {count} clients, {seconds} s or a begin in {begin - time.time():.0f} s: out of bounds")
    where = os.environ["DATABASE_URL"]
    if server:
        where = direct(where, server[0], int(server[1]), server[2])
    told: dict = {"connected": 0, "refused": Counter(), "failed": Counter(), "took_ms": []}
    room = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(client(where, room, begin, begin + seconds, told) for _ in range(count)))
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))))
