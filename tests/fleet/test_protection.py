"""What balancers hold clients to: requests of a route, counted together where the engine can, and in any spelling."""

from __future__ import annotations

import time

import lab

HTTPBIN = {"Host": "httpbin.lab"}
# As services/httpbin.yml has it.
REQUESTS, SECONDS = 5, 5
SPELT = [
    "/anything/limited",
    "//anything/limited/x",
    "/ANYTHING/limited",
    "/anything/%6cimited",
    "/anything;a=b/limited/",
]


def test_a_limit_holds_on_all_balancers_and_its_answer_says_when_to_come_back(engine):
    asked = [lab.ask(name, path, headers=HTTPBIN) for path in SPELT * 2 for name in lab.BALANCERS]
    passed = [answer for answer in asked if answer.status != 429]
    # One that nginx lets in meanwhile, where it counts one after the other.
    most = {"haproxy": REQUESTS, "nginx": (REQUESTS + 1) * len(lab.BALANCERS)}[engine.name]
    assert REQUESTS <= len(passed) <= most
    refused = next(answer for answer in asked if answer.status == 429)
    assert refused.json() == {"error": "too many requests"}
    # Another path is not held back by it.
    assert lab.ask(lab.BALANCERS[0], "/anything/limitedx", headers=HTTPBIN).status == 200
    time.sleep(int(refused.headers["retry-after"]))
    assert [lab.ask(name, SPELT[0], headers=HTTPBIN).status for name in lab.BALANCERS] == [200, 200]


def test_what_was_counted_outlives_a_reload(engine, hosts):
    """nginx keeps it, too, and has let one more in by then: its reload drains for longer than the limit is."""
    name = lab.BALANCERS[0]
    time.sleep(SECONDS)
    answers = [lab.ask(name, SPELT[0], headers=HTTPBIN).status for _ in range(REQUESTS + 2)]
    assert answers[-1] == 429
    hosts[name].run(f"systemctl reload {engine.unit}")
    if engine.name == "haproxy":
        assert lab.ask(name, SPELT[0], headers=HTTPBIN).status == 429


def test_only_the_other_balancer_reads_what_was_counted(engine, hosts):
    """From elsewhere the connection is closed before a certificate is asked for."""
    port = lab.PORTS["limits"]
    listening = hosts[lab.BALANCERS[0]].run("ss --listening --tcp --numeric --no-header")
    assert (f"{lab.ADDRESSES[lab.BALANCERS[0]]}:{port}" in listening) == (engine.name == "haproxy")
    if engine.name == "haproxy":
        shown = f"curl --silent --insecure --max-time 5 https://{lab.ADDRESSES[lab.BALANCERS[0]]}:{port}/"
        assert hosts[lab.NODES[0]].try_run(shown).returncode in (7, 35, 56)
