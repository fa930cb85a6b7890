"""Hostile requests through real balancers and node proxies, to what notes what a service would have got."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import lab

sys.path.insert(0, str(lab.ROOT / "tests/hostile"))

import cases
import judge
import trial
import wire

RECORDER = (lab.ROOT / "tests/hostile/recorder.py").read_text()
SERVICE, NAME, UNIT, FILES = "httpbin", "httpbin.lab", "hostile-recorder", "/run/hostile"


def slot(hosts, node: str) -> str:
    """Return the socket of the slot that is live on a node."""
    return f"/run/terrace/{SERVICE}/{hosts[node].live_slot(SERVICE)}.sock"


@pytest.fixture
def recorded(hosts, everything_ready):
    """Have a recorder in the place of a service on all nodes; return a function that returns what reached it.

    The service runs on, at a socket with another name. A reload makes the proxies give up the connections to it.
    """
    sockets = {node: slot(hosts, node) for node in lab.NODES}
    for node, socket in sockets.items():
        hosts[node].run(
            f"mkdir -p {FILES} && cat >{FILES}/recorder.py && : >{FILES}/log && mv {socket} {socket}.away"
            f" && systemd-run --quiet --collect --unit={UNIT} python3 {FILES}/recorder.py {FILES}/log {socket}",
            stdin=RECORDER,
        )
    try:
        for node, socket in sockets.items():
            lab.wait(lambda: hosts[node].try_run(f"test -S {socket}").returncode == 0, 10, "the recorder listens")
            hosts[node].run("systemctl reload haproxy@node")
        yield lambda: {
            (node, *key): stream
            for node in lab.NODES
            for key, stream in judge.connections(hosts[node].run(f"cat {FILES}/log")).items()
        }
    finally:
        for node, socket in sockets.items():
            hosts[node].try_run(f"mv {socket}.away {socket}; systemctl stop {UNIT}; rm -rf {FILES}")


def test_none_reaches_a_service_in_a_harmful_form(engine, recorded):
    """By a load balancer, and by an edge host that asks the load balancers."""
    places = [lab.BALANCERS[0], lab.GROUPS["edge"][0]]

    def send(place: str) -> list[trial.Result]:
        return trial.send(wire.Target(lab.ADDRESSES[place], lab.PORTS["https"], NAME, lab.AUTHORITY), cases.ALL, 24)

    with ThreadPoolExecutor() as pool:
        results = dict(zip(places, pool.map(send, places), strict=True))
    # All have outlived them.
    assert [lab.ask(place, "/get", headers={"Host": NAME}).status for place in places] == [200, 200]
    time.sleep(0.5)
    assert trial.told([result for place in places for result in results[place]], recorded(), lab.GATEWAY) == []
    assert [f"{place}: {result}" for place in places for result in results[place] if result.harm] == []
    # It is not that nothing does.
    for place in places:
        arrived = {result.case.name for result in results[place] if result.arrived}
        assert {"a body of a GET", "forged X-Forwarded-*", "h2: another scheme"} <= arrived, place
