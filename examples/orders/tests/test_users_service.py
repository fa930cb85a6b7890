import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testing.processes import free_port
from testing.services import Service, service


def body(user_id: int) -> dict:
    return {"user_id": user_id, "items": [{"sku": "PEN-1", "quantity": 1, "price_cents": 199}]}


class Faulty:
    """Stands before a service: drops its first connections, and passes the others on."""

    def __init__(self, target: str, *, drops: int) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._drops = drops
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.connections <= self._drops:
                client.recv(65536)
                client.close()
                continue
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with source:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return


@contextmanager
def faulty(target: str, *, drops: int) -> Iterator[Faulty]:
    before = Faulty(target, drops=drops)
    try:
        yield before
    finally:
        before.close()


def test_an_order_of_an_unknown_user_is_refused(orders: Service) -> None:
    answer = orders.http.post("/orders", json=body(77_777_777))
    assert (answer.status_code, answer.json()["message"]) == (422, "There is no user 77777777.")


@pytest.mark.parametrize(("drops", "status", "connections"), [(1, 201, 2), (9, 503, 2)])
def test_the_user_is_asked_for_once_more_and_no_more(
    users: Service, user_id: int, variables: dict[str, str], drops: int, status: int, connections: int
) -> None:
    with faulty(users.url, drops=drops) as before, service("orders", {**variables, "USERS_URL": before.url}) as orders:
        assert orders.http.post("/orders", json=body(user_id)).status_code == status
        assert before.connections == connections


def test_without_the_users_service_orders_can_be_read_but_not_made(
    orders: Service, user_id: int, variables: dict[str, str]
) -> None:
    made = orders.http.post("/orders", json=body(user_id)).json()
    with service("orders", {**variables, "USERS_URL": f"http://127.0.0.1:{free_port()}"}) as alone:
        answer = alone.http.post("/orders", json=body(user_id))
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert alone.http.get(f"/orders/{made['id']}").json() == made
        assert alone.http.get("/readyz").status_code == 200


def test_a_users_service_that_hangs_is_given_up(users: Service, user_id: int, variables: dict[str, str]) -> None:
    with service("orders", {**variables, "USERS_TIMEOUT": "0.5"}) as orders:
        assert orders.http.post("/orders", json=body(user_id)).status_code == 201
        users.process.send(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert orders.http.post("/orders", json=body(user_id)).status_code == 503
            assert 0.9 < time.monotonic() - begun < 4
        finally:
            users.process.send(signal.SIGCONT)
        assert orders.http.post("/orders", json=body(user_id)).status_code == 201
