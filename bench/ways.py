"""Parts `ways`, `cache`, `compression` and `connections`: what a request's way costs, from the client to the worker.

Every way leads to the same workers of one node: straight to their socket, through the node proxy, and through the node
proxy behind each engine. Ways take turns within a round, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import load
import results
import stack
from stack import NODE, lab

USERS, ORDERS = 100_000, 1_000_000
CACHED = [f"/users/{number}" for number in range(1, 101)]
ORDER = {"user_id": 1, "items": [{"sku": "BENCH-1", "quantity": 2, "price_cents": 1250}]}


@dataclass(frozen=True)
class Route:
    """What is asked for: a service, the paths in turn, and a body where it is a POST."""

    service: str
    paths: list[str]
    body: str = ""


def routes() -> dict[str, Route]:
    """Return what is measured, by name; which orders are read is drawn anew each time."""
    orders = [f"/orders/{random.randint(1, ORDERS)}" for _ in range(5000)]  # noqa: S311 (no secret)
    return {
        "trivial": Route("users", ["/healthz"]),
        "cached read": Route("users", CACHED),
        "uncached read": Route("orders", orders),
        "write": Route("orders", ["/orders"], json.dumps(ORDER)),
    }


def seconds() -> float:
    """Return about how long one load lasts: SECONDS of the environment, 4 by default."""
    given = float(os.environ.get("SECONDS", "4"))
    if not 1 <= given <= 60:
        raise SystemExit(f"bench: SECONDS is {given:g}; has to be from 1 to 60")
    return given


@dataclass(frozen=True)
class Way:
    """A way to the workers of NODE.

    name: worker, node, or an engine. hops: the units that a request passes, as (what it is called, host, unit).
    """

    name: str
    place: load.Place
    hops: tuple[tuple[str, str, str], ...]


def ways(service: str, engines: dict[str, str]) -> list[Way]:
    """Return the ways to a service, the shortest first.

    Parameters:
        service: its name.
        engines: the balancer host of each engine.
    """
    slot = lab.Host(NODE).live_slot(service)
    worker = ("worker", NODE, f"svc-{service}@{slot}")
    node = ("node", NODE, "haproxy@node")
    found = [
        Way("worker", load.Place("http://localhost", stack.socket_of(service)), (worker,)),
        Way("node", load.Place(f"http://{lab.ADDRESSES[NODE]}:{lab.SERVICES[service]['port']}"), (node, worker)),
    ]
    for engine, host in engines.items():
        balancer = ("balancer", host, f"{engine}@lb")
        found.append(Way(engine, load.Place(f"https://{lab.ADDRESSES[host]}"), (balancer, node, worker)))
    return found


def used(way: Way) -> dict[str, float]:
    """Return the seconds of processor time that each hop of a way has used so far."""
    found = {}
    for host in dict.fromkeys(host for _, host, _ in way.hops):
        units = {unit: name for name, at, unit in way.hops if at == host}
        found |= {units[unit]: spent for unit, spent in stack.processor(host, list(units)).items()}
    return found


def one(
    way: Way, route: Route, connections: int, headers: dict | None = None, lists: list | None = None, good: bool = True
) -> dict:
    """Measure a route on a way once.

    Parameters:
        way: the way.
        route: the route.
        connections: how many clients there are, each with a connection that it keeps.
        headers: further headers.
        lists: paths for several h2load processes, instead of the route's.
        good: whether anything but a 2xx is an error; otherwise it is counted.
    Returns:
        `rate` per second, `p50` and `p99` in ms, `bad` answers, and `cpu`: microseconds a request by hop.
    """
    given = dict(headers or {}) | ({"Content-Type": "application/json"} if route.body else {})
    before = used(way)
    seen = load.run(way.place, lists or [route.paths], connections, seconds(), given, route.body)
    cpu = {hop: (spent - before[hop]) / max(seen.answers, 1) * 1e6 for hop, spent in used(way).items()}
    if good:
        load.all_good(seen, f"{way.name} {route.service}")
    bad = sum(count for status, count in seen.statuses.items() if not status.startswith("2"))
    return {"rate": seen.rate, "p50": seen.p50, "p99": seen.p99, "bad": bad, "cpu": cpu}


class Rows:
    """What several rounds saw, a row for each combination of labels."""

    def __init__(self) -> None:
        self._rows: dict[tuple, dict] = {}

    def add(self, seen: dict, **labels: object) -> None:
        """Add one round's figures to the row with these labels, and say them."""
        row = self._rows.setdefault(tuple(labels.items()), {**labels, "rounds": []})
        row["rounds"].append(seen)
        shown = ", ".join(str(value) for value in labels.values())
        results.say(f"{shown}: {seen['rate']:.0f}/s, p50 {seen['p50']:.1f} ms, p99 {seen['p99']:.1f} ms")

    def list(self) -> list[dict]:
        """Return the rows, in the order in which they came first."""
        return list(self._rows.values())


@contextmanager
def front() -> Iterator[dict[str, str]]:
    """Have each engine on a balancer of its own, and every route warm; put the balancers back at the end.

    Returns:
        The balancer host of each engine.
    """
    # A load of 1,000 clients opens as many connections.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000), hard))
    with stack.one_node() as found:
        lab.wait_until_ready(timeout=90)
        for name, route in routes().items():
            for way in ways(route.service, found):
                load.all_good(load.run(way.place, [route.paths], 32, 2, *_post(route)), f"{way.name} {name}")
        yield found


def _post(route: Route) -> tuple[dict, str]:
    return ({"Content-Type": "application/json"}, route.body) if route.body else ({}, "")


def fill() -> None:
    """Load the large data set where it is not there, and keep how long that took."""
    port = lab.SERVICES["orders"]["port"]
    if lab.ask(NODE, f"/orders/{ORDERS}", port=port).status == 200:
        return
    results.say(f"loading {USERS:,} users and {ORDERS:,} orders")
    taken = {
        "users": stack.load("users", f"python -m users.load --count {USERS}"),
        "orders": stack.load("orders", f"python -m orders.load --count {ORDERS} --users {USERS}"),
    }
    results.save("data", results.command("data"), {"counts": {"users": USERS, "orders": ORDERS}, "seconds": taken})


def measure_ways(engines: dict[str, str], connections: int = 32) -> dict:
    """Return rate, latency and processor time of each route on each way."""
    rows = Rows()
    for number in range(results.rounds()):
        for name, route in routes().items():
            found = ways(route.service, engines)
            for way in found[number % len(found) :] + found[: number % len(found)]:
                rows.add(one(way, route, connections), route=name, way=way.name)
    return {
        "connections": connections,
        "seconds": seconds(),
        "rows": in_order(rows.list(), engines),
        "services": served(),
    }


def in_order(rows: list[dict], engines: dict[str, str]) -> list[dict]:
    """Return rows with the ways of each route from the shortest to the longest; rounds began with another each."""
    order = ["worker", "node", *engines]
    names = list(dict.fromkeys(row["route"] for row in rows))
    return sorted(rows, key=lambda row: (names.index(row["route"]), row.get("connections", 0), order.index(row["way"])))


def served() -> dict[str, str]:
    """Return by what each service is served on NODE: server and workers."""
    return {
        name: f"{service.get('server', 'gunicorn')}, {service.get('workers', 'auto')} workers"
        for name, service in lab.SERVICES.items()
        if name in ("users", "orders")
    }


def measure_cache(engines: dict[str, str]) -> dict:
    """Return the same route with users that the cache has, and with users that nobody asked for.

    Eight clients, each an h2load of its own with ids of its own, so that no two ask for the same user at once.
    """
    clients, each = 8, 1500
    # A user that was asked for stays in the cache for a minute; so every load has ids of its own.
    ids = iter(random.sample(range(1001, USERS), USERS - 1001))
    rows = Rows()
    chosen = [way for way in ways("users", engines) if way.name != "node"]
    for _ in range(min(results.rounds(), (USERS - 1001) // (clients * each * len(chosen)))):
        for way in chosen:
            fresh = [[f"/users/{next(ids)}" for _ in range(each)] for _ in range(clients)]
            for name, lists in (("hit", [CACHED] * clients), ("miss", fresh)):
                rows.add(one(way, Route("users", []), clients, lists=lists), route=name, way=way.name)
    return {"connections": clients, "seconds": seconds(), "rows": in_order(rows.list(), engines)}


def measure_compression(engines: dict[str, str], connections: int = 16) -> dict:
    """Return bytes, rate and processor time of a hundred orders as JSON, plain and compressed."""
    path = f"/orders?limit=100&after={ORDERS // 2}"
    rows, sizes = Rows(), {}
    for _ in range(results.rounds()):
        for way in ways("orders", engines)[2:]:
            for encoding in ("identity", "gzip"):
                headers = {"Accept-Encoding": encoding}
                answer = lab.ask(engines[way.name], path, headers=headers)
                if answer.headers.get("content-encoding", "identity") != encoding:
                    raise load.LoadError(f"{way.name}: asked for {encoding}, got {answer.headers}")
                sizes[f"{way.name} {encoding}"] = len(answer.body)
                seen = one(way, Route("orders", [path]), connections, headers)
                rows.add(seen, route=encoding, way=way.name)
    found = in_order(rows.list(), engines)
    for row in found:
        row["bytes"] = sizes[f"{row['way']} {row['route']}"]
    return {"connections": connections, "seconds": seconds(), "path": path, "rows": found}


def measure_connections(engines: dict[str, str]) -> dict:
    """Return a cached and an uncached read with 10, 100 and 1,000 clients, the node proxy alone left out to save time.

    What fails is counted.
    """
    rows = Rows()
    for _ in range(results.rounds()):
        for connections in (10, 100, 1000):
            for name in ("cached read", "uncached read"):
                route = routes()[name]
                for way in (way for way in ways(route.service, engines) if way.name != "node"):
                    try:
                        seen = one(way, route, connections, good=False)
                    except load.LoadError as error:
                        results.say(f"nothing measured: {error}")
                        continue
                    rows.add(seen, route=name, connections=connections, way=way.name)
                # What a crowd left in the queues of workers is not the next way's.
                time.sleep(1)
    return {"seconds": seconds(), "rows": in_order(rows.list(), engines)}
