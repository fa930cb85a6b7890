"""Operations move and restart what is live: no request fails, nothing stays paused, a second run has nothing to do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator

import pytest

import lab
from lab import sql

# What a client may see of a switchover is measured elsewhere; a busy machine has to pass here.
STALL = 6.0
# Reads from replicas go on: they are held only until none uses the replica that is to move.
READS = 3.0
# Longer than anything is held, by whomever: see postgresql_step and pooler_hold.
LONGEST_HOLD = 30
WIRE = (lab.ROOT / "plugins/module_utils/postgresql_wire.py").read_text()
PROXY = (lab.ROOT / "plugins/module_utils/haproxy_stat.py").read_text()
# Prints the databases that the pooler of a node holds, once there are any, or after so many seconds.
PAUSED = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
with Session(connect("/run/postgresql", 6432), "pgbouncer", "pgbouncer") as console:
    while True:
        held = [row["name"] for row in console.query("SHOW DATABASES") if row["paused"] == "1"]
        if held or time.monotonic() >= end:
            print(*held)
            break
        time.sleep(0.02)
"""
# Leaves a replica out and takes it in again, and prints who takes reads: before, without it, at once after, and then.
LEFT_OUT = """
import sys, time
socket_path, name = sys.argv[1:]
print(*sorted(replicas_up(socket_path)))
leave_out_replica(socket_path, name)
print(*sorted(replicas_up(socket_path)))
take_in_replicas(socket_path)
print(*sorted(replicas_up(socket_path)))
end = time.monotonic() + 10
while name not in replicas_up(socket_path) and time.monotonic() < end:
    time.sleep(0.1)
print(*sorted(replicas_up(socket_path)))
"""
# How often PostgreSQL was stopped right before Patroni would have done it.
STOPS = "journalctl --unit=patroni --grep='server stopped' --no-pager --quiet --output=cat | wc -l"


def paused(host: lab.Host, seconds: float = 0) -> list[str]:
    """Return the databases that a node's pooler holds, as soon as there are any."""
    return host.run(f"python3 - {seconds}", stdin=WIRE + PAUSED, timeout=seconds + 60).split()


def nothing_is_paused(hosts: dict[str, lab.Host]) -> bool:
    """Tell whether no pooler holds anything."""
    return not any(paused(hosts[node]) for node in lab.NODES)


@pytest.fixture(autouse=True)
def whole(hosts):
    """Begin and end with a database that is whole, and poolers that hold nothing."""
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    yield
    assert nothing_is_paused(hosts)
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)


@contextlib.contextmanager
def under_load(stall: float = STALL) -> Iterator[None]:
    """Read and write through the first load balancer all the while; no request may fail, and none may take long.

    Parameters:
        stall: seconds that a write may take.
    """
    user = lab.ask("lb1", "/users", "POST", lab.new_user()).json()["id"]

    def order() -> dict:
        return {"user_id": user, "items": [{"sku": "switchover", "quantity": 1, "price_cents": 100}]}

    loads = [
        lab.Load("lb1", "/users?limit=1", clients=1, longest=900, pause=0.2),
        lab.Load("lb1", f"/users/{user}", clients=1, longest=900, pause=0.2),
        lab.Load("lb1", "/orders?limit=1", clients=1, longest=900, pause=0.2),
        lab.Load("lb1", "/orders", clients=2, method="POST", body=order, keyed=True, longest=900, pause=0.1),
    ]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        yield
        time.sleep(2)
    for load in loads:
        assert not load.failed, f"{load.method} {load.path}: {load}"
        assert load.worst < (stall if load.method == "POST" else READS), f"{load.method} {load.path}: {load}"


def switchover(playbook, what: str, to: str = "") -> subprocess.CompletedProcess:
    """Run `make switchover`'s playbook."""
    extra = {"switchover_what": what, "switchover_to": to, "switchover_force": False}
    return playbook("playbooks/switchover.yml", "--extra-vars", json.dumps(extra))


def restart(playbook, tier: str = "", service: str = "") -> subprocess.CompletedProcess:
    """Run `make restart`'s playbook."""
    extra = {"restart_tier": tier, "restart_service": service, "restart_pending": False, "restart_force": False}
    return playbook("playbooks/restart.yml", "--extra-vars", json.dumps(extra))


def others(primary: str) -> list[str]:
    """Return the database hosts without the primary."""
    return [name for name in lab.GROUPS["database"] if name != primary]


def test_postgresql_moves_to_a_named_host_and_back(hosts, playbook):
    home = lab.primary().name
    for to in (others(home)[0], home):
        former = hosts[lab.primary().name]
        stops = former.run(STOPS)
        with under_load():
            done = switchover(playbook, "postgresql", to)
        assert done.returncode == 0, done.stdout
        assert f"{to} leads now instead of" in done.stdout
        assert lab.primary().name == to
        assert int(former.run(STOPS)) == int(stops) + 1, "Patroni would have looked a second later whether it had"
        former.run("test ! -e /run/terrace-handover")
    again = switchover(playbook, "postgresql", home)
    assert again.returncode == 0, again.stdout
    assert f"{home} leads already" in again.stdout
    assert lab.primary().name == home


def test_a_replica_that_was_left_out_is_asked_before_it_is_used_again(hosts):
    replica, *rest = others(lab.primary().name)
    said = hosts[lab.NODES[0]].run(
        f"python3 - /run/haproxy-node/admin.sock {replica}", stdin=PROXY + LEFT_OUT, timeout=30
    )
    assert said.splitlines() == [" ".join(sorted([replica, *rest])), *rest, *rest, " ".join(sorted([replica, *rest]))]


def test_who_is_no_member_is_refused(hosts, playbook):
    home = lab.primary().name
    refused = switchover(playbook, "postgresql", "db9")
    assert refused.returncode != 0
    assert "there is no database host db9; choose one of" in refused.stdout
    assert lab.primary().name == home


def test_a_switchover_that_fails_leaves_no_pooler_paused(hosts, playbook):
    home = lab.primary().name
    candidate = hosts[others(home)[0]]
    # The cluster takes it for well until its key in etcd expires, and finds out when it is asked to lead.
    candidate.run("systemctl kill --signal=STOP --kill-whom=main patroni")
    try:
        refused = switchover(playbook, "postgresql", candidate.name)
        assert nothing_is_paused(hosts)
        assert lab.ask("lb1", "/users", "POST", lab.new_user()).status == 201
    finally:
        candidate.run("systemctl kill --signal=CONT --kill-whom=main patroni")
    assert refused.returncode != 0, refused.stdout
    assert lab.primary().name == home


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
def test_a_controller_killed_in_the_middle_leaves_no_pooler_paused(hosts, strategy):
    extra = {"switchover_what": "postgresql", "switchover_to": "", "switchover_force": False}
    run = subprocess.Popen(
        [
            lab.ROOT / ".venv/bin/ansible-playbook",
            f"--inventory={lab.INVENTORY}",
            "playbooks/switchover.yml",
            f"--extra-vars={json.dumps(extra)}",
        ],
        cwd=lab.ROOT,
        env=lab.environment() | {"ANSIBLE_STRATEGY": strategy},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        held = paused(hosts[lab.NODES[0]], 120)
    finally:
        lab.kill_family(run.pid)
        run.wait()
    assert held, "no pooler was ever held"
    lab.wait(lambda: nothing_is_paused(hosts), LONGEST_HOLD, "no pooler holds its clients")
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    assert lab.ask("lb1", "/users", "POST", lab.new_user()).status == 201


def setting(hosts: dict[str, lab.Host], name: str) -> dict[str, str]:
    """Return a parameter's value on each database host."""
    return {host: sql(hosts[host], f"SHOW {name}") for host in lab.GROUPS["database"]}


def started(hosts: dict[str, lab.Host]) -> dict[str, float]:
    """Return when PostgreSQL started on each database host."""
    statement = "SELECT extract(epoch FROM pg_postmaster_start_time())"
    return {host: float(sql(hosts[host], statement)) for host in lab.GROUPS["database"]}


def test_settings_are_applied_in_the_order_that_nobody_notices(hosts, playbook):
    home = lab.primary().name
    before = started(hosts)
    [usual] = {int(value) for value in setting(hosts, "max_connections").values()}
    raised = {"patroni_max_connections": usual + 10, "patroni_parameters": {"max_prepared_transactions": 5}}
    with under_load():
        done = playbook("site.yml", "--tags=patroni", "--extra-vars", json.dumps(raised))
    assert done.returncode == 0, done.stdout
    assert set(setting(hosts, "max_connections").values()) == {str(usual + 10)}
    after = started(hosts)
    assert all(after[host] > before[host] for host in before)
    assert all(after[host] < after[home] for host in others(home)), "replicas were first"
    moved = lab.primary().name
    assert moved != home

    # Lowered: the primary first, in its place.
    with under_load(stall=20):
        done = playbook("site.yml", "--tags=patroni")
    assert done.returncode == 0, done.stdout
    assert set(setting(hosts, "max_connections").values()) == {str(usual)}
    assert lab.primary().name == moved
    after = started(hosts)
    assert all(after[moved] < after[host] for host in others(moved)), "the primary was first"
    assert not any(member.get("pending_restart") for member in lab.cluster()["members"])


def test_the_database_restarts_and_nobody_notices(hosts, playbook):
    before = started(hosts)
    with under_load():
        done = restart(playbook, "database")
    assert done.returncode == 0, done.stdout
    after = started(hosts)
    assert all(after[host] > before[host] for host in before)


def master(hosts: dict[str, lab.Host], instance: str) -> str:
    """Return the host that has the master of a Redis instance."""
    found = [
        name
        for name in lab.GROUPS["cache"]
        if hosts[name].run(f"redis-instance cli {instance} ROLE").splitlines()[0] == "master"
    ]
    assert len(found) == 1, found
    return found[0]


def test_redis_moves_to_a_named_host_and_back(hosts, playbook):
    for instance in ("cache", "queue"):
        home = master(hosts, instance)
        away = next(name for name in lab.GROUPS["cache"] if name != home)
        for to in (away, home):
            with under_load():
                done = switchover(playbook, instance, to)
            assert done.returncode == 0, done.stdout
            assert f"{to} has the master of {instance} now" in done.stdout
            assert master(hosts, instance) == to
    again = switchover(playbook, instance, home)
    assert again.returncode == 0, again.stdout
    assert f"{home} has the master of {instance} already" in again.stdout


UNITS = {
    "cache": ["redis-server@cache", "redis-server@queue"],
    "sentinel": ["redis-sentinel"],
    "etcd": ["etcd"],
}


@pytest.mark.parametrize("tier", UNITS)
def test_a_tier_restarts_one_host_at_a_time(hosts, playbook, tier):
    def processes() -> dict[tuple[str, str], str]:
        return {(host, unit): hosts[host].show(unit, "MainPID") for host in lab.GROUPS[tier] for unit in UNITS[tier]}

    before = processes()
    with under_load():
        done = restart(playbook, tier)
    assert done.returncode == 0, done.stdout
    after = processes()
    assert all(after[key] not in (before[key], "0") for key in before)


def test_the_load_balancers_restart_and_serve(hosts, playbook):
    unit = lab.running_engine(hosts).unit
    before = {name: hosts[name].show(unit, "MainPID") for name in lab.BALANCERS}
    done = restart(playbook, "loadbalancer")
    assert done.returncode == 0, done.stdout
    assert all(hosts[name].show(unit, "MainPID") not in (before[name], "0") for name in lab.BALANCERS)
    lab.wait_until_ready(60)


def test_a_service_restarts_through_its_other_slots(hosts, playbook, everything_ready):
    before = {node: hosts[node].live_slot("orders") for node in lab.NODES}
    mailers = {node: hosts[node].show("svc-orders-mailer@1", "MainPID") for node in lab.NODES}
    with under_load():
        done = restart(playbook, service="orders")
    assert done.returncode == 0, done.stdout
    assert all(hosts[node].live_slot("orders") != before[node] for node in lab.NODES)
    assert all(hosts[node].show("svc-orders-mailer@1", "MainPID") != mailers[node] for node in lab.NODES)
