"""Loads a large set of orders: `python -m orders.load --count 1000000 --users 100000`.

The orders get the ids 1 to count and belong to users 1 to users. The same seed gives the same orders; those that are
there are left as they are, so that a load that was cut off can be started again. All of them were confirmed long ago.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import psycopg

CHUNK = 10_000
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
# A million orders take 600 days; one number gives the time of an order, whatever the count.
SECONDS_BETWEEN = 600 * 86_400 / 1_000_000
SIZES = (1,) * 24 + (2,) * 13 + (3,) * 7 + (4,) * 4 + (5,) * 2
QUANTITIES = (1, 1, 1, 1, 1, 1, 2, 2, 3, 5)
ARTICLES = 600


def catalogue() -> list[tuple[str, int]]:
    """Return articles and their prices in cents; the first ones sell best."""
    chance = random.Random(0)  # noqa: S311 (made to be foreseen)
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    return [
        (f"{''.join(chance.choices(letters, k=3))}-{number:04d}", round(10 ** chance.uniform(2.3, 4.3)) // 10 * 10 + 9)
        for number in range(1, ARTICLES + 1)
    ]


def orders(first: int, last: int, *, seed: int, users: int) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Make orders and their items, as lines that COPY reads.

    Args:
        first: The id of the first order; chunks begin at a multiple of the chunk size plus one.
        last: The id of the last one.
        seed: The same seed makes the same orders.
        users: Orders belong to users 1 to this one. The first tenth of them make about a third of the orders.

    Returns:
        Orders and items, each with the id of the order.
    """
    chance = random.Random(f"{seed}:{first}")  # noqa: S311 (made to be foreseen)
    number = chance.random
    articles = catalogue()
    amount, sizes, quantities = len(articles), len(SIZES), len(QUANTITIES)
    order_lines: list[tuple[int, str]] = []
    item_lines: list[tuple[int, str]] = []
    for order_id in range(first, last + 1):
        total = 0
        for line in range(1, SIZES[int(number() * sizes)] + 1):
            sku, price = articles[int(number() ** 2 * amount)]
            quantity = QUANTITIES[int(number() * quantities)]
            total += quantity * price
            item_lines.append((order_id, f"{order_id}\t{line}\t{sku}\t{quantity}\t{price}\n"))
        created = FIRST_DAY + timedelta(seconds=int((order_id + number()) * SECONDS_BETWEEN))
        confirmed = created + timedelta(seconds=1 + int(number() * 20))
        user_id = 1 + int(number() ** 2 * users)
        order_lines.append((order_id, f"{order_id}\t{user_id}\t{total}\t{created}\t{confirmed}\n"))
    return order_lines, item_lines


def load_chunk(url: str, first: int, last: int, seed: int, users: int) -> int:
    """Add the orders of a range of ids that are not there yet, with their items, in one transaction.

    Args:
        url: The database.
        first: The id that the range begins with.
        last: The id that it ends with.
        seed: The same seed makes the same orders.
        users: Orders belong to users 1 to this one.

    Returns:
        How many orders were added.
    """
    with psycopg.connect(url, prepare_threshold=None, connect_timeout=10) as connection, connection.cursor() as cursor:
        there = {row[0] for row in cursor.execute("SELECT id FROM orders WHERE id BETWEEN %s AND %s", (first, last))}
        if len(there) == last - first + 1:
            return 0
        order_lines, item_lines = orders(first, last, seed=seed, users=users)
        with cursor.copy("COPY orders (id, user_id, total_cents, created_at, confirmed_at) FROM STDIN") as copy:
            copy.write("".join(text for order_id, text in order_lines if order_id not in there))
        with cursor.copy("COPY order_items (order_id, line, sku, quantity, price_cents) FROM STDIN") as copy:
            copy.write("".join(text for order_id, text in item_lines if order_id not in there))
    return last - first + 1 - len(there)


def reserve(url: str, count: int) -> None:
    """Make sure that orders made from now on get ids above `count`."""
    with psycopg.connect(url, prepare_threshold=None, connect_timeout=10) as connection:
        connection.execute(
            "SELECT setval(sequence, %s) FROM pg_get_serial_sequence('orders', 'id') AS sequence"
            " WHERE coalesce(pg_sequence_last_value(sequence::regclass), 0) < %s",
            (count, count),
        )


def positive(value: str) -> int:
    """Return an argument as a number of at least 1."""
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Load, and say how far it is."""
    parser = argparse.ArgumentParser(prog="python -m orders.load", description="Load a large set of orders.")
    parser.add_argument("--count", type=positive, default=1_000_000)
    parser.add_argument("--users", type=positive, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=positive, default=2, help="processes, and connections (2)")
    options = parser.parse_args()
    url = os.environ.get("DATABASE_SESSION_URL") or os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("DATABASE_URL is not set")
    begun, said, done, added = time.monotonic(), time.monotonic(), 0, 0
    reserve(url, options.count)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        chunks = {}
        for first in range(1, options.count + 1, CHUNK):
            last = min(first + CHUNK - 1, options.count)
            chunks[pool.submit(load_chunk, url, first, last, options.seed, options.users)] = last - first + 1
        try:
            for chunk in as_completed(chunks):
                added += chunk.result()
                done += chunks[chunk]
                if time.monotonic() - said > 2:
                    said = time.monotonic()
                    print(f"orders: {done:,} of {options.count:,}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(
        f"orders: {options.count:,} there, {added:,} of them new, {time.monotonic() - begun:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
