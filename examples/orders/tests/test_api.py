import json
from typing import Any

import psycopg
import pytest
from psycopg import sql

from orders.settings import SettingError, Settings
from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.services import Service, run, service

ITEMS = [{"sku": "MUG-001", "quantity": 3, "price_cents": 1250}, {"sku": "TEA-7", "quantity": 1, "price_cents": 499}]


def pages(orders: Service, **parameters: Any) -> list[list[int]]:
    found, after = [], None
    while True:
        page = orders.http.get("/orders", params={**parameters, **({} if after is None else {"after": after})})
        assert page.status_code == 200, page.text
        found.append([order["id"] for order in page.json()["orders"]])
        after = page.json()["next"]
        if after is None:
            return found


def test_a_new_order_is_read_back(orders: Service, user_id: int) -> None:
    made = orders.http.post("/orders", json={"user_id": user_id, "items": ITEMS})
    assert made.status_code == 201
    order = made.json()
    assert (order["user_id"], order["items"], order["total_cents"]) == (user_id, ITEMS, 4249)
    assert order["confirmed_at"] is None
    assert made.headers["Location"] == f"/orders/{order['id']}"
    read = orders.http.get(made.headers["Location"])
    assert (read.status_code, read.json()) == (200, order)
    assert orders.http.get("/orders", params={"user_id": user_id, "limit": 1}).json()["orders"] == [order]


def test_an_unknown_order_is_not_found(orders: Service) -> None:
    answer = orders.http.get("/orders/99999999")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize(
    "change",
    [
        {"items": []},
        {"items": [{**ITEMS[0], "quantity": 0}]},
        {"items": [{**ITEMS[0], "price_cents": -1}]},
        {"items": [{**ITEMS[0], "price_cents": 12.5}]},
        {"items": [{**ITEMS[0], "sku": "null\0byte"}]},
        {"items": ITEMS * 51},
        {"user_id": 0},
        {"user_id": 2**63},
        {"total_cents": 1},
    ],
)
def test_what_is_not_an_order_is_refused(orders: Service, user_id: int, change: dict[str, Any]) -> None:
    answer = orders.http.post("/orders", json={"user_id": user_id, "items": ITEMS, **change})
    assert (answer.status_code, answer.json()["error"]) == (422, "unprocessable")
    assert answer.json()["fields"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=0", "after=x", f"user_id={2**63}"])
def test_a_list_has_bounds(orders: Service, query: str) -> None:
    assert orders.http.get(f"/orders?{query}").status_code == 422


def test_an_order_is_made_whole_or_not_at_all(orders: Service, user_id: int, database: DatabaseUrls) -> None:
    def rows() -> list[int]:
        with psycopg.connect(database.owner) as connection:
            tables = ("orders", "order_items", "idempotency_keys")
            return [
                connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()[0]
                for table in tables
            ]

    request = {
        "json": {"user_id": user_id, "items": [*ITEMS, {**ITEMS[0], "sku": "LAST"}]},
        "headers": {"Idempotency-Key": "whole"},
    }
    before = rows()
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("ALTER TABLE order_items ADD CONSTRAINT no_last CHECK (sku <> 'LAST')")
        try:
            failed = orders.http.post("/orders", **request)
        finally:
            connection.execute("ALTER TABLE order_items DROP CONSTRAINT no_last")
    assert (failed.status_code, failed.json()["error"]) == (500, "internal")
    assert rows() == before
    assert orders.http.post("/orders", **request).status_code == 201
    assert rows() == [before[0] + 1, before[1] + 3, before[2] + 1]


def test_pages_hold_every_order_once_while_new_ones_arrive(
    postgres: PostgreSQL, migrated: DatabaseUrls, users: Service, user_id: int
) -> None:
    urls = postgres.copy_database("paged", migrated)
    loaded = run(
        "orders", "orders.load", "--count", "1500", "--users", "7", variables={"DATABASE_URL": urls.application}
    )
    assert loaded.returncode == 0, loaded.stderr
    with psycopg.connect(urls.application) as connection:
        of_user = {
            number: [
                row[0]
                for row in connection.execute("SELECT id FROM orders WHERE user_id = %s ORDER BY id DESC", [number])
            ]
            for number in range(1, 8)
        }
    assert sum(map(len, of_user.values())) == 1500
    with service("orders", {"DATABASE_URL": urls.application, "USERS_URL": users.url}) as orders:
        assert [len(page) for page in pages(orders, limit=100)] == [100] * 15
        for number, expected in of_user.items():
            found = pages(orders, user_id=number, limit=33)
            assert [order for page in found for order in page] == expected
            assert {len(page) for page in found[:-1]} <= {33}
        assert pages(orders, user_id=8) == [[]]

        first = orders.http.get("/orders", params={"limit": 100}).json()
        for _ in range(3):
            assert orders.http.post("/orders", json={"user_id": user_id, "items": ITEMS}).status_code == 201
        second = orders.http.get("/orders", params={"limit": 100, "after": first["next"]}).json()
        assert [order["id"] for order in first["orders"] + second["orders"]] == list(range(1500, 1300, -1))


def test_a_page_of_a_user_is_found_by_index(postgres: PostgreSQL, migrated: DatabaseUrls) -> None:
    urls = postgres.copy_database("planned", migrated)
    loaded = run(
        "orders", "orders.load", "--count", "10000", "--users", "2000", variables={"DATABASE_URL": urls.application}
    )
    assert loaded.returncode == 0, loaded.stderr
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        connection.execute("ANALYZE")
        # For a handful of rows a bitmap and a sort may be cheaper; the index has to be able to do without.
        connection.execute("SET enable_bitmapscan = off")

        for where, index in {
            "user_id = 700 AND id < 7500": "orders_user_id_id_idx",
            "id < 7500": "orders_pkey",
            "confirmed_at IS NULL": "orders_unconfirmed_idx",
        }.items():
            query = sql.SQL("EXPLAIN SELECT * FROM orders WHERE {} ORDER BY id DESC LIMIT 21").format(sql.SQL(where))
            plan = str(connection.execute(query).fetchall())
            assert index in plan
            assert "Seq Scan" not in plan
            assert "Sort" not in plan


def test_every_answer_names_request_and_node(orders: Service, user_id: int) -> None:
    for method, path, status in [
        ("GET", "/orders", 200),
        ("GET", "/orders/99999999", 404),
        ("DELETE", "/orders", 405),
        ("POST", "/orders", 422),
        ("GET", "/readyz", 200),
    ]:
        answer = orders.http.request(method, path, headers={"X-Request-ID": "abc-1"})
        assert answer.status_code == status
        assert (answer.headers["X-Served-By"], answer.headers["X-Request-ID"]) == ("node-7", "abc-1")
        if status >= 400:
            assert answer.json()["request_id"] == "abc-1"


def test_the_request_id_reaches_the_users_service(orders: Service, users: Service, user_id: int) -> None:
    body = {"user_id": user_id, "items": ITEMS}
    assert orders.http.post("/orders", json=body, headers={"X-Request-ID": "all-the-way"}).status_code == 201

    def lines() -> list[str]:
        return [line for line in users.process.printed().splitlines() if "request_id=all-the-way" in line]

    # The line is written once the answer has left.
    wait_until(lines, seconds=5, what="the request is logged")
    assert [f'path="/users/{user_id}" status=200' in line for line in lines()] == [True]


def test_a_wrong_environment_is_said_at_once(variables: dict[str, str]) -> None:
    for name, value in {"DATABASE_URL": " ", "DATABASE_POOL_SIZE": "0", "USERS_TIMEOUT": "soon"}.items():
        with pytest.raises(SettingError, match=f"^{name} is "):
            Settings.from_environment({**variables, name: value})


def test_the_answer_is_the_same_json_made_and_read(orders: Service, user_id: int) -> None:
    made = orders.http.post("/orders", json={"user_id": user_id, "items": ITEMS})
    assert json.loads(made.content) == orders.http.get(made.headers["Location"]).json()
