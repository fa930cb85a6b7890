"""Part `edge`: what visitors wait who are 80 ms away, with and without an edge; and answers a second, kept and not."""

from __future__ import annotations

import http.client
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import load
import results
import stack
from stack import lab

MILLISECONDS = 80
RELAY = results.ROOT / "bench/relay.py"
FAR = ("127.0.0.1", 18443)
HOST = "httpbin.lab"
# The same page, kept and not: with a session it is the service's.
PATH, OWN = "/uuid", {"Cookie": "session=1"}


@contextmanager
def far_away(edge: str) -> Iterator[None]:
    """Have the load balancers far away from an edge host and from visitors on this machine; put all back at the end."""
    there = f"{lab.VIRTUAL}:443"
    host = lab.Host(edge)
    host.run("cat >/run/bench-relay.py", stdin=RELAY.read_text())
    words = f"python3 /run/bench-relay.py 127.0.0.2:443 {there} {MILLISECONDS}"
    visitor = subprocess.Popen([sys.executable, RELAY, f"{FAR[0]}:{FAR[1]}", there, str(MILLISECONDS)])
    try:
        host.run(f"systemd-run --quiet --unit=bench-relay {words}")
        stack.ansible(
            "ansible-playbook", "playbooks/edge.yml", f"--limit={edge}", variables={"edge_origins": ["127.0.0.2"]}
        )
        yield
    finally:
        visitor.terminate()
        stack.ansible("ansible-playbook", "playbooks/edge.yml", f"--limit={edge}")
        host.run("systemctl stop bench-relay || true")


def waits(address: str, port: int, headers: dict[str, str], new: bool, times: int = 20) -> list[float]:
    """Return the milliseconds of requests one after the other, on new connections or on one that is kept."""
    context = lab.tls()
    context.check_hostname = False
    found, connection = [], None
    for _ in range(times + 1):
        start = time.perf_counter()
        if new or connection is None:
            connection = http.client.HTTPSConnection(address, port, context=context, timeout=20)
        connection.request("GET", PATH, headers={"Host": HOST} | headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise load.LoadError(f"{address} answered {answer.status}")
        found.append((time.perf_counter() - start) * 1000)
        if new:
            connection.close()
    # The first one of a connection that is kept opens it.
    return found[1:]


def rate(place: str, headers: dict[str, str]) -> float:
    """Return answers a second over HTTP/1.1 on 16 kept connections, for about three seconds."""
    words = ["h2load", "--h1", "--clients=16", f"--connect-to={lab.ADDRESSES[place]}:443"]
    words += [f"--header={name}: {value}" for name, value in headers.items()]
    words += ["--requests=6000", f"https://{HOST}{PATH}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    if not re.search(r"status codes: 6000 2xx", done.stdout):
        raise load.LoadError(f"{place} did not answer all: {done.stdout}")
    return float(re.search(r", ([\d.]+) req/s", done.stdout)[1])


def measure() -> dict:
    """Return what visitors wait, and answers a second.

    Returns:
        `milliseconds` of a way there and back; `waits`, rows of `way` (far, edge), `kept` (the answer), `new` (the
        connection) and `rounds` of median milliseconds; `rates`, rows of `place`, `kept` and `rounds` a second.
    """
    edge, balancer = lab.GROUPS["edge"][-1], lab.BALANCERS[0]
    waited: dict[tuple, list[float]] = {}
    rates: dict[tuple, list[float]] = {}
    ways = {"far": FAR, "edge": (lab.ADDRESSES[edge], 443)}
    with far_away(edge):
        for _ in range(results.rounds()):
            for way, (address, port) in ways.items():
                for kept in (True, False):
                    for new in (True, False):
                        seen = statistics.median(waits(address, port, {} if kept else OWN, new))
                        waited.setdefault((way, kept, new), []).append(seen)
                        results.say(f"{way}, {'kept' if kept else 'own'}, {'new' if new else 'kept'}: {seen:.1f} ms")
    for _ in range(results.rounds()):
        for place in (edge, balancer):
            for kept in (True, False):
                rates.setdefault((place, kept), []).append(rate(place, {} if kept else OWN))
    return {
        "milliseconds": MILLISECONDS,
        "waits": [{"way": w, "kept": k, "new": n, "rounds": seen} for (w, k, n), seen in waited.items()],
        "rates": [{"place": place, "kept": kept, "rounds": seen} for (place, kept), seen in rates.items()],
    }
