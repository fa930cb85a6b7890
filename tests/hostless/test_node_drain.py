"""Draining a node: what its proxy is told, and what is refused. That requests follow is for the lab to show."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest

from landscape import load

drain = load("plugins/modules/node_drain.py", "node_drain")

SINCE, NOW = "2026-11-28T10:00:00Z", "2026-11-28T11:00:00Z"


@pytest.mark.parametrize(
    ("found", "keys", "drained", "expected"),
    [
        ({}, ["orders"], True, {"orders": NOW}),
        ({"orders": SINCE}, ["orders"], True, {"orders": SINCE}),
        ({"orders": SINCE}, ["*"], True, {"orders": SINCE, "*": NOW}),
        ({"orders": SINCE, "users": SINCE}, ["orders"], False, {"users": SINCE}),
        ({"orders": SINCE, "*": SINCE}, ["*"], False, {}),
        ({}, ["orders"], False, {}),
    ],
)
def test_what_a_node_is_drained_of(found, keys, drained, expected):
    assert drain.wanted(found, keys, drained, NOW) == expected


def test_one_service_is_not_put_back_alone_where_all_are_drained():
    with pytest.raises(drain.DrainError, match="drained of all services"):
        drain.wanted({"*": SINCE}, ["orders"], False, NOW)


class Proxy:
    """What answers at an admin socket: the map and the statistics of a node proxy.

    Parameters:
        folder: where socket and file are.
        servers: the status of servers, by `backend/server`.
        running: how many requests a server has, each time that it is asked for.
    """

    def __init__(self, folder: Path, servers: dict[str, str], running: tuple[int, ...] = (0,)) -> None:
        self.file, self.socket = folder / "drained.map", folder / "admin.sock"
        self.file.touch()
        self.map: dict[str, str] = {}
        self._servers, self._running = servers, list(running)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.sendall(self._answer(connection.recv(1000).decode().strip()).encode())

    def _answer(self, command: str) -> str:
        if command.startswith("show stat"):
            count = self._running.pop(0) if len(self._running) > 1 else self._running[0]
            rows = [
                f"{key.replace('/', ',')},{status},{count if key == 'orders/blue' else 0}"
                for key, status in self._servers.items()
            ]
            return "\n".join(["# pxname,svname,status,scur", *rows])
        if command == f"show map {self.file}":
            return "".join(f"0x55d0 {key} {value}\n" for key, value in self.map.items())
        if added := re.fullmatch(rf"add map {self.file} (\S+) (\S+)", command):
            self.map[added[1]] = added[2]
            return "\n"
        if gone := re.fullmatch(rf"del map {self.file} (\S+)", command):
            return "\n" if self.map.pop(gone[1], None) else "Key not found.\n"
        return "Unknown command.\n"

    def change(self, state: str, service: str = "", *, force: bool = False, check_mode: bool = False) -> dict:
        parameters = {"services": ["orders", "users"], "service": service, "state": state, "wait": 1, "force": force}
        return drain.change(drain.Node(str(self.socket), str(self.file)), parameters, check_mode)


READY = {
    **{f"{name}.peers/app2": "UP" for name in ("orders", "users")},
    **{f"{name}.local/blue": "UP" for name in ("orders", "users")},
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(drain, "NOTICED_SECONDS", 0)


def test_a_node_is_drained_and_put_back(tmp_path):
    proxy = Proxy(tmp_path, READY)
    assert proxy.change("drained", "orders") == {"changed": True, "drained": ["orders"], "left": 0}
    assert list(proxy.map) == ["orders"]
    assert proxy.file.read_text() == f"orders {proxy.map['orders']}\n"
    assert proxy.change("drained", "orders") == {"changed": False, "drained": ["orders"], "left": 0}
    assert proxy.change("drained") == {"changed": True, "drained": ["*", "orders"], "left": 0}
    assert proxy.change("serving") == {"changed": True, "drained": [], "left": 0}
    assert (proxy.map, proxy.file.read_text()) == ({}, "")
    assert proxy.change("serving") == {"changed": False, "drained": [], "left": 0}


def test_a_proxy_that_was_not_told_is_told_by_the_next_run(tmp_path):
    proxy = Proxy(tmp_path, READY)
    proxy.file.write_text(f"orders {SINCE}\n")
    assert proxy.change("drained", "orders")["changed"] is False
    assert proxy.map == {"orders": SINCE}


def test_check_mode_changes_nothing(tmp_path):
    proxy = Proxy(tmp_path, READY)
    assert proxy.change("drained", check_mode=True)["changed"]
    assert (proxy.map, proxy.file.read_text()) == ({}, "")


def test_requests_that_run_are_waited_for(tmp_path):
    servers = READY | {"orders/blue": "UP"}
    assert Proxy(tmp_path, servers, running=(2, 2, 2, 1, 0)).change("drained", "orders")["left"] == 0
    (tmp_path / "slow").mkdir()
    assert Proxy(tmp_path / "slow", servers, running=(2,)).change("drained", "orders")["left"] == 2


def test_without_a_peer_that_is_ready_a_node_is_not_drained(tmp_path):
    proxy = Proxy(tmp_path, READY | {"users.peers/app2": "DOWN"})
    with pytest.raises(drain.DrainError, match="no peer is ready for users"):
        proxy.change("drained")
    assert proxy.map == {}
    assert proxy.change("drained", force=True)["drained"] == ["*"]


def test_what_is_not_ready_is_not_put_back(tmp_path):
    proxy = Proxy(tmp_path, READY | {"users.local/blue": "DOWN"})
    proxy.file.write_text(f"* {SINCE}\n")
    with pytest.raises(drain.DrainError, match=r"users did not become ready here within 1 s.*logs SERVICE=users"):
        proxy.change("serving")
    assert proxy.file.read_text() == f"* {SINCE}\n"
    assert proxy.change("serving", force=True)["drained"] == []


def test_a_service_that_lives_elsewhere_is_refused(tmp_path):
    with pytest.raises(drain.DrainError, match="shop does not live here; choose one of orders, users"):
        Proxy(tmp_path, READY).change("drained", "shop")
