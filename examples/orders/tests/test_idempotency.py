from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.services import Service, service


def body(user_id: int, quantity: int = 1) -> dict:
    return {"user_id": user_id, "items": [{"sku": "PEN-1", "quantity": quantity, "price_cents": 199}]}


def count(database: DatabaseUrls) -> int:
    with psycopg.connect(database.owner) as connection:
        return connection.execute("SELECT count(*) FROM orders").fetchone()[0]


def test_the_same_request_again_gets_the_same_answer(orders: Service, user_id: int, database: DatabaseUrls) -> None:
    before = count(database)
    answers = [orders.http.post("/orders", json=body(user_id), headers={"Idempotency-Key": "again"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
    assert count(database) == before + 1


def test_the_way_a_body_is_written_does_not_matter(orders: Service, user_id: int) -> None:
    text = f'{{ "items": [{{"price_cents": 199, "quantity": 1, "sku": "PEN-1"}}],\n "user_id": {user_id} }}'
    headers = {"Idempotency-Key": "written", "Content-Type": "application/json"}
    first = orders.http.post("/orders", json=body(user_id), headers=headers)
    second = orders.http.post("/orders", content=text, headers=headers)
    assert (second.status_code, second.content) == (201, first.content)


def test_the_same_key_for_another_request_is_refused(orders: Service, user_id: int, database: DatabaseUrls) -> None:
    headers = {"Idempotency-Key": "other"}
    assert orders.http.post("/orders", json=body(user_id), headers=headers).status_code == 201
    before = count(database)
    answer = orders.http.post("/orders", json=body(user_id, quantity=2), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (422, "unprocessable")
    assert "Idempotency-Key" in answer.json()["message"]
    assert count(database) == before


def test_without_a_key_each_request_is_an_order(orders: Service, user_id: int, database: DatabaseUrls) -> None:
    before = count(database)
    for _ in range(2):
        assert orders.http.post("/orders", json=body(user_id)).status_code == 201
    assert count(database) == before + 2


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
def test_a_malformed_key_is_refused(orders: Service, user_id: int, key: str) -> None:
    answer = orders.http.post("/orders", json=body(user_id), headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["fields"][0]["field"]) == (422, "header.Idempotency-Key")


def test_a_request_that_failed_may_be_sent_again_with_its_key(orders: Service, users: Service) -> None:
    headers = {"Idempotency-Key": "later"}
    assert orders.http.post("/orders", json=body(88_888_888), headers=headers).status_code == 422
    user_id = users.http.post("/users", json={"email": "later@example.org", "name": "Later"}).json()["id"]
    assert orders.http.post("/orders", json=body(user_id), headers=headers).status_code == 201


def test_a_replay_needs_neither_the_user_nor_the_users_service(
    orders: Service, users: Service, variables: dict[str, str]
) -> None:
    user_id = users.http.post("/users", json={"email": "leaving@example.org", "name": "Leaving"}).json()["id"]
    request = {"json": body(user_id), "headers": {"Idempotency-Key": "leaving"}}
    first = orders.http.post("/orders", **request)
    assert first.status_code == 201
    with service("orders", {**variables, "USERS_URL": "http://127.0.0.1:1"}) as alone:
        again = alone.http.post("/orders", **request)
        assert (again.status_code, again.content) == (201, first.content)
        assert alone.http.post("/orders", json=body(user_id)).status_code == 503


def test_the_same_request_many_times_at_once_makes_one_order(
    orders: Service, user_id: int, variables: dict[str, str], postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    before = count(database)
    with service("orders", variables) as other, ThreadPoolExecutor(16) as pool:
        with postgres.blocked(database.name, "orders"):
            # One holds the key and waits for the table; the others wait for the key.
            asked = [
                pool.submit(
                    httpx.post,
                    f"{(orders, other)[number % 2].url}/orders",
                    json=body(user_id),
                    headers={"Idempotency-Key": "at-once"},
                    timeout=30,
                    trust_env=False,
                )
                for number in range(16)
            ]
            wait_until(lambda: postgres.waiting(database.name) == 16, seconds=10, what="all of them wait")
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(answer.headers.get("Idempotent-Replayed", "") for answer in answers) == [""] + ["true"] * 15
    assert count(database) == before + 1


def test_different_requests_with_one_key_at_once_make_one_order(
    orders: Service, user_id: int, postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    before = count(database)
    with ThreadPoolExecutor(6) as pool:
        with postgres.blocked(database.name, "orders"):
            asked = [
                pool.submit(
                    orders.http.post, "/orders", json=body(user_id, number), headers={"Idempotency-Key": "rivals"}
                )
                for number in range(1, 7)
            ]
            wait_until(lambda: postgres.waiting(database.name) == 6, seconds=10, what="all of them wait")
        answers = [each.result() for each in asked]
    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 5
    assert count(database) == before + 1
