"""Changed settings reach the fleet by site.yml: under load, one node at a time; what breaks one node stops there."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator

import lab
from test_services import processes, unit, workers

OTHER = {"blue": "green", "green": "blue"}
MARK = f"mark-{time.time_ns()}"
# What the settings concern; the rest of the landscape is not this test's.
TAGS = ("--tags=pki,haproxy,python_service", "--limit=loadbalancer,app")
LOADS = (
    ("lb1", "/users?limit=1", {}, None),
    ("lb2", "/orders?limit=1", {}, None),
    ("lb2", "/status/200", {"Host": "httpbin.lab"}, None),
    # At a node itself, where no balancer tries again.
    ("app1", "/users?limit=1", {}, lab.SERVICES["users"]["port"]),
)


def changed(**services: dict) -> str:
    """Return the extra variables that give services other settings; the rest stays as the environment says."""
    return json.dumps({"services": {name: dict(own or {}) | services.get(name, {}) for name, own in lab.OWN.items()}})


SETTINGS = changed(
    users={
        "workers": 3,
        "environment": {"MARK": MARK},
        "routes": [*lab.SERVICES["users"]["routes"], {"path": "/people", "strip": True}],
    },
    httpbin={"timeout": {"request": 4, "stop": 30}},
)


@contextlib.contextmanager
def under_load() -> Iterator[None]:
    """Ask each service by a load balancer all the while, and one at a node itself, and find every answer good."""
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(lab.Load(host, path, port=port, clients=2, headers=headers, longest=900, pause=0.3))
            for host, path, headers, port in LOADS
        ]
        yield
    for load in loads:
        assert not load.failed, f"{load.host} {load.path}: {load}"
        assert load.good > 100, load


def recap(done: subprocess.CompletedProcess) -> dict[str, int]:
    """Return how many changes a run made, by host."""
    assert done.returncode == 0, done.stdout[-4000:]
    found = {host: int(count) for host, count in re.findall(r"(?m)^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout)}
    assert found, done.stdout[-1000:]
    return found


def certificate(host: str) -> bytes:
    """Return the certificate that a load balancer shows."""
    with lab.tls().wrap_socket(
        socket.create_connection((lab.ADDRESSES[host], lab.PORTS["https"]), timeout=10), server_hostname=host
    ) as connection:
        return connection.getpeercert(binary_form=True)


def times_of(host: lab.Host, name: str, what: str) -> list[float]:
    """Return when systemd said that a unit was Started or Stopped, in seconds; the lab's hosts share a clock."""
    shown = host.try_run(f"journalctl --unit={name} --grep='^{what} ' --output=short-unix --no-pager --quiet").stdout
    return [float(line.split()[0]) for line in shown.splitlines()]


def environment_of(host: lab.Host, service: str) -> dict[str, str]:
    """Return the environment that the live slot of a service was started with."""
    main = processes(host, unit(host, service))[0]
    lines = host.run(f"tr '\\0' '\\n' </proc/{main}/environ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_changed_settings_reach_every_node_and_fail_no_request(hosts, playbook):
    before = {(node, service): hosts[node].live_slot(service) for node in lab.NODES for service in lab.SERVICES}
    shown = {balancer: certificate(balancer) for balancer in lab.BALANCERS}
    with under_load():
        # Longer than a certificate is good for: each is renewed.
        done = playbook("site.yml", *TAGS, "--extra-vars", SETTINGS, "--extra-vars", '{"pki_renew_days": 731}')
    assert set(recap(done)) >= {*lab.NODES, *lab.BALANCERS}

    flips = {}
    for node in lab.NODES:
        host = hosts[node]
        flipped = {service for service in lab.SERVICES if host.live_slot(service) != before[node, service]}
        assert flipped == {"users", "httpbin"}, node
        assert len(workers(host, unit(host, "users"))) == 3, node
        assert environment_of(host, "users")["MARK"] == MARK, node
        assert f"MARK={MARK}" in host.run("cat /etc/terrace/services/users/service.env").replace('"', ""), node
        assert host.show(f"svc-users@{before[node, 'users']}", "ActiveState") == "inactive", node
        command = host.run(f"tr '\\0' ' ' </proc/{processes(host, unit(host, 'httpbin'))[0]}/cmdline")
        assert "--timeout=4 " in command, node
        slow = lab.ask(node, "/delay/7", port=lab.SERVICES["httpbin"]["port"], headers={"Host": "httpbin.lab"})
        assert slow.status == 504, node
        flips[node] = (
            min(times_of(host, unit(host, service), "Started")[-1] for service in flipped),
            max(times_of(host, f"svc-{service}@{before[node, service]}", "Stopped")[-1] for service in flipped),
        )
    ordered = sorted(flips.values())
    assert all(begin < end for begin, end in ordered), flips
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(ordered)), flips
    for balancer in lab.BALANCERS:
        assert lab.ask(balancer, "/people/users?limit=1").status == 200
        assert certificate(balancer) != shown[balancer]


def test_settings_are_changed_back_and_fail_no_request(hosts, playbook):
    with under_load():
        recap(playbook("site.yml", *TAGS))
    for node in lab.NODES:
        assert len(workers(hosts[node], unit(hosts[node], "users"))) == lab.SERVICES["users"]["workers"]
        assert "MARK" not in environment_of(hosts[node], "users")
    for balancer in lab.BALANCERS:
        assert lab.ask(balancer, "/people/users?limit=1").status == 404


def slots(hosts: dict[str, lab.Host]) -> dict[tuple[str, str], tuple[str, str, int]]:
    """Return by node and service the live slot, its process, and how often the other slot was started."""
    found = {}
    for node in lab.NODES:
        for service in lab.SERVICES:
            host, live = hosts[node], hosts[node].live_slot(service)
            other = len(times_of(host, f"svc-{service}@{OTHER[live]}.service", "Started"))
            found[node, service] = (live, host.show(f"svc-{service}@{live}", "MainPID"), other)
    return found


def test_a_setting_that_does_not_work_stops_at_the_first_node(hosts, playbook, everything_ready):
    before = slots(hosts)
    with under_load():
        refused = playbook(
            "playbooks/app.yml",
            "--tags=python_service",
            "--extra-vars",
            changed(users={"environment": {"DATABASE_POOL_SIZE": "none"}}),
        )
    assert refused.returncode != 0
    first = sorted(lab.NODES)[0]
    assert f"service users on {first}: slot {OTHER[before[first, 'users'][0]]} " in refused.stdout
    assert "Its last lines in the journal" in refused.stdout
    after = slots(hosts)
    assert {key for key in after if after[key] != before[key]} == {(first, "users")}
    assert {key: value[:2] for key, value in after.items()} == {key: value[:2] for key, value in before.items()}
    others = {node: f"svc-users@{OTHER[before[node, 'users'][0]]}" for node in lab.NODES}
    assert {hosts[node].show(other, "ActiveState") for node, other in others.items()} == {"inactive"}
    mended = recap(playbook("playbooks/app.yml", "--tags=python_service"))
    assert set(mended) == set(lab.NODES)
    assert slots(hosts) == after, "nothing had to be restarted"


def test_a_service_that_leaves_a_node_is_gone_but_its_data(hosts, playbook, everything_ready):
    host = hosts["app3"]
    services = {name: own for name, own in lab.OWN.items() if name != "orders"}
    words = ("playbooks/app.yml", "--tags=python_service", "--limit=app3")
    release = host.run("basename $(readlink -f /srv/terrace/orders/live)")
    recap(playbook(*words, "--extra-vars", json.dumps({"services": services})))
    try:
        assert (
            host.run("systemctl list-units --all --plain --no-legend 'svc-orders*.service' 'svc-orders*.target'") == ""
        )
        assert host.run("ls -d /etc/systemd/system/svc-orders* /etc/systemd/system/*.wants/svc-orders* || true") == ""
        assert host.try_run("test -e /etc/terrace/services/orders").returncode == 1
        assert host.run(f"ls -d /srv/terrace/orders/releases/{release} /var/lib/terrace/orders")
        assert host.run("id -u svc-orders")
    finally:
        recap(playbook(*words))
    assert host.run("basename $(readlink -f /srv/terrace/orders/live)") == release
    lab.wait(lambda: lab.ask("app3", "/orders", port=lab.PORTS["node_health"]).status == 200, 30, "app3 serves orders")
