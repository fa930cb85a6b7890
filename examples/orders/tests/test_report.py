import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.services import run


@pytest.fixture(scope="module")
def shop(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    return postgres.copy_database("reported", migrated)


def report(urls: DatabaseUrls, *arguments: str) -> dict:
    done = run("orders", "orders.report", *arguments, variables={"DATABASE_URL": urls.application})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def order(connection: psycopg.Connection, created: str, *items: tuple[int, int]) -> None:
    total = sum(quantity * price for quantity, price in items)
    row = connection.execute(
        "INSERT INTO orders (user_id, total_cents, created_at) VALUES (1, %s, %s) RETURNING id", [total, created]
    ).fetchone()
    for line, (quantity, price) in enumerate(items, 1):
        connection.execute("INSERT INTO order_items VALUES (%s, %s, 'X', %s, %s)", [row[0], line, quantity, price])


def test_a_day_is_counted_from_midnight_to_midnight_and_again_when_asked(shop: DatabaseUrls) -> None:
    with psycopg.connect(shop.application, autocommit=True) as connection:
        order(connection, "2025-03-09 23:59:59.999+00", (9, 900))
        order(connection, "2025-03-10 00:00:00+00", (2, 100), (1, 50))
        order(connection, "2025-03-10 23:59:59.999+00", (3, 10))
        order(connection, "2025-03-11 00:00:00+00", (9, 900))
        totals = {"day": "2025-03-10", "orders": 2, "items": 6, "revenue_cents": 280}
        assert report(shop, "--day", "2025-03-10") == totals
        order(connection, "2025-03-10 12:00:00+00", (1, 1000))
        totals = {"day": "2025-03-10", "orders": 3, "items": 7, "revenue_cents": 1280}
        assert report(shop, "--day", "2025-03-10") == totals
        rows = connection.execute("SELECT day::text, orders, items, revenue_cents FROM daily_totals").fetchall()
        assert rows == [tuple(totals.values())]


def test_without_a_day_it_is_yesterday(shop: DatabaseUrls) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    assert report(shop) == {"day": yesterday.isoformat(), "orders": 0, "items": 0, "revenue_cents": 0}


def test_old_idempotency_keys_are_dropped(shop: DatabaseUrls) -> None:
    with psycopg.connect(shop.application, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO idempotency_keys (key, fingerprint, created_at)"
            " VALUES ('old', '', now() - interval '8 days'), ('young', '', now() - interval '6 days')"
        )
        report(shop)
        assert connection.execute("SELECT key FROM idempotency_keys").fetchall() == [("young",)]


def test_a_wrong_day_is_refused(shop: DatabaseUrls) -> None:
    done = run("orders", "orders.report", "--day", "yesterday", variables={"DATABASE_URL": shop.application})
    assert done.returncode == 2
    assert "--day" in done.stderr
