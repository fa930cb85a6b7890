"""Runs on the primary: writes orders with several clients, and looks every 20 ms whether one of them waits for a lock.

    writers.py SOCKET DATABASE CLIENTS FILE

It goes on until the file is there, and prints as JSON what it saw. Each client writes to rows of its own, so that none
waits for another. What takes long without a lock (a commit that waits for a replica, the disk) is told beside it.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import psycopg2

SAMPLE_SECONDS = 0.02
NAME = "bench_writer"
WAITING = """
SELECT pid, query_start, wait_event_type, wait_event FROM pg_stat_activity
WHERE application_name = %s AND state = 'active' AND wait_event IS NOT NULL
"""


def write(socket: str, database: str, number: int, clients: int, stop: Any, told: Any) -> None:
    """Insert and update in turn until told to stop, and tell how many seconds each statement took."""
    connection = psycopg2.connect(host=socket, dbname=database, user="postgres", application_name=NAME)
    connection.autocommit = True
    cursor = connection.cursor()
    took = []
    while not stop.is_set():
        turn = len(took) + 1
        row = (turn * 7919) % (1_000_000 // clients) * clients + number + 1
        begun = time.monotonic()
        if turn % 2:
            cursor.execute("INSERT INTO orders (user_id, total_cents) VALUES (%s, %s)", (row, turn))
        else:
            cursor.execute("UPDATE orders SET total_cents = total_cents + 1, changed_at = now() WHERE id = %s", (row,))
        took.append(time.monotonic() - begun)
        time.sleep(0.002)
    connection.close()
    told.put(took)


def watch(socket: str, database: str, file: Path) -> dict[str, Any]:
    """Look until the file is there; return the longest wait of a writer for a lock, in ms, and how often one was seen.

    A wait that is seen in some looks in a row may have begun just after the one before, and have ended just before the
    next: it is told as long as it may have been. What is shorter than the time between two looks may be missed, so the
    longest of these times is told, too; and the longest wait for anything, with its name.
    """
    connection = psycopg2.connect(host=socket, dbname=database, user="postgres")
    connection.autocommit = True
    cursor = connection.cursor()
    since: dict[tuple, float] = {}
    seen: dict[str, int] = {}
    longest, other, gap, looks, before = 0.0, (0.0, ""), 0.0, 0, time.monotonic()
    while not file.exists():
        cursor.execute(WAITING, (NAME,))
        rows, now = cursor.fetchall(), time.monotonic()
        looks, gap = looks + 1, max(gap, now - before)
        since = {row: since.get(row, before) for row in rows}
        for (_, _, kind, event), begun in since.items():
            waited = now + SAMPLE_SECONDS - begun
            other = max(other, (waited, f"{kind}: {event}"))
            if kind == "Lock":
                seen[event] = seen.get(event, 0) + 1
                longest = max(longest, waited)
        before = now
        time.sleep(max(0.0, SAMPLE_SECONDS - (time.monotonic() - now)))
    return {
        "longest_wait_ms": longest * 1000,
        "longest_gap_ms": gap * 1000,
        "seen_waiting": seen,
        "longest_other_ms": other[0] * 1000,
        "longest_other": other[1],
        "looks": looks,
    }


def main() -> None:
    """Write and look until the file is there."""
    socket, database, clients, file = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    stop, told = multiprocessing.Event(), multiprocessing.Queue()
    writers = [
        multiprocessing.Process(target=write, args=(socket, database, number, clients, stop, told))
        for number in range(clients)
    ]
    begun = time.monotonic()
    for writer in writers:
        writer.start()
    found = watch(socket, database, file)
    stop.set()
    statements = sorted(each for _ in writers for each in told.get())
    for writer in writers:
        writer.join()
    found |= {
        "seconds": time.monotonic() - begun,
        "writes": len(statements),
        "p99_ms": statements[len(statements) * 99 // 100] * 1000,
        "slowest_ms": statements[-1] * 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
