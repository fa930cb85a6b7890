"""`make status`: it knows who is what, and names what is wrong until it is mended."""

from __future__ import annotations

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


def test_it_shows_each_host_and_each_service():
    done = lab.make("status")
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
    done = lab.make("status", "FORMAT=json")
    assert done.stdout.startswith("{")
    assert done.stdout.rstrip().endswith("}")


def test_all_that_is_wrong_is_told_at_once_each_with_its_mend(hosts, mended, healthy):
    """A member of etcd, a replica of Redis and a slot are stopped, and a pooler hangs."""
    member = next(host for host in lab.GROUPS["etcd"] if host != healthy["etcd"]["leader"])
    replica = next(iter(healthy["redis"]["cache"]["replicas"]))
    first, last = lab.NODES[0], lab.NODES[-1]
    slot = f"svc-httpbin@{hosts[last].live_slot('httpbin')}"
    stopped = [(member, "etcd"), (replica, "redis-server@cache"), (last, slot)]
    hosts[first].run("systemctl kill --signal=STOP pgbouncer")
    try:
        for host, unit in stopped:
            hosts[host].run(f"systemctl stop {unit}")
        code, told = lab.status()
    finally:
        for host, unit in stopped:
            hosts[host].run(f"systemctl start {unit}")
        hosts[first].run("systemctl kill --signal=CONT pgbouncer")
    assert code == 3
    assert told["healthy"] is False
    expected = [
        f"{first}: the pooler does not answer: no answer within 3 s; see `journalctl -u pgbouncer` there",
        *(f"{host}: {unit} is inactive; `systemctl start {unit}` there, or `make site`" for host, unit in stopped),
    ]
    assert [line for line in expected if line not in told["problems"]] == []
    # What else is told is of Redis there, which its master and the Sentinels miss, too.
    others = [line for line in told["problems"] if line not in expected]
    assert {line.partition(":")[0] for line in others} <= {replica}, others


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
