import signal
import sys

import psycopg
import pytest

from orders.load import CHUNK
from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import Process, scratch_directory, wait_until
from testing.services import EXAMPLES, environment, run

DIGEST = """
    SELECT md5(string_agg(orders::text, '' ORDER BY id)), md5(string_agg(items, '' ORDER BY id))
    FROM orders
    JOIN (SELECT order_id, string_agg(order_items::text, '' ORDER BY line) AS items FROM order_items GROUP BY 1) AS l
    ON order_id = id
"""
COUNT = CHUNK + 2000


@pytest.fixture(scope="module")
def loaded(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    urls = postgres.copy_database("loaded", migrated)
    assert load(urls, COUNT, jobs=2).startswith(f"orders: {COUNT:,} there, {COUNT:,} of them new")
    return urls


def load(urls: DatabaseUrls, count: int, *, jobs: int = 1) -> str:
    arguments = ("orders.load", "--count", str(count), "--users", "300", "--jobs", str(jobs))
    done = run("orders", *arguments, variables={"DATABASE_SESSION_URL": urls.application})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_loading_fills_what_is_missing_and_leaves_the_rest(loaded: DatabaseUrls) -> None:
    with psycopg.connect(loaded.application, autocommit=True) as connection:
        whole = connection.execute(DIGEST).fetchone()
        assert load(loaded, COUNT).startswith(f"orders: {COUNT:,} there, 0 of them new")
        connection.execute("DELETE FROM orders WHERE id BETWEEN %s AND %s", [CHUNK - 9, CHUNK + 10])
        assert load(loaded, COUNT).startswith(f"orders: {COUNT:,} there, 20 of them new")
        assert connection.execute(DIGEST).fetchone() == whole
        row = connection.execute("INSERT INTO orders (user_id, total_cents) VALUES (1, 1) RETURNING id").fetchone()
        assert row == (COUNT + 1,)
        connection.execute("DELETE FROM orders WHERE id = %s", row)


def test_loaded_orders_are_like_real_ones(loaded: DatabaseUrls) -> None:
    with psycopg.connect(loaded.application, autocommit=True) as connection:
        sizes = connection.execute(
            "SELECT lines, count(*) FROM (SELECT count(*) AS lines FROM order_items GROUP BY order_id) AS sized"
            " GROUP BY lines ORDER BY lines"
        ).fetchall()
        assert [lines for lines, _ in sizes] == [1, 2, 3, 4, 5]
        assert sum(orders for _, orders in sizes) == COUNT
        wrong = connection.execute(
            "SELECT count(*) FROM orders WHERE confirmed_at IS NULL OR confirmed_at <= created_at OR total_cents <>"
            " (SELECT sum(quantity * price_cents) FROM order_items WHERE order_id = id)"
        ).fetchone()
        assert wrong == (0,)
        buyers = connection.execute("SELECT min(user_id), max(user_id), count(DISTINCT user_id) FROM orders").fetchone()
        assert buyers == (1, 300, 300)


def test_a_load_that_was_killed_is_taken_up_again(
    postgres: PostgreSQL, migrated: DatabaseUrls, loaded: DatabaseUrls
) -> None:
    urls = postgres.copy_database("resumed", migrated)
    with psycopg.connect(urls.application, autocommit=True) as connection, scratch_directory("load") as directory:
        process = Process(
            [sys.executable, "-m", "orders.load", "--count", str(COUNT), "--users", "300", "--jobs", "1"],
            directory=EXAMPLES / "orders",
            environment=environment({"DATABASE_URL": urls.application}),
            output=directory / "log",
        )
        with postgres.blocked(urls.name, "order_items"):
            wait_until(lambda: postgres.waiting(urls.name) > 0, seconds=20, what="a chunk is half loaded")
            process.end(signal.SIGKILL)
        wait_until(lambda: postgres.waiting(urls.name) == 0, seconds=5, what="its transaction is gone")
        assert load(urls, COUNT).startswith(f"orders: {COUNT:,} there, {COUNT:,} of them new")
        resumed = connection.execute(DIGEST).fetchone()
    with psycopg.connect(loaded.application, autocommit=True) as connection:
        assert resumed == connection.execute(DIGEST).fetchone()
