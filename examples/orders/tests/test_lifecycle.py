import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

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
