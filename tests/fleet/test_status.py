"""`make status`: it knows who is what, and names what is wrong until it is mended."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

import lab


@pytest.fixture(scope="module", autouse=True)
def healthy() -> dict:
    """Begin with a lab with which nothing is wrong; what it tells then."""
    return lab.wait_until_healthy(timeout=120)


@pytest.fixture
def mended():
    """Leave the lab as it was found."""
    yield
    lab.wait_until_healthy(timeout=120)


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `make status` as users do."""
    clean = {name: value for name, value in lab.environment().items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "status", f"ENV={os.path.relpath(lab.INVENTORY, lab.ROOT)}", *words],
        cwd=lab.ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def stop(host: lab.Host, unit: str) -> dict:
    """Stop a unit, and start it again once it was asked how everything is; return what was told."""
    host.run(f"systemctl stop {unit}")
    try:
        code, told = lab.status()
    finally:
        host.run(f"systemctl start {unit}")
    assert code == 3
    assert told["healthy"] is False
    return told


def test_it_shows_each_host_and_each_service():
    done = make()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["HOST", "ADDRESS", "ROLES", "VERSIONS", "CERT", "DISK"]
    assert [line.split()[:2] for line in lines[1 : len(lab.ADDRESSES) + 1]] == [
        [name, lab.ADDRESSES[name]] for name in lab.ADDRESSES
    ]
    assert lines[-1] == f"healthy: {len(lab.ADDRESSES)} hosts, {len(lab.SERVICES)} services"


def test_it_knows_who_is_what(hosts, healthy):
    assert [its["name"] for its in healthy["hosts"] if not its["reached"]] == []
    assert {its["name"] for its in healthy["services"]} == set(lab.SERVICES)
    for service in healthy["services"]:
        assert {node["node"]: node["slot"] for node in service["nodes"]} == {
            node: hosts[node].live_slot(service["name"]) for node in lab.NODES
        }
    primary = hosts[healthy["postgresql"]["primary"]]
    recovers = "sudo -u postgres psql -Atc 'SELECT pg_is_in_recovery()'"
    assert primary.run(f"cd / && {recovers}") == "f"
    for instance, its in healthy["redis"].items():
        assert "role:master" in hosts[its["master"]].run(f"redis-instance cli {instance} INFO replication")
    for host in healthy["hosts"]:
        assert host["certificate_days"] > 30, host
        assert host["versions"], host


def test_its_data_is_all_that_it_prints():
    done = make("FORMAT=json")
    assert done.stdout.startswith("{")
    assert done.stdout.rstrip().endswith("}")


def test_a_member_of_etcd_that_is_gone(hosts, mended, healthy):
    name = next(host for host in lab.GROUPS["etcd"] if host != healthy["etcd"]["leader"])
    told = stop(hosts[name], "etcd")
    assert told["problems"] == [f"{name}: etcd is inactive; `systemctl start etcd` there, or `make site`"]


def test_a_replica_of_redis_that_is_gone(hosts, mended, healthy):
    name = next(iter(healthy["redis"]["cache"]["replicas"]))
    told = stop(hosts[name], "redis-server@cache")
    assert any(line.startswith(f"{name}: redis-server@cache is inactive; ") for line in told["problems"])


def test_a_daemon_that_hangs(hosts, mended):
    node = hosts[lab.NODES[0]]
    node.run("systemctl kill --signal=STOP pgbouncer")
    try:
        code, told = lab.status()
    finally:
        node.run("systemctl kill --signal=CONT pgbouncer")
    assert code == 3
    assert told["problems"] == [
        f"{node.name}: the pooler does not answer: no answer within 3 s; see `journalctl -u pgbouncer` there"
    ]


def test_a_slot_that_is_stopped_by_hand(hosts, mended):
    node = hosts[lab.NODES[-1]]
    unit = f"svc-httpbin@{node.live_slot('httpbin')}"
    told = stop(node, unit)
    assert told["problems"] == [f"{node.name}: {unit} is inactive; `systemctl start {unit}` there, or `make site`"]


def test_a_host_that_does_not_answer(hosts, mended):
    """It is found out soon, and the others are told of; the host itself only has no way back to the controller."""
    # Not one that leads: until another does, that would be told, too.
    host = next(
        hosts[name]
        for name in lab.GROUPS["cache"]
        if all(hosts[name].try_run(f"redis-instance leads {instance}").returncode for instance in ("cache", "queue"))
    )
    silence = f"sleep 1; ip route add blackhole {lab.GATEWAY}; sleep 40; ip route del blackhole {lab.GATEWAY}"
    host.run(f"systemd-run --collect sh -c '{silence}'")
    # By then connections that were kept have been given up.
    time.sleep(8)
    code, told = lab.status()
    assert code == 3
    assert [line.partition(":")[0] for line in told["problems"]] == [host.name]
    assert [its["name"] for its in told["hosts"] if not its["reached"]] == [host.name]
