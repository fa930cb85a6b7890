"""The resilience harness without a host: its client, ledger, figures, choice of faults, commands, and report."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from landscape import ROOT

sys.path.insert(0, str(ROOT))
from resilience import analysis, checks, document, environment, faults, ledger, page
from resilience import session as sessions
from resilience.client import Answer, Client, FailedError, Request, parse
from resilience.fleet import Fleet, HostError
from resilience.load import KINDS, PATTERN, READS, WRITES, Load, People, Sample

GET = Request("GET", "/")
POST = Request("POST", "/", b"{}")
KEYED = Request("POST", "/", b"{}", {"Idempotency-Key": "k"})
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# Seconds since 1970 at which what is made up here begins.
ZERO = 1_790_000_000.0


# The client.


def whole(connection: socket.socket) -> bytes:
    """Return a request that came in; empty where the client went away."""
    data = b""
    while b"\r\n\r\n" not in data or (b"Content-Length: 2" in data and not data.endswith(b"{}")):
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    return data


@contextmanager
def server(*plans: list[bytes | None], reset: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server of which each connection answers as its plan says, and then closes.

    Parameters:
        plans: for each connection in turn its answers; None closes without one.
        reset: a close is a reset.
    Returns:
        Its port, and the requests that came in.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        for plan in plans:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for answer in plan:
                    request = whole(connection)
                    if not request:
                        break
                    seen.append(request)
                    if answer is None:
                        break
                    connection.sendall(answer)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def ask(
    port: int, *requests: Request, addresses: list[str] | None = None, **settings: float
) -> list[Answer | FailedError]:
    """Return what becomes of requests that one client sends one after the other."""

    async def talk() -> list[Answer | FailedError]:
        client = Client(addresses or ["127.0.0.1"], port, None, **({"timeout": 2.0} | settings))
        found: list[Answer | FailedError] = []
        for request in requests:
            try:
                found.append(await client.ask(request))
            except FailedError as error:
                found.append(error)
        client.close()
        return found

    return asyncio.run(talk())


def test_connections_are_kept():
    with server([GOOD, GOOD, GOOD]) as (port, seen):
        answers = ask(port, GET, GET, KEYED)
    assert [(answer.status, answer.body, answer.attempts) for answer in answers] == [
        (200, b"ok", 1),
        (200, b"ok", 0),
        (200, b"ok", 0),
    ]
    assert [request.split(b"\r\n")[0] for request in seen] == [b"GET / HTTP/1.1"] * 2 + [b"POST / HTTP/1.1"]
    assert b"Idempotency-Key: k\r\n" in seen[2]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("request_", [GET, KEYED], ids=["safe", "with a key"])
def test_a_reused_connection_that_closes_is_repeated_once(request_, reset):
    with server([GOOD, None], [GOOD], reset=reset) as (port, seen):
        first, second = ask(port, GET, request_)
    assert (first.retried, second.retried, second.status) == (False, True, 200)
    assert len(seen) == 3
    assert seen[1] == seen[2]


def test_what_may_not_be_repeated_is_not():
    with server([GOOD, None], [GOOD]) as (port, seen):
        _, second = ask(port, GET, POST)
    assert (second.how, second.retried) == ("closed", False)
    assert len(seen) == 2


def test_it_is_repeated_once_and_not_twice():
    with server([GOOD, None], [None], [GOOD]) as (port, seen):
        _, second = ask(port, GET, GET)
    assert (second.how, second.retried) == ("closed", True)
    assert len(seen) == 3


def test_a_new_connection_that_closes_is_a_failure():
    with server([None], [GOOD]) as (port, _):
        [answer] = ask(port, GET)
    assert (answer.how, answer.retried, answer.attempts) == ("closed", False, 1)


def test_a_connection_that_closed_while_idle_is_not_used():
    with server([GOOD], [GOOD]) as (port, _):

        async def talk() -> Answer:
            client = Client(["127.0.0.1"], port, None)
            await client.ask(GET)
            await asyncio.sleep(0.1)
            return await client.ask(POST)

        answer = asyncio.run(talk())
    assert (answer.status, answer.retried, answer.attempts) == (200, False, 1)


def test_half_an_answer_is_a_failure_whoever_asked():
    with server([GOOD, GOOD[:-1]], [GOOD]) as (port, _):
        _, second = ask(port, GET, GET)
    assert (second.how, second.retried) == ("broken", False)


def test_no_answer_in_time():
    with server([b"", b""]) as (port, _):
        [answer] = ask(port, GET, timeout=0.3)
    assert answer.how == "timeout"


def test_connecting_is_tried_until_it_succeeds():
    """As while an address moves: a wait, and no failure."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def late() -> None:
        time.sleep(0.5)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            whole(connection)
            connection.sendall(GOOD)

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    [answer] = ask(port, POST)
    thread.join(5)
    listener.close()
    assert answer.status == 200
    assert answer.attempts > 2


def test_connecting_ends_with_the_time_of_the_request():
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        [answer] = ask(placeholder.getsockname()[1], GET, timeout=0.3)
    assert answer.how == "connect"
    assert answer.attempts > 1


def test_several_addresses_are_tried_in_turn():
    with server([GOOD]) as (port, _):
        [answer] = ask(port, GET, addresses=["127.0.0.2", "127.0.0.1"])
    assert (answer.status, answer.attempts) == (200, 2)


@pytest.mark.parametrize(
    ("received", "body", "keep"),
    [
        (GOOD, b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
            True,
        ),
    ],
)  # fmt: skip
def test_answers_are_parsed_once_they_are_whole(received, body, keep):
    answer, kept = parse(received)
    assert (answer.body, kept) == (body, keep)
    assert [parse(received[:length]) for length in range(len(received))] == [None] * len(received)


@pytest.mark.parametrize("received", [b"SSH-2.0 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_is_no_answer(received):
    with pytest.raises(ValueError, match=r"not HTTP|without a length"):
        parse(received)


# The ledger.

WRITE = ledger.Write(
    "write", "r-7", {"user_id": 3, "items": [{"sku": "r-7", "quantity": 2, "price_cents": 5}]}, ZERO, 70
)
CREATE = ledger.Write("create", "r-8@example.com", {"email": "r-8@example.com", "name": "R", "city": "T"}, ZERO, 80)


def test_a_ledger_is_read_back(tmp_path):
    with ledger.Ledger(tmp_path / "ledger") as book:
        book.event("run", ZERO, name="r")
        book.acknowledge(WRITE)
        book.fail({"start": ZERO, "kind": "create"}, replace(CREATE, number=0))
        book.fail({"start": ZERO, "kind": "cached"})
        # Nothing waits to be written.
        assert ledger.read(tmp_path / "ledger").acknowledged == [WRITE]
    with ledger.Ledger(tmp_path / "ledger") as book:
        book.acknowledge(CREATE)
    entries = ledger.read(tmp_path / "ledger")
    assert entries.acknowledged == [WRITE, CREATE]
    assert entries.unknown == [replace(CREATE, number=0)]
    assert [failed["kind"] for failed in entries.failed] == ["create", "cached"]
    assert entries.events == [{"event": "run", "at": ZERO, "name": "r"}]


def test_a_ledger_outlives_a_killed_harness(tmp_path):
    path = tmp_path / "ledger"
    code = (
        "import os, signal, sys; from pathlib import Path; from resilience.ledger import Ledger, Write\n"
        "book = Ledger(Path(sys.argv[1]))\n"
        "book.acknowledge(Write('write', 'k', {}, 1.0, 1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False)
    assert [write.key for write in ledger.read(path).acknowledged] == ["k"]
    # A line that was cut off says nothing; one in the middle would be an error.
    path.write_text(path.read_text() + '{"entry": "acknow')
    assert len(ledger.read(path).acknowledged) == 1
    path.write_text('{"entry": "acknow\n' + path.read_text())
    with pytest.raises(ValueError, match="Unterminated"):
        ledger.read(path)


ORDER = ["r-7", "70", "3", "2", "5", "10"]
USER = ["r-8@example.com", "80", "R", "T"]


@pytest.mark.parametrize(
    ("orders", "users", "lost", "wrong"),
    [
        ([ORDER], [USER], 0, 0),
        ([], [USER], 1, 0),
        ([ORDER], [], 1, 0),
        ([ORDER, ["r-7", "71", "3", "2", "5", "10"]], [USER], 0, 1),
        ([["r-7", "71", "3", "2", "5", "10"]], [USER], 0, 1),
        ([["r-7", "70", "3", "2", "5", "11"]], [USER], 0, 1),
        ([ORDER], [["r-8@example.com", "80", "R", "elsewhere"]], 0, 1),
    ],
    ids=["all there", "order lost", "user lost", "order twice", "another id", "another total", "another city"],
)
def test_acknowledged_writes_are_there_once_and_as_they_were(orders, users, lost, wrong):
    verdict = checks.compare(ledger.Entries(acknowledged=[WRITE, CREATE]), orders, users)
    assert (verdict.acknowledged, len(verdict.lost), len(verdict.wrong)) == (2, lost, wrong)


@pytest.mark.parametrize(("orders", "arrived", "wrong"), [([], 0, 0), ([ORDER], 1, 0), ([ORDER, ORDER], 1, 1)])
def test_a_write_without_an_answer_may_be_there_but_not_twice(orders, arrived, wrong):
    verdict = checks.compare(ledger.Entries(unknown=[replace(WRITE, number=0)]), orders, [])
    assert (verdict.unknown, verdict.arrived, len(verdict.lost), len(verdict.wrong)) == (1, arrived, 0, wrong)


# What the samples say.


def samples(begin: float, end: float, kind: str = "write", **values: object) -> list[Sample]:
    """Return samples ten times a second, 20 ms each and good unless said."""
    count = round((end - begin) * 10)
    return [
        Sample(ZERO + begin + number / 10, **({"took": 0.02, "kind": kind, "outcome": "good"} | values))
        for number in range(count)
    ]


def test_the_longest_gap():
    found = samples(0, 5) + samples(7.5, 10) + samples(5, 7.5, outcome="failed", status=503)
    gap, over = analysis.longest_gap(found, ZERO, ZERO + 10)
    assert (gap, over) == (pytest.approx(2.6), pytest.approx(ZERO + 7.52))


def test_a_gap_at_an_edge_counts():
    assert analysis.longest_gap(samples(4, 5), ZERO, ZERO + 20)[0] == pytest.approx(15.08)
    assert analysis.longest_gap([], ZERO, ZERO + 20)[0] == 20


def test_writes_are_back_with_the_first_good_one_after_the_last_bad_one():
    refused = samples(2, 8, outcome="refused", status=503)
    assert analysis.writes_back(samples(0, 2) + refused + samples(8, 30), ZERO + 1, ZERO + 20) == pytest.approx(7.02)
    # A good one in between, as of a worker that had a connection left, does not end it.
    lucky = [replace(samples(0, 1)[0], start=ZERO + 4)]
    found = samples(0, 2) + refused + lucky + samples(8, 30)
    assert analysis.writes_back(found, ZERO + 1, ZERO + 20) == pytest.approx(7.02)


def test_writes_that_wait_and_succeed_are_back_when_the_wait_ends():
    waited = [replace(sample, took=ZERO + 9 - sample.start) for sample in samples(2, 9)]
    assert analysis.writes_back(samples(0, 2) + waited + samples(9, 30), ZERO + 2, ZERO + 20) == pytest.approx(
        7, abs=0.05
    )


def test_writes_that_never_were_away_or_never_were_back():
    assert analysis.writes_back(samples(0, 30), ZERO + 2, ZERO + 20) == 0
    assert analysis.writes_back(samples(0, 2) + samples(2, 30, outcome="failed"), ZERO + 2, ZERO + 20) is None


def test_what_fails_when_a_host_returns_is_no_part_of_the_outage():
    found = samples(0, 2) + samples(2, 4, outcome="refused") + samples(4, 30) + samples(25, 25.1, outcome="failed")
    assert analysis.writes_back(found, ZERO + 2, ZERO + 20) == pytest.approx(2.02)
    assert analysis.figures(found, ZERO + 2, ZERO + 20, ZERO + 30)["failed_writes"] == 21


def test_the_cache_is_back_when_it_has_what_it_was_given_after_the_fault():
    def read(start: float, user: int, cache: str) -> Sample:
        return Sample(ZERO + start, 0.1, "uncached", "good", 200, user=user, cache=cache)

    found = [read(0, 1, "miss"), read(1.5, 1, "hit"), read(2, 2, "miss"), read(3, 2, "miss"), read(4, 2, "hit")]
    assert analysis.cache_back(found, ZERO + 1) == pytest.approx(3.1)
    assert analysis.cache_back(found[:4], ZERO + 1) is None


def test_figures_count_by_kind():
    found = [sample for kind in KINDS for sample in samples(0, 10, kind)]
    found += samples(4, 4.3, "cached", outcome="failed", why="closed", status=0)
    found += samples(4, 4.2, "create", outcome="refused", status=503, why="503 with Retry-After")
    found += [replace(sample, retried=True, attempts=1) for sample in samples(4, 4.5, "readonly")]
    found += [replace(samples(0, 1, "write")[0], start=ZERO + 5, took=2.5)]
    it = analysis.figures(found, ZERO + 3, ZERO + 6, ZERO + 10)
    assert (it["failed_reads"], it["failed_cached"], it["failed_readonly"], it["failed_writes"]) == (3, 3, 0, 0)
    assert (it["failed_creates"], it["failed_all"], it["refused"], it["retried"], it["reconnected"]) == (2, 5, 2, 5, 0)
    assert it["requests"] == 5 * 70 + 11
    assert (it["slowest"], it["stall"]) == (2.5, 2.5)
    assert it["gap"] < 0.2
    assert it["why"] == {"cached: closed": 3, "create: 503 with Retry-After": 2}
    assert json.loads(json.dumps(it)) == it


def test_limits():
    assert analysis.Limit("stall", 2).holds(2)
    assert not analysis.Limit("stall", 2).holds(2.1)
    assert not analysis.Limit("stall", 2).holds(None)
    assert analysis.Limit("writes_back", 25, worst=30).holds(29)
    assert not analysis.Limit("writes_back", 25, worst=30).holds(31)


# The load.


def test_the_mix_is_even():
    assert {kind: PATTERN.count(kind) for kind in KINDS} == {
        "cached": 9,
        "uncached": 2,
        "readonly": 5,
        "write": 3,
        "create": 1,
    }
    assert set(READS) | set(WRITES) == set(KINDS)


def test_people_are_read_from_the_cache_only_while_they_are_in_it():
    people = People([1, 2, 3])
    assert people.cached(0) is None
    assert [people.other() for _ in range(4)] == [3, 2, 1, 3]
    people.missed(3, 10.0)
    # Asked for again soon, to see whether the cache took it.
    assert people.cached(10.3) == 3
    people.missed(2, 20.0)
    assert people.cached(20.3) == 2
    assert {people.cached(30.0) for _ in range(4)} == {2, 3}
    assert {people.cached(60.0) for _ in range(4)} == {2}
    assert people.cached(70.0) is None
    people.add(9)
    assert people.other() == 9


class Services(BaseHTTPRequestHandler):
    """Both example services as far as the load needs them, kept in `made`; `away` says what they answer instead."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    made: dict[str, list[dict]]
    cache: set[int]
    away: Callable[[str, str], tuple[int, dict[str, str]] | None]

    def _answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if away := type(self).away("GET", self.path):
            self._answer(away[0], {}, **away[1])
        elif self.path.startswith("/users?"):
            after = int(self.path.rpartition("=")[2])
            users = [user for user in self.made["users"] if user["id"] > after][:100]
            self._answer(200, {"users": users, "next": users[-1]["id"] if len(users) == 100 else None})
        elif self.path.startswith("/users/"):
            number = int(self.path.rpartition("/")[2])
            hit = number in self.cache
            self.cache.add(number)
            self._answer(200, self.made["users"][number - 1], **{"X-Cache": "hit" if hit else "miss"})
        else:
            self._answer(200, {"orders": self.made["orders"][-5:], "next": None})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if away := type(self).away("POST", self.path):
            self._answer(away[0], {}, **away[1])
            return
        kept = self.made[self.path[1:]]
        kept.append({"id": len(kept) + 1, **body})
        self._answer(201, kept[-1])

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def services():
    """Run the two services, and return their class and port."""
    kind = type("Kept", (Services,), {"made": {"users": [], "orders": []}, "cache": set(), "away": lambda *_: None})
    running = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield kind, running.server_address[1]
    running.shutdown()
    running.server_close()


def test_a_load_and_its_ledger(services, tmp_path):
    """Every kind comes at its rate, what was acknowledged is what there is, and what was refused is told apart."""
    kind, port = services
    load = Load(lambda: Client(["127.0.0.1"], port, None), ledger.Ledger(tmp_path / "ledger"), "r", rate=100)
    load.start()
    begin = load.now()
    time.sleep(2)
    kind.away = lambda method, path: (503, {"Retry-After": "2"} if method == "POST" else {})
    time.sleep(1)
    kind.away = lambda *_: None
    time.sleep(1)
    load.stop()
    load.check()
    expected = 100 * (load.now() - begin)

    of = {name: [sample for sample in load.samples if sample.kind == name] for name in KINDS}
    assert len(load.samples) == pytest.approx(expected, rel=0.3)
    assert len(of["write"]) == pytest.approx(len(load.samples) * 3 / 20, rel=0.2)
    assert {sample.outcome for name in WRITES for sample in of[name]} == {"good", "refused"}
    assert {sample.outcome for name in READS for sample in of[name]} == {"good", "failed"}
    assert {sample.cache for sample in of["cached"] if sample.outcome == "good"} == {"hit"}
    assert "miss" in {sample.cache for sample in of["uncached"]}
    assert analysis.cache_back(load.samples, begin) < 10

    entries = ledger.read(tmp_path / "ledger")
    made = {order["items"][0]["sku"]: order["id"] for order in kind.made["orders"]}
    assert {write.key: write.number for write in entries.acknowledged if write.kind == "write"} == made
    assert len([write for write in entries.acknowledged if write.kind == "create"]) == len(kind.made["users"])
    bad = [sample for sample in load.samples if sample.outcome != "good"]
    assert len(entries.failed) == len(bad) > 60
    assert {write.key for write in entries.unknown}.isdisjoint(made)


def test_a_wrong_answer_is_a_failure(services, tmp_path):
    kind, port = services
    load = Load(lambda: Client(["127.0.0.1"], port, None), ledger.Ledger(tmp_path / "ledger"), "r", rate=100)
    load.start()
    for user in kind.made["users"]:
        user["email"] = "somebody@example.com"
    edited = load.now()
    time.sleep(0.5)
    load.stop()
    reads = [sample for sample in load.samples if sample.kind in ("cached", "uncached") and sample.start > edited]
    assert {(sample.outcome, sample.why.split(":")[0]) for sample in reads if sample.user <= 400} == {
        ("failed", "wrong")
    }


def test_a_load_without_services_does_not_begin(tmp_path):
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
        load = Load(
            lambda: Client(["127.0.0.1"], port, None, timeout=0.3), ledger.Ledger(tmp_path / "ledger"), "r"
        )  # fmt: skip
        with pytest.raises(FailedError, match="connect"):
            load.start()


# Faults.


def test_faults_are_chosen_by_name_kind_and_pattern():
    assert faults.choose([]) == list(faults.CATALOGUE)
    names = [fault.name for fault in faults.choose(["power", "host-app", "switchover"])]
    assert names == ["host-app", "switchover-postgresql", "switchover-cache", "switchover-queue", "power"]
    assert [fault.name for fault in faults.choose(["*-etcd"])] == [
        "partition-etcd",
        "host-etcd",
        "kill-etcd",
        "hang-etcd",
    ]
    with pytest.raises(
        environment.RefusedError, match=r"there is no fault 'nonsense'; there are host-app, .*kinds host"
    ):
        faults.choose(["nonsense"])


def test_faults_have_names_of_their_own_and_limits_that_are_shown():
    names = [fault.name for fault in faults.CATALOGUE]
    assert len(names) == len(set(names))
    assert {limit.figure for fault in faults.CATALOGUE for limit in fault.limits} <= set(page.FIGURES)
    every = {"lost", "wrong"}
    assert [fault.name for fault in faults.CATALOGUE if not every <= {limit.figure for limit in fault.limits}] == []
    # Each daemon is killed and hangs.
    assert {f"{kind}-{name}" for kind in ("kill", "hang") for name in faults.DAEMONS} <= set(names)


def place(lab: bool = True, groups: dict[str, list[str]] | None = None, virtual: str = "10.77.0.10"):
    """Return an environment of made-up hosts, of the lab's full size by default."""
    groups = groups or {
        "loadbalancer": ["lb1", "lb2"],
        "app": ["app1", "app2", "app3"],
        "cache": ["cache1", "cache2", "cache3"],
        "sentinel": ["cache1", "cache2", "cache3"],
        "database": ["db1", "db2", "db3"],
        "etcd": ["db1", "db2", "db3"],
    }
    names = list(dict.fromkeys(name for members in groups.values() for name in members))
    address = {name: f"10.77.0.{number}" for number, name in enumerate(names, 11)}
    members = {group: [{"name": name, "address": address[name]} for name in its] for group, its in groups.items()}
    ports = {"https": 443, "etcd_client": 2379, "etcd_peer": 2380, "sentinel": 26379}
    described = {
        "lab": lab, "members": members, "ports": ports, "virtual": virtual, "engine": "haproxy", "authority": "",
        "services": ["users", "orders"], "power_off": "", "power_on": "",
    }  # fmt: skip
    return environment.Environment(Path("/x/inventory/staging"), Path("/x/reach"), described)


class Said(Fleet):
    """Hosts that note what they are told, and answer what they are to."""

    def __init__(self, where: environment.Environment, **answers: str) -> None:
        super().__init__(where)
        self.told: list[tuple[str, str]] = []
        self.answers = answers

    def try_run(self, host: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess:
        self.told.append((host, command))
        said = next((answer for word, answer in self.answers.items() if word in command), str(time.time()))
        return subprocess.CompletedProcess([], 0, said, "")

    def controller(self, host: str) -> str:
        return "10.77.0.1"


CLUSTER = json.dumps(
    [
        {"Cluster": "terrace", "Member": name, "Host": host, "Role": role, "State": state, "TL": 1}
        for name, host, role, state in [
            ("db1", "10.77.0.19", "Replica", "streaming"),
            ("db2", "10.77.0.20", "Leader", "running"),
            ("db3", "10.77.0.21", "Quorum Standby", "streaming"),
        ]
    ]
)
ETCD = json.dumps(
    [
        {"Endpoint": f"https://10.77.0.{19 + number}:2379", "Status": {"header": {"member_id": number}, "leader": 2}}
        for number in range(3)
    ]
)


def test_who_has_a_role_is_asked():
    fleet = Said(
        place(), patronictl=CLUSTER, etcdctl=ETCD, SENTINEL="10.77.0.17\n", oneline="2: eth0 inet 10.77.0.10/32"
    )
    assert fleet.primary() == "db2"
    assert fleet.replicas() == ["db3", "db1"]
    assert fleet.etcd_leader() == "db3"
    assert fleet.master("cache") == "cache2"
    with pytest.raises(HostError, match=r"10\.77\.0\.10 is on lb1 and lb2"):
        fleet.holder()
    assert Said(place(virtual="")).holder() == "lb1"
    # The leader of etcd is a fault of its own.
    assert str(faults.replica(fleet)) == "db1"
    assert faults.tier("database")(fleet).hosts == ("db1", "db3", "db2")


def test_what_an_environment_is_too_small_for_is_left_out():
    one = place(groups={group: ["solo"] for group in faults.CATALOGUE and place().described["members"]}, virtual="")
    fit = {fault.name for fault in faults.CATALOGUE if not fault.unfit(Said(one))}
    assert fit == {"kill-liveness", "hang-liveness", "power"}
    assert [fault.name for fault in faults.CATALOGUE if fault.unfit(Said(place()))] == []


def arranged(command: str) -> tuple[str, str]:
    """Return what a command on a host has systemd do later, and what it does after that."""
    before, found, after = command.partition(" sh -c ")
    assert found, command
    assert "systemd-run" in before
    assert "--on-active=60" in before
    heal, _, rest = after.partition("; date +%s.%N; ")
    return heal.strip('"'), rest


@pytest.mark.parametrize("fault", [fault for fault in faults.CATALOGUE if fault.held and not fault.heal], ids=str)
def test_the_mend_is_arranged_before_anything_is_broken(fault):
    """By the host itself, so that a harness that dies leaves nothing broken."""
    fleet = Said(place())
    fault.inject(fleet, faults.Target("db1", controller="10.77.0.1"))
    [(host, command)] = fleet.told
    heal, inject = arranged(command)
    assert host == "db1"
    assert heal
    assert inject
    undo = {
        "STOP": "CONT",
        "stop ": "start ",
        "nft -f": "delete table",
        "fallocate": "rm -f",
        "qdisc replace": "qdisc del",
    }
    assert [word for word in undo if word in inject] != []
    assert all(undo[word] in heal for word in undo if word in inject)
    parsed = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert parsed.stderr == ""


@pytest.mark.parametrize("fault", faults.choose(["kill"]), ids=str)
def test_commands_that_kill_parse(fault):
    fleet = Said(place())
    fault.inject(fleet, faults.Target("db1"))
    [(_, command)] = fleet.told
    assert command.endswith("date +%s.%N; kill -KILL $ids")
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_what_is_stopped_goes_on(tmp_path):
    """The command itself, with a systemd that waits a second."""
    (tmp_path / "systemd-run").write_text('#!/bin/sh\nset -eu\nshift 6\n(sleep 1; "$@") </dev/null >/dev/null 2>&1 &\n')
    (tmp_path / "systemd-run").chmod(0o755)
    with subprocess.Popen(["sleep", "30"]) as process:

        def state() -> str:
            return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

        command = f"ids={process.pid}; " + faults.held("kill -STOP $ids", "kill -CONT $ids || true")
        said = subprocess.run(
            ["sh", "-c", f"PATH={tmp_path}:$PATH; {command}"], capture_output=True, text=True, check=True
        )
        assert float(said.stdout) == pytest.approx(time.time(), abs=5)
        faults.wait(lambda: state() == "T", 5, "it stops", pause=0.05)
        faults.wait(lambda: state() == "S", 5, "it goes on", pause=0.05)
        process.kill()


def test_a_partition_leaves_the_controller_a_way_in():
    fleet = Said(place())
    faults.cut_off(fleet, faults.Target("db1", controller="10.77.0.1"))
    faults.cut_off_from_etcd(fleet, faults.Target("db1", controller="10.77.0.1"))
    every, etcd = (shlex.split(command.partition("printf %s ")[2])[0] for _, command in fleet.told)
    assert every.count("policy drop") == 2
    assert "ip saddr 10.77.0.1 accept" in every
    assert "ip daddr 10.77.0.1 accept" in every
    assert etcd.count("policy accept") == 2
    assert "tcp dport { 2379, 2380 } drop" in etcd
    assert every.count("{") == every.count("}")
    assert etcd.count("{") == etcd.count("}")


def test_a_disk_is_filled_only_where_it_is_a_volume_of_its_own():
    with pytest.raises(environment.RefusedError, match="root volume"):
        faults.data_volume(Said(place(), patronictl=CLUSTER, stat="/"))
    assert str(faults.data_volume(Said(place(), patronictl=CLUSTER, stat="/var/lib/postgresql"))) == "db2"


def test_power():
    """The lab's containers are cut off before they are killed; others as their environment says, or by their kernel."""
    off = Said(place()).power.off
    assert off.index("link set dev eth0 down") < off.index("kill {host}")
    assert "{{.State.Pid}}" in off
    fleet = Said(place(lab=False))
    fleet.cut_power("db1")
    assert "sysrq-trigger" in fleet.told[0][1]
    own = place(lab=False)
    own.described.update(power_off="test {host} = db1 && test {address} = 10.77.0.19", power_on="false")
    fleet = Said(own)
    fleet.cut_power("db1")
    assert fleet.told == []
    with pytest.raises(HostError, match="false: 1"):
        fleet.give_power("db1")


def test_a_clock_counts_as_far_as_it_can_be_true():
    now = time.time()
    assert Said(place(), true=str(now - 3600)).begin("db1", "true") == pytest.approx(now, abs=1)
    assert Said(place(), true=str(now + 3600)).begin("db1", "true") == pytest.approx(now, abs=1)


def test_two_primaries_are_seen():
    told = "1 1790000001.0\n2 1790000011.0\n3 1790000031.0\n4 1790000032.0"
    history = json.dumps([{"TL": 1, "Timestamp": "2020-01-01T00:00:00+00:00"}, {"TL": 2, "Timestamp": ZERO}])
    answers = {"history": history, "list": CLUSTER, "cat /run": told, "SELECT number": "1\n2\n3", "psql": ""}
    fleet = Said(place(), **answers)
    fleet.promotions = lambda: [ZERO - 9, ZERO + 25]
    found = checks.end_probe(fleet, "db1", ZERO + 10)
    assert found == {"inside": 3, "two_primaries": 2, "probe_lost": 1}
    # Without a change of roles there is but one.
    assert checks.end_probe(fleet, "db2", ZERO + 10)["two_primaries"] == 0


def test_status_is_read_from_json(monkeypatch):
    def make(code: int, said: str) -> None:
        done = subprocess.CompletedProcess([], code, said, "")
        monkeypatch.setattr(environment.subprocess, "run", lambda *words, **settings: done)

    make(0, '{"healthy": true, "problems": []}')
    assert environment.status(place()) == environment.Health(True, [])
    make(2, '{"healthy": false, "problems": ["db1 is not reached"]}')
    assert environment.status(place()) == environment.Health(False, ["db1 is not reached"])
    make(2, "make: *** no rule")
    with pytest.raises(environment.RefusedError, match="does not say how it is"):
        environment.status(place())


def test_it_has_to_be_confirmed_except_in_the_lab(monkeypatch):
    main = __import__("resilience.__main__", fromlist=["confirm"])
    main.confirm(place(lab=True), "", [])
    main.confirm(place(lab=False), "staging", [])
    monkeypatch.setattr("sys.stdin", None if sys.stdin is None else open("/dev/null"))  # noqa: SIM115
    for given in ("", "production"):
        with pytest.raises(environment.RefusedError, match="CONFIRM=staging"):
            main.confirm(place(lab=False), given, [])


def test_the_lab_is_described(lab, staging):
    told = lab.value("lb1", "topology_described")
    assert told["lab"] is True
    assert told["members"]["app"][0] == {"name": "app1", "address": "10.77.0.21"}
    assert {"users", "orders"} <= set(told["services"])
    assert told["authority"].endswith("/pki/ca.crt")
    assert staging.value("front1", "topology_described")["lab"] is False


# A session.


@pytest.fixture
def session(services, tmp_path, monkeypatch):
    """Run a session against the two services, on hosts that only note what they are told."""
    kind, port = services
    where = place()
    where.described.update(virtual="127.0.0.1", ports={"https": port})
    lines: list[str] = []
    monkeypatch.setattr(sessions.ssl, "create_default_context", lambda **_: None)
    monkeypatch.setattr(sessions, "BEFORE", 0.5)
    monkeypatch.setattr(sessions, "status", lambda _: environment.Health(True))

    def look(fleet: Fleet, entries: ledger.Entries, name: str) -> checks.Verdict:
        orders = [
            [
                item["sku"],
                order["id"],
                order["user_id"],
                quantity := item["quantity"],
                price := item["price_cents"],
                quantity * price,
            ]
            for order in kind.made["orders"]
            for item in order["items"]
        ]
        return checks.compare(
            entries, orders, [[u["email"], u["id"], u["name"], u["city"]] for u in kind.made["users"]]
        )

    monkeypatch.setattr(checks, "verify", look)
    with sessions.Session(where, Said(where), tmp_path / "run", rate=100, say=lines.append, settle=False) as running:
        yield kind, running, lines


def outage(kind: type, **settings: object) -> faults.Fault:
    """Return a fault by which writes are refused for half a second."""

    def inject(fleet: Fleet, target: faults.Target) -> float:
        kind.away = lambda method, path: (503, {"Retry-After": "2"}) if method == "POST" else None
        return time.time()

    def heal(fleet: Fleet, target: faults.Target) -> None:
        kind.away = lambda *_: None

    values = {
        "find": faults.first("app"),
        "inject": inject,
        "held": 0.5,
        "heal": heal,
        "watched": 1.0,
        "limits": (analysis.Limit("writes_back", 10), *faults.NOTHING_LOST),
    }
    return faults.Fault("outage", "host", "writes are refused", **(values | settings))


def test_a_fault_is_performed_measured_and_kept(session):
    kind, running, lines = session
    outcome = running.perform(outage(kind))
    assert outcome.passed, outcome
    assert outcome.target == "app1"
    assert outcome.begin < outcome.at < outcome.healed < outcome.end
    assert outcome.healed - outcome.at - 0.1 < outcome.figures["writes_back"] < 10
    assert outcome.figures["refused"] > 5
    assert outcome.figures["failed_reads"] == 0
    assert outcome.figures["acknowledged"] > 400
    assert lines[0] == "outage: writes are refused (app1)"
    assert "outage: passed" in lines
    # All of it can be read by somebody else at any time.
    results = json.loads((running.folder / "results.json").read_text())
    assert results["outcomes"][0]["passed"] is True
    kept = [Sample(**json.loads(line)) for line in (running.folder / "samples.jsonl").read_text().splitlines()]
    assert "writes are refused" in page.render(results, kept)
    events = [event["event"] for event in ledger.read(running.folder / "ledger.jsonl").events]
    assert events == ["run", "fault", "healed"]


def test_what_is_lost_is_told(session):
    kind, running, lines = session

    def forget(fleet: Fleet, target: faults.Target) -> None:
        kind.away = lambda *_: None
        kind.made["orders"][3]["items"] = []

    outcome = running.perform(outage(kind, heal=forget))
    assert not outcome.passed
    assert outcome.figures["lost"] == 1
    assert outcome.problems[0].startswith(f"lost: {running.name}-")
    assert "    lost is 1, and may be 0" in lines


def test_a_limit_that_is_exceeded_is_told(session):
    kind, running, lines = session
    outcome = running.perform(outage(kind, limits=(analysis.Limit("writes_back", 0.1), *faults.NOTHING_LOST)))
    assert not outcome.passed
    assert any(line.startswith("    writes_back is ") and line.endswith(", and may be 0.1") for line in lines), lines


def test_what_does_not_fit_is_left_out(session):
    kind, running, lines = session
    outcome = running.perform(outage(kind, needs={"app": 9}))
    assert outcome.skipped == "app has 3 of the 9 hosts that it takes"
    assert not outcome.passed
    assert lines == ["outage: SKIPPED: app has 3 of the 9 hosts that it takes"]


def test_all_is_seen_to_be_well_once_between_two_faults(session, monkeypatch):
    """Before the first, after each, and again where a run of site.yml came in between."""
    kind, running, _ = session
    asked = []
    monkeypatch.setattr(sessions, "status", lambda _: asked.append(1) or environment.Health(True))
    short = outage(kind, held=0.1, watched=0.1)
    for _ in range(2):
        running.perform(short)
    assert len(asked) == 3
    monkeypatch.setattr(checks, "unsettled", lambda _: [])
    running._settle = True
    for _ in range(2):
        running.perform(short)
    assert len(asked) == 6


def refuse(*words: object) -> None:
    """Refuse whatever it is."""
    raise environment.RefusedError("no")


def test_only_what_was_refused_before_anything_broke_is_left_out(session, monkeypatch):
    kind, running, _ = session
    assert running.perform(outage(kind, find=refuse)).skipped == "no"
    monkeypatch.setattr(checks, "unsettled", refuse)
    running._settle = True
    outcome = running.perform(outage(kind))
    assert (outcome.skipped, outcome.problems, outcome.passed) == ("", ["no"], False)
    # So is a status that says nothing: it is waited for, and then told.
    monkeypatch.setattr(sessions, "status", refuse)
    monkeypatch.setattr(sessions, "WELL", 0.1)
    outcome = running.perform(outage(kind))
    assert (outcome.skipped, outcome.at, outcome.passed) == ("", 0.0, False)
    assert outcome.problems == ["after 0.1 s still not well: no"]


def test_what_was_broken_is_mended_also_when_somebody_interrupts(session, monkeypatch):
    kind, running, _ = session
    mended = []

    def pass_time(seconds: float) -> None:
        if kind.away("POST", ""):
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "_pass_time", pass_time)
    with pytest.raises(KeyboardInterrupt):
        running.perform(outage(kind, heal=lambda fleet, target: mended.append(target.host)))
    assert mended == ["app1"]


# The report.


def made_up(skipped: bool = False) -> tuple[dict, list[Sample]]:
    """Return results and samples of a run with one fault, and one that was left out."""
    fault = faults.choose(["host-primary"])[0]
    found = [sample for kind in KINDS for sample in samples(0, 60, kind)]
    found += samples(10, 30, "write", outcome="refused", status=503, why="503 with <Retry-After>")
    at, healed, end = ZERO + 10, ZERO + 50, ZERO + 60
    it = analysis.figures(found, at, healed, end) | {"lost": 0, "wrong": 0, "well": 7.5, "acknowledged": 9}
    limits = [
        vars(limit) | {"value": it[limit.figure], "holds": limit.holds(it[limit.figure])} for limit in fault.limits
    ]
    outcome = {
        "fault": fault.name, "kind": fault.kind, "title": fault.title, "row": fault.row, "target": "db1", "begin": ZERO,
        "at": at, "healed": healed, "end": end, "figures": it, "limits": limits, "problems": ["site.yml: <db1> moved"],
        "skipped": "", "passed": False,
    }  # fmt: skip
    nothing = dict.fromkeys(outcome, "") | {"fault": "power", "skipped": "too small", "figures": {}, "passed": False}
    results = {"name": "r", "environment": "lab", "begun": ZERO, "ended": end, "rate": 50.0}
    return results | {"outcomes": [outcome, nothing]}, found


def test_the_page_needs_nothing_else_and_shows_what_happened():
    shown = page.render(*made_up())
    for outside in ("<script", "<link", "url(", "@import", "src=", "http"):
        assert outside not in shown.replace("http-equiv", ""), outside
    for word in (
        "host-primary",
        "the primary&#39;s host loses its power",
        "writes back after, s",
        "too small",
        "19.92",
    ):
        assert word in shown, word
    assert "503 with &lt;Retry-After&gt;" in shown
    assert "site.yml: &lt;db1&gt; moved" in shown
    drawings = [part.partition("</svg>")[0] + "</svg>" for part in shown.split("<svg")[1:]]
    assert len(drawings) == 2
    for drawing in drawings:
        tree = ElementTree.fromstring("<svg" + drawing)  # noqa: S314 (our own)
        kinds = [element.get("class") for element in tree.iter("rect")]
        assert {"good", "refused", "mark"} <= set(kinds)
        assert "failed" not in kinds


def test_a_page_of_nothing():
    results, _ = made_up()
    shown = page.render(results | {"outcomes": []}, [])
    assert "0 of 0" in shown


def test_a_fault_that_could_not_begin_is_shown():
    results, found = made_up()
    stuck = results["outcomes"][0] | {"fault": "host-balancer", "at": 0.0, "end": 0.0, "figures": {}, "limits": []}
    stuck |= {"passed": False, "problems": ["10.77.0.10 is on no balancer"]}
    shown = page.render(results | {"outcomes": [*results["outcomes"], stuck]}, found)
    assert "host-balancer: 10.77.0.10 is on no balancer" in shown
    assert " of 2<" in shown


def test_a_drawing_does_not_grow_with_the_run():
    day = [Sample(ZERO + number, 0.02, "cached", "good") for number in range(0, 86_400, 7)]
    drawing = page.Drawing(day, ZERO, ZERO + 86_400, [], ZERO).svg()
    assert drawing.count("<rect") < 400


def test_slices_keep_every_request():
    found = samples(0, 10) + samples(3, 4, outcome="failed")
    parts = page.slices(found, ZERO, ZERO + 10, 0.5)
    assert len(parts) == 20
    assert (sum(part.good for part in parts), sum(part.failed for part in parts)) == (100, 10)


def test_figures_for_the_documentation(tmp_path, monkeypatch):
    results, _ = made_up()
    for number, back in enumerate((20.0, 22.0, 29.0)):
        (tmp_path / str(number)).mkdir()
        results["outcomes"][0]["figures"]["writes_back"] = back
        (tmp_path / f"{number}/results.json").write_text(json.dumps(results))
    monkeypatch.setattr(document.bench, "commit", lambda: "abc")
    kept = document.gather(sorted(tmp_path.iterdir()))
    assert len(kept["faults"]["host-primary"]) == 3
    text = document.tables(json.loads(json.dumps(kept)))
    assert "| primary's host killed | writes back after, s | 22.00 / 29.00 | 25 (worst 30) | 3 | yes |" in text
    assert "| `host-primary` | the primary's host loses its power | 3 |" in text
    folder = sorted(tmp_path.iterdir())[0]
    assert len(document.gather([f"{folder}:host-*,kill-redis", folder])["faults"]["host-primary"]) == 2
    assert "host-primary" not in document.gather([f"{folder}:host-app"])["faults"]
    kept["faults"]["host-primary"][2]["writes_back"] = None
    assert "never in 1 of 3 | 25 (worst 30) | 3 | **no** |" in document.tables(kept)


def test_what_is_documented_was_measured():
    """The page is what the kept figures make of it; without any there is no table."""
    text = document.PAGE.read_text()
    between = text.partition(document.BEGIN)[2].partition(document.END)[0].strip()
    kept = document.KEPT
    assert between == (document.tables(json.loads(kept.read_text())) if kept.exists() else "")


def test_every_fault_is_documented():
    text = document.PAGE.read_text()
    kinds = {fault.kind for fault in faults.CATALOGUE}
    assert [kind for kind in kinds if f"`{kind}`" not in text] == []


@pytest.mark.parametrize(
    ("shown", "units"),
    [
        ("", {}),
        (
            "MainPID=7\nId=etcd.service\nInvocationID=a1\n\nMainPID=9\nId=patroni.service\nInvocationID=b2\n",
            {"etcd.service": "a1 7", "patroni.service": "b2 9"},
        ),
    ],
)
def test_a_host_may_run_none_of_the_daemons(monkeypatch, shown, units):
    monkeypatch.setattr(Fleet, "run", lambda self, host, command: shown)
    assert Fleet.units(Fleet.__new__(Fleet), "backup1") == units
