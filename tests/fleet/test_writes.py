"""Writes that wait for the database: they hold no more than their part of each slot, and reads go on."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import lab

SECONDS = 10
# Of ASGI, see plugins/filter/sizing.py; with what a write waits for a place, and a slow machine's time.
BOUND = 16 * lab.SERVICES["users"]["workers"] * len(lab.NODES)
QUICK = 3 + 3

# Runs on a node, as postgres: has the pooler hold a database for a while, and let go whatever becomes of the test.
HOLD = r"""
import socket, struct, sys, time
database, seconds = sys.argv[1], float(sys.argv[2])
console = socket.socket(socket.AF_UNIX)
console.settimeout(20)
console.connect("/run/postgresql/.s.PGSQL.6432")
stream = console.makefile("rb")

def send(kind, body):
    console.sendall(kind + struct.pack("!i", len(body) + 4) + body)
    while (kind := stream.read(1)) != b"Z":
        body = stream.read(struct.unpack("!i", stream.read(4))[0] - 4)
        if kind == b"E":
            sys.exit(repr(body))
    stream.read(5)

send(b"", struct.pack("!i", 196608) + b"user\0pgbouncer\0database\0pgbouncer\0\0")
try:
    send(b"Q", f"PAUSE {database}\0".encode())
    time.sleep(seconds)
finally:
    send(b"Q", f"RESUME {database}\0".encode())
"""


def hold(host: lab.Host, database: str, seconds: float) -> None:
    """Have a node's pooler keep every query of a database waiting, as it does while PostgreSQL fails over."""
    host.run(f"cd / && sudo -u postgres python3 - {database} {seconds}", stdin=HOLD)


def write(balancer: str, begin: Barrier, keyed: bool) -> tuple[lab.Answer, float]:
    """Make a user, when all others begin too; return the answer and how long it took."""
    headers = {"Idempotency-Key": uuid.uuid4().hex} if keyed else {}
    begin.wait(30)
    start = time.monotonic()
    return lab.ask(balancer, "/users", "POST", lab.new_user(), headers), time.monotonic() - start


def test_reads_go_on_and_surplus_writes_are_told_to_come_back(hosts, everything_ready):
    balancer = lab.BALANCERS[0]
    # A pooler that has not reached PostgreSQL since it started lets nobody in while it holds: that is another matter.
    written = set()

    def all_have_written() -> bool:
        answer = lab.ask(balancer, "/users", "POST", lab.new_user())
        assert answer.status == 201, answer
        written.add(answer.headers["x-served-by"])
        return written == set(lab.NODES)

    lab.wait(all_have_written, 30, "every node has written", pause=0)
    known = lab.ask(balancer, "/users", "POST", lab.new_user()).headers["location"]
    assert [lab.ask(balancer, known).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
    many = BOUND + 80
    begin = Barrier(many)
    with (
        ThreadPoolExecutor(many + len(lab.NODES)) as pool,
        lab.Load(balancer, known, clients=2, pause=0.1) as cached,
        lab.Load(balancer, "/users?limit=1", clients=2, pause=0.1) as listed,
    ):
        held = [pool.submit(hold, hosts[node], "users", SECONDS) for node in lab.NODES]
        time.sleep(1)
        answers = [each.result() for each in [pool.submit(write, balancer, begin, n % 2 == 0) for n in range(many)]]
        for each in held:
            each.result()
    made = [took for answer, took in answers if answer.status == 201]
    surplus = [(answer, took) for answer, took in answers if answer.status != 201]
    assert {answer.status for answer, _ in surplus} == {503}, [answer for answer, _ in surplus]
    assert all(int(answer.headers["retry-after"]) > 0 for answer, _ in surplus)
    assert max(took for _, took in surplus) < QUICK
    assert len(surplus) >= many - BOUND
    # Those that had a place waited, and none of them was lost.
    assert made
    assert max(made) > SECONDS / 2
    for load in (cached, listed):
        assert not load.failed, load
        assert load.good > 50, load
        assert load.worst < QUICK, load
    assert lab.ask(balancer, "/users", "POST", lab.new_user()).status == 201
