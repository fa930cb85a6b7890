"""A drained node's peers answer: no request fails when it goes, while it is out, and when it comes back."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import lab
from test_reboot import reboot

NODE = lab.NODES[1]


def drain(playbook, state: str, service: str = "", host: str = NODE) -> subprocess.CompletedProcess:
    """Run `make drain`'s playbook, or that of `make undrain`."""
    extra = {"drain_host": host, "drain_state": state, "drain_service": service, "drain_wait": 30, "drain_force": False}
    return playbook("playbooks/drain.yml", "--extra-vars", json.dumps(extra))


@contextlib.contextmanager
def under_load() -> Iterator[None]:
    """Ask by a balancer, and at the node itself as one does who does not know; read and write; nothing may fail."""
    loads = [
        lab.Load("lb1", "/users?limit=1", clients=2),
        lab.Load("lb1", "/orders?limit=1", clients=2),
        lab.Load(NODE, "/users?limit=1", port=lab.SERVICES["users"]["port"], clients=2),
        lab.writes("lb1"),
    ]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        yield
    for load in loads:
        assert load.good > 10, load
        assert not load.failed, f"{load.host} {load.path}: {load}"


def health(service: str) -> tuple[int, str]:
    """Return what the node's health port says of a service."""
    answer = lab.ask(NODE, f"/{service}", port=lab.PORTS["node_health"])
    return answer.status, answer.body.decode()


def served_by(service: str, path: str) -> set[str]:
    """Return who answers requests that are sent to the node."""
    port = lab.SERVICES[service]["port"]
    return {lab.ask(NODE, path, port=port).headers["x-served-by"] for _ in range(12)}


def test_peers_answer_for_one_service_over_a_reload_a_restart_and_a_reboot(hosts, playbook, everything_ready):
    host = hosts[NODE]
    with under_load():
        done = drain(playbook, "drained", "orders")
    assert done.returncode == 0, done.stdout
    assert f"{NODE} is drained of orders" in done.stdout
    for change in (None, "reload", "restart", "reboot"):
        if change == "reboot":
            reboot(host)
        elif change:
            host.run(f"systemctl {change} haproxy@node")
        lab.wait(lambda: health("users") == (200, "ready"), 60, f"{NODE} serves users")
        status, said = health("orders")
        assert (status, said.startswith("drained since 20")) == (503, True), (change, said)
        lab.wait(lambda: NODE not in served_by("orders", "/orders?limit=1"), 10, "peers answer")
        assert NODE in served_by("users", "/users?limit=1")
    with under_load():
        again = drain(playbook, "drained", "orders")
        back = drain(playbook, "serving", "orders")
    assert "changed=0 " in again.stdout, again.stdout
    assert f"{NODE} serves" in back.stdout, back.stdout
    assert health("orders") == (200, "ready")


def test_a_drained_node_may_be_restarted_and_is_told_by_status(hosts, playbook, everything_ready):
    with under_load():
        assert drain(playbook, "drained").returncode == 0
    status = playbook("playbooks/status.yml", "--extra-vars=status_format=table")
    assert status.returncode != 0
    assert "orders is drained since 20" in status.stdout
    assert f"make undrain HOST={NODE}" in status.stdout
    with lab.Load("lb1", "/users?limit=1", clients=2) as load, lab.writes("lb1") as writes:
        hosts[NODE].run("systemctl stop svc-users.target && sleep 2 && systemctl start svc-users.target")
        refused = drain(playbook, "serving", "orders")
        back = drain(playbook, "serving")
    assert "it is drained of all services; put all of them back" in refused.stdout, refused.stdout
    assert back.returncode == 0, back.stdout
    assert not load.failed, load
    assert not writes.failed, writes
    assert NODE in served_by("users", "/users?limit=1")


def test_the_last_node_is_not_drained(hosts, playbook, everything_ready):
    others = [node for node in lab.NODES if node != NODE]
    try:
        for node in others:
            assert drain(playbook, "drained", "users", node).returncode == 0
        refused = drain(playbook, "drained", "users")
        assert refused.returncode != 0
        assert "no peer is ready for users" in refused.stdout
        assert lab.ask("lb1", "/users?limit=1").status == 200
    finally:
        for node in others:
            drain(playbook, "serving", "users", node)


def test_who_is_no_app_node_is_refused(playbook):
    refused = drain(playbook, "drained", host="db1")
    assert refused.returncode != 0
    assert "Say which app node: HOST=app1|app2|app3" in refused.stdout
