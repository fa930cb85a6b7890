"""Part `poolers`: 1,000 client connections through the poolers of the app nodes, beside as many straight to PostgreSQL.

Each node has its share of the clients, as it has of a service's workers. They stay connected and ask for an order about
once a second. Straight to PostgreSQL, those beyond `max_connections` are refused: of all clients, others that come
meanwhile included, for as long as this lasts. So a third way is measured, through the poolers with only as many
clients as PostgreSQL had room for.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import results
import stack
from stack import lab

CLIENTS = 1000
SERVICE = "orders"
CA_FILE = "/etc/terrace/pki/ca.crt"
# All of them agree on TLS and passwords first; SECONDS of other parts would be too short to ask often.
CONNECT_SECONDS = 40
ASK_SECONDS = 20
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = 'orders'"


def shares(count: int, nodes: int) -> list[int]:
    """Return how many clients each of some nodes has; they differ by one at most."""
    return [count // nodes + (number < count % nodes) for number in range(nodes)]


def together(told: Iterable[dict], seconds: float) -> dict:
    """Return what the clients of all nodes saw, as one.

    Parameters:
        told: what clients.py printed on each.
        seconds: how long they asked.
    Returns:
        `connected` clients, `refused` and `failed` ones by reason, `rate` of answers a second, `p50` and `p99` in ms;
        these two are None where fewer than ten were answered.
    """
    told = list(told)
    took = [each for its in told for each in its["took_ms"]]
    cut = statistics.quantiles(took, n=100, method="inclusive") if len(took) >= 10 else []
    return {
        "connected": sum(its["connected"] for its in told),
        "refused": dict(sum((Counter(its["refused"]) for its in told), Counter())),
        "failed": dict(sum((Counter(its["failed"]) for its in told), Counter())),
        "rate": len(took) / seconds,
        "p50": cut[49] if cut else None,
        "p99": cut[98] if cut else None,
    }


def command(count: int, begin: float, server: Iterable[str]) -> str:
    """Return what runs clients.py, which comes by its standard input, on a node: in the live release, as its user."""
    unit = f"systemd-run --quiet --wait --pipe --collect --property=User=svc-{SERVICE} --property=LimitNOFILE=4096"
    environment = f"--property=EnvironmentFile=/etc/terrace/services/{SERVICE}/service.env"
    words = " ".join([str(count), f"{begin:.1f}", str(ASK_SECONDS), *server])
    return f"{unit} {environment} /usr/local/bin/terrace-in-release /srv/terrace/{SERVICE}/live python - {words}"


def loaded(count: int, server: Iterable[str] = ()) -> dict:
    """Return what so many clients saw, and what they cost the primary's host half-way: sessions and memory."""
    script = (Path(__file__).parent / "clients.py").read_text()
    primary, begin = lab.primary(), time.time() + CONNECT_SECONDS
    told: list[dict] = []

    def run(node: str, share: int) -> None:
        longest = CONNECT_SECONDS + ASK_SECONDS + 60
        told.append(json.loads(lab.Host(node).run(command(share, begin, server), stdin=script, timeout=longest)))

    each = [(node, share) for node, share in zip(lab.NODES, shares(count, len(lab.NODES)), strict=True) if share]
    threads = [threading.Thread(target=run, args=its) for its in each]
    before = stack.memory(primary.name, "patroni")
    for thread in threads:
        thread.start()
    time.sleep(max(begin + ASK_SECONDS / 2 - time.time(), 0))
    sessions = int(lab.sql(primary, SESSIONS))
    memory = stack.memory(primary.name, "patroni")
    for thread in threads:
        thread.join()
    assert len(told) == len(each), "a node's clients did not come to their end; what it said stands above"
    found = together(told, ASK_SECONDS)
    return found | {"asked": count, "sessions": sessions, "memory_mb": memory, "more_mb": memory - before}


def measure() -> dict:
    """Measure the part, and wait until every service is ready again: it may have found no connection meanwhile."""
    primary = lab.primary()
    allowed = int(lab.sql(primary, "SHOW max_connections"))
    server = (lab.ADDRESSES[primary.name], str(lab.PORTS["postgresql"]), CA_FILE)
    rows: dict[str, list[dict]] = {"poolers": [], "direct": [], "poolers, as many": []}
    try:
        for _ in range(results.rounds()):
            rows["poolers"].append(loaded(CLIENTS))
            rows["direct"].append(loaded(CLIENTS, server))
            rows["poolers, as many"].append(loaded(max(rows["direct"][-1]["connected"], len(lab.NODES))))
            for name, found in rows.items():
                its = found[-1]
                shown = f"{its['connected']} of {its['asked']} connected, {its['rate']:.0f}/s"
                results.say(f"{name}: {shown}, {its['sessions']} server connections, {its['memory_mb']:.0f} MB")
    finally:
        lab.wait_until_ready(timeout=90)
    return {
        "clients": CLIENTS,
        "nodes": len(lab.NODES),
        "seconds": ASK_SECONDS,
        "max_connections": allowed,
        "rows": [{"way": name, "rounds": its} for name, its in rows.items()],
    }
