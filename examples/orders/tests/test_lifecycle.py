import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.services import Service, service


def body(user_id: int) -> dict:
    return {"user_id": user_id, "items": [{"sku": "PEN-1", "quantity": 1, "price_cents": 199}]}


def test_a_stop_lets_a_running_order_finish(
    variables: dict[str, str], user_id: int, orders: Service, postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    with service("orders", variables, server="gunicorn") as stopping, ThreadPoolExecutor(1) as pool:
        with postgres.blocked(database.name, "orders"):
            last = pool.submit(httpx.post, f"{stopping.url}/orders", json=body(user_id), timeout=30, trust_env=False)
            wait_until(lambda: postgres.waiting(database.name) > 0, seconds=5, what="the request runs")
            stopping.process.send(signal.SIGTERM)
            time.sleep(0.7)
            assert stopping.process.running
            assert not last.done()
        assert last.result().status_code == 201
        stopping.process.wait(10)
    assert orders.http.get(last.result().headers["Location"]).json() == last.result().json()


def test_a_process_that_stops_says_that_it_is_not_ready(variables: dict[str, str]) -> None:
    with service("orders", {**variables, "SHUTDOWN_DELAY": "1"}) as orders:
        orders.process.send(signal.SIGTERM)
        wait_until(lambda: orders.http.get("/readyz").status_code == 503, seconds=1, what="it is not ready")
        assert orders.http.get("/orders").status_code == 200
        orders.process.wait(10)


def test_an_outage_of_the_database_ends_with_it(orders: Service, user_id: int, postgres: PostgreSQL) -> None:
    request = {"json": body(user_id), "headers": {"Idempotency-Key": "outage"}}
    postgres.stop()
    try:
        for answer in (
            orders.http.post("/orders", **request),
            orders.http.get("/orders"),
            orders.http.get("/orders/1"),
        ):
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        assert orders.http.get("/readyz").status_code == 200
        assert orders.http.get("/healthz").status_code == 200
    finally:
        postgres.start()
    assert orders.http.post("/orders", **request).status_code == 201
    assert orders.http.get("/orders").status_code == 200


def test_reads_that_need_no_primary_go_on_while_writes_wait(
    variables: dict[str, str], user_id: int, postgres: PostgreSQL, database: DatabaseUrls, migrated: DatabaseUrls
) -> None:
    replica = postgres.copy_database("replica", migrated)
    here = {"DATABASE_READ_URL": replica.application, "DATABASE_TIMEOUT": "3", "DATABASE_POOL_SIZE": "2"}
    with service("orders", {**variables, **here}) as orders, ThreadPoolExecutor(30) as pool:
        assert orders.http.get("/orders").status_code == 200
        with postgres.blocked(database.name, "orders"):
            waiting = [pool.submit(orders.http.post, "/orders", json=body(user_id)) for _ in range(30)]
            wait_until(lambda: postgres.waiting(database.name) == 4, seconds=5, what="every connection waits")
            for _ in range(20):
                answer = orders.http.get("/orders")
                assert (answer.status_code, answer.elapsed < timedelta(seconds=1)) == (200, True)
            answers = [each.result() for each in waiting]
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(503, "2")}
        assert orders.http.post("/orders", json=body(user_id)).status_code == 201


@pytest.mark.parametrize("how", ["frozen", "refusing"])
def test_a_write_is_told_to_come_back(
    variables: dict[str, str], user_id: int, postgres: PostgreSQL, migrated: DatabaseUrls, how: str
) -> None:
    """By its key it is one order then, whatever became of the first attempt."""
    sales = postgres.copy_database(how, migrated)
    request = {"json": body(user_id), "headers": {"Idempotency-Key": how}}
    here = {**variables, "DATABASE_URL": sales.application, "DATABASE_TIMEOUT": "1"}
    with service("orders", here) as orders:
        assert orders.http.get("/orders").status_code == 200
        with postgres.frozen() if how == "frozen" else postgres.refusing(sales.name):
            answer = orders.http.post("/orders", **request)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
            assert answer.elapsed < timedelta(seconds=2.5)
        assert orders.http.post("/orders", **request).status_code == 201
        assert len(orders.http.get("/orders").json()["orders"]) == 1
