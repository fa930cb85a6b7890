import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import Process, scratch_directory, wait_until
from testing.services import EXAMPLES, environment


@pytest.fixture(scope="module")
def shop(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    return postgres.copy_database("mailed", migrated)


@contextmanager
def mailer(urls: DatabaseUrls, name: str) -> Iterator[Process]:
    variables = {
        "DATABASE_URL": urls.application, "NODE_NAME": name, "MAILER_BATCH": "7", "MAILER_INTERVAL": "0.05"
    }  # fmt: skip
    with scratch_directory("mailer") as directory:
        process = Process(
            [sys.executable, "-m", "orders.mailer"],
            directory=EXAMPLES / "orders",
            environment=environment(variables),
            output=directory / "log",
        )
        try:
            yield process
        except AssertionError as error:
            error.add_note(f"{name} printed:\n{process.printed()}")
            raise
        finally:
            process.end()


def order(urls: DatabaseUrls, amount: int) -> list[int]:
    with psycopg.connect(urls.application) as connection:
        return [
            row[0]
            for row in connection.execute(
                "INSERT INTO orders (user_id, total_cents) SELECT n, n FROM generate_series(1, %s) AS n RETURNING id",
                [amount],
            )
        ]


def unconfirmed(urls: DatabaseUrls) -> list[int]:
    with psycopg.connect(urls.application) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM orders WHERE confirmed_at IS NULL ORDER BY id")]


def confirmed(process: Process) -> list[int]:
    return [int(number) for number in re.findall(r"confirmed order (\d+) to user", process.printed())]


def test_three_mailers_confirm_each_order_once(shop: DatabaseUrls) -> None:
    ids = order(shop, 400)
    with ExitStack() as stack:
        mailers = [stack.enter_context(mailer(shop, f"mailer{number}")) for number in range(3)]
        wait_until(lambda: not unconfirmed(shop), seconds=20, what="all are confirmed")
        # Two may have done all the work before the third could tell what a signal means.
        wait_until(lambda: all("started" in each.printed() for each in mailers), seconds=20, what="all have started")
        for process in mailers:
            process.send(signal.SIGTERM)
        assert [process.wait(5) for process in mailers] == [0, 0, 0]
        logged = [number for process in mailers for number in confirmed(process)]
        assert sorted(logged) == ids
        with psycopg.connect(shop.application) as connection:
            kept = connection.execute(
                "SELECT sent_by, count(*) FROM confirmations JOIN orders ON orders.id = order_id"
                " WHERE confirmed_at = sent_at GROUP BY sent_by"
            ).fetchall()
        assert Counter(dict(kept)) == Counter({f"mailer{n}": len(confirmed(each)) for n, each in enumerate(mailers)})


def test_an_order_that_someone_works_on_is_passed_over(shop: DatabaseUrls) -> None:
    first, *others = order(shop, 20)
    with mailer(shop, "patient") as process:
        with psycopg.connect(shop.application) as connection:
            connection.execute("SELECT 1 FROM orders WHERE id = %s FOR UPDATE", [first])
            wait_until(lambda: len(confirmed(process)) == len(others), seconds=10, what="the others are confirmed")
            assert confirmed(process) == others
        wait_until(lambda: confirmed(process) == [*others, first], seconds=5, what="the first is confirmed")


def test_what_was_ordered_outlives_an_outage(shop: DatabaseUrls, postgres: PostgreSQL) -> None:
    for _ in range(3):
        ids = order(shop, 2)
        postgres.stop()
        postgres.start()
        assert unconfirmed(shop) == ids
        with psycopg.connect(shop.application) as connection:
            connection.execute("UPDATE orders SET confirmed_at = now() WHERE confirmed_at IS NULL")


def test_a_mailer_outlives_an_outage_and_stops_while_it_lasts(shop: DatabaseUrls, postgres: PostgreSQL) -> None:
    with mailer(shop, "steady") as process, mailer(shop, "stopped") as other:
        for each in (process, other):
            wait_until(lambda each=each: "started" in each.printed(), seconds=10, what="it started")
        postgres.stop()
        try:
            for each in (process, other):
                wait_until(lambda each=each: "database is away" in each.printed(), seconds=10, what="it notices")
            other.send(signal.SIGTERM)
            assert other.wait(5) == 0
        finally:
            postgres.start()
        ids = order(shop, 3)
        wait_until(lambda: confirmed(process) == ids, seconds=10, what="it goes on")
        assert process.printed().count("database is away") == 1
