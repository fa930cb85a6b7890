import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import httpx
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from orders.database import Database
from orders.feed import PAGE, QUEUE, SETTLED_SECONDS, Listener, News
from orders.settings import Settings
from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.services import SERVERS, Service, service

ITEMS = [{"sku": "MUG-001", "quantity": 2, "price_cents": 1250}]
Event = dict[str, Any]


class Stream:
    """Server-sent events as a client reads them."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()
        self.hello = self.block()

    def block(self) -> list[str]:
        """Return the lines up to the next empty one; none at the end."""
        return list(iter(lambda: next(self._lines, ""), ""))

    def blocks(self) -> Iterator[list[str]]:
        give_up = time.monotonic() + 20
        for block in iter(self.block, []):
            # Beats keep the client's own timeout away.
            assert time.monotonic() < give_up, "what was waited for did not come"
            yield block

    def begun(self) -> int:
        """Return the id that it begins after."""
        (line,) = next(block for block in self.blocks() if block != [":"])
        return int(line.removeprefix("id: "))

    def orders(self, count: int) -> list[Event]:
        return list(islice((event(block) for block in self.blocks() if len(block) > 1), count))


def event(block: list[str]) -> Event:
    fields = dict(line.split(": ", 1) for line in block)
    assert (list(fields), fields["event"]) == (["id", "event", "data"], "order")
    order = json.loads(fields["data"])
    assert order["id"] == int(fields["id"])
    return order


@contextmanager
def stream(to: Service, after: int | None = None, **parameters: Any) -> Iterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with (
        httpx.Client(base_url=to.url, timeout=20, trust_env=False) as client,
        client.stream("GET", "/orders/events", params=parameters, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield Stream(answer)


@contextmanager
def socket(to: Service) -> Iterator[ClientConnection]:
    with connect(f"{to.url.replace('http', 'ws')}/orders/live", proxy=None, close_timeout=5) as connection:
        yield connection


def order(orders: Service, user_id: int) -> Event:
    made = orders.http.post("/orders", json={"user_id": user_id, "items": ITEMS})
    assert made.status_code == 201, made.text
    return made.json()


def insert(connection: psycopg.Connection, user_id: int, count: int = 1) -> list[int]:
    rows = connection.execute(
        "INSERT INTO orders (user_id, total_cents) SELECT %s, 5 FROM generate_series(1, %s) RETURNING id",
        [user_id, count],
    )
    return [row[0] for row in rows.fetchall()]


@pytest.fixture(scope="module")
def live(variables: dict[str, str]) -> Iterator[Service]:
    with service("orders", {**variables, "NODE_NAME": "node-8", "HEARTBEAT": "0.3"}) as running:
        yield running


def test_new_orders_arrive_wherever_they_were_made(orders: Service, live: Service, user_id: int) -> None:
    with stream(live) as events:
        headers = events.answer.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert headers["X-Served-By"] == "node-8"
        assert events.hello[0] == ": node-8"
        assert 200 <= int(events.hello[1].removeprefix("retry: ")) < 1000
        begun = events.begun()
        made = [order(service, user_id) for service in (orders, live, orders)]
        assert made[0]["id"] > begun
        assert events.orders(3) == made


def test_a_user_gets_their_own_orders(orders: Service, live: Service, user_id: int, database: DatabaseUrls) -> None:
    with stream(live, user_id=user_id) as events, psycopg.connect(database.application, autocommit=True) as connection:
        events.begun()
        for _ in range(2):
            insert(connection, 4_000_001)
            made = order(orders, user_id)
            assert events.orders(1) == [made]


def test_a_client_that_comes_back_misses_nothing(
    orders: Service, live: Service, user_id: int, database: DatabaseUrls
) -> None:
    with stream(live) as events:
        last = events.begun()
    with psycopg.connect(database.application, autocommit=True) as connection:
        missed = [order(orders, user_id)["id"], *insert(connection, 4_000_002, 2 * PAGE + 10)]
    for to in (live, orders):
        with stream(to, last) as events:
            assert [each["id"] for each in events.orders(len(missed))] == missed
            missed.append(order(orders, user_id)["id"])
            assert events.orders(1)[0]["id"] == missed[-1]
        with stream(to, last, user_id=4_000_002) as events:
            assert [each["id"] for each in events.orders(2 * PAGE + 10)] == missed[1 : 2 * PAGE + 11]
        with stream(to, missed[-2]) as events:
            assert [each["id"] for each in events.orders(1)] == missed[-1:]


@pytest.mark.parametrize("last", ["x", "-1", str(2**63)])
def test_a_malformed_last_id_is_refused(orders: Service, last: str) -> None:
    answer = orders.http.get("/orders/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["fields"][0]["field"]) == (422, "header.last-event-id")
    assert orders.http.get("/orders/events?user_id=0").status_code == 422


def test_a_quiet_stream_beats(live: Service, variables: dict[str, str]) -> None:
    with stream(live) as events:
        events.begun()
        assert [events.block() for _ in range(3)] == [[":"]] * 3
    assert Settings.from_environment(variables).heartbeat == 10


def test_orders_come_by_rising_id_though_they_commit_in_another_order(live: Service, database: DatabaseUrls) -> None:
    with (
        stream(live) as events,
        psycopg.connect(database.application) as slow,
        psycopg.connect(database.application) as fast,
    ):
        events.begun()
        first, second = insert(slow, 4_000_003), insert(fast, 4_000_003)
        assert first < second
        fast.commit()
        # The beats are 0.3 s apart: it was looked for, and held back.
        assert [events.block() for _ in range(3)] == [[":"]] * 3
        slow.commit()
        assert [each["id"] for each in events.orders(2)] == first + second

        insert(slow, 4_000_003)
        slow.rollback()
        begun, after_gap = time.monotonic(), insert(fast, 4_000_003, 3)
        fast.commit()
        assert [each["id"] for each in events.orders(3)] == after_gap
        assert SETTLED_SECONDS - 0.1 < time.monotonic() - begun < SETTLED_SECONDS + 4


def test_many_clients_make_one_query_and_none_make_none(
    live: Service, postgres: PostgreSQL, database: DatabaseUrls, user_id: int
) -> None:
    def looks() -> int:
        return sum("FROM orders WHERE orders.id >" in line for line in postgres.statements(database.name))

    def quiet() -> bool:
        before = looks()
        time.sleep(0.8)
        return looks() == before

    wait_until(quiet, seconds=10, what="nobody is left")
    with ExitStack() as stack:
        streams = [stack.enter_context(stream(live)) for _ in range(6)]
        sockets = [stack.enter_context(socket(live)) for _ in range(6)]
        for each in streams:
            each.begun()
        before, begun = looks(), time.monotonic()
        wait_until(lambda: looks() >= before + 3, seconds=10, what="it looks")
        made = order(live, user_id)
        assert [each.orders(1) for each in streams] == [[made]] * 6
        assert [json.loads(each.recv(10)) for each in sockets] == [{"type": "order", "order": made}] * 6
        assert looks() - before <= (time.monotonic() - begun) / 0.5 + 1
    wait_until(quiet, seconds=5, what="nobody looks for nobody")


def test_a_socket_answers_pings_and_brings_orders(orders: Service, live: Service, user_id: int) -> None:
    with socket(live) as connection:
        assert connection.response.headers["X-Served-By"] == "node-8"
        connection.send('{"type": "ping"}')
        assert json.loads(connection.recv(10)) == {"type": "pong", "served_by": "node-8"}
        made = order(orders, user_id)
        assert json.loads(connection.recv(10)) == {"type": "order", "order": made}
        for nonsense in ("ping", "[]", '{"type": "pong"}', b"\xff", "[" * 100_000):
            connection.send(nonsense)
            assert json.loads(connection.recv(10))["type"] == "error"
        connection.send(b'{"type": "ping"}')
        assert json.loads(connection.recv(10))["type"] == "pong"
    assert "Traceback" not in live.process.printed()


def test_a_feed_outlives_an_outage_of_the_database(live: Service, user_id: int, postgres: PostgreSQL) -> None:
    with stream(live) as events, socket(live) as connection:
        events.begun()
        said = live.process.printed().count("will look again")
        postgres.stop()
        try:
            wait_until(
                lambda: live.process.printed().count("will look again") > said, seconds=10, what="it notices the outage"
            )
            with stream(live) as other:
                assert other.hello[0] == ": node-8"
            connection.send('{"type": "ping"}')
            assert json.loads(connection.recv(10))["type"] == "pong"
        finally:
            postgres.start()
        made = order(live, user_id)
        assert events.orders(1) == [made]
        assert json.loads(connection.recv(10))["order"] == made


def test_a_listener_that_is_too_slow_is_sent_away() -> None:
    async def listen() -> list[bool]:
        listener = Listener(Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1, timeout=1))
        ended = []
        for number in range(1, QUEUE + 2):
            listener.tell(News(number, 1, "{}"))
            ended.append(listener.ended.is_set())
        return ended

    assert asyncio.run(listen()) == [False] * QUEUE + [True]


@pytest.mark.parametrize("server", SERVERS)
def test_streams_do_not_hold_up_a_stop(server: str, variables: dict[str, str], user_id: int) -> None:
    with (
        service("orders", variables, server=server) as orders,
        stream(orders) as events,
        stream(orders) as unread,
        socket(orders) as connection,
    ):
        begun = events.begun()
        made = order(orders, user_id)
        assert made["id"] > begun
        assert events.orders(1) == [made]
        assert json.loads(connection.recv(10))["order"] == made
        stopped = time.monotonic()
        orders.process.send(signal.SIGTERM)
        ((line,),) = list(events.blocks())
        assert 200 <= int(line.removeprefix("retry: ")) < 1000
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(10)
        # granian takes signals by the event loop's own means, so it cannot be kept waiting: it may have stopped before
        # the reason was sent. A client comes back as it does after a connection that broke.
        if server != "granian" or closed.value.rcvd is not None:
            assert closed.value.rcvd.code == 1012
            assert 200 <= json.loads(closed.value.rcvd.reason)["retry_ms"] < 1000
        orders.process.wait(5)
        assert time.monotonic() - stopped < 5
        assert list(unread.blocks())[-1][0].startswith("retry: ")
        assert "Traceback" not in orders.process.printed()


def test_streams_go_on_while_a_process_only_says_that_it_will_stop(
    variables: dict[str, str], orders: Service, user_id: int
) -> None:
    with service("orders", {**variables, "SHUTDOWN_DELAY": "2"}) as stopping, stream(stopping) as events:
        events.begun()
        stopping.process.send(signal.SIGTERM)
        wait_until(lambda: stopping.http.get("/readyz").status_code == 503, seconds=1, what="it is not ready")
        made = order(orders, user_id)
        assert events.orders(1) == [made]
        assert [len(block) for block in events.blocks()] == [1]
        stopping.process.wait(5)
