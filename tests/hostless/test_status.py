"""What `make status` makes of the answers of hosts: each thing that can be wrong is told once, with host and mend."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landscape import ROOT, VAULT_KEY
from terrace.status import Status, table

ANSIBLE = str(Path(sys.executable).parent / "ansible-playbook")
BALANCERS, NODES = ["lb1", "lb2"], ["app1", "app2", "app3"]
CACHES, DATABASES = ["cache1", "cache2", "cache3"], ["db1", "db2", "db3"]
ADDRESSES = {
    name: f"10.77.0.{tier}{number}"
    for tier, names in enumerate((BALANCERS, NODES, CACHES, DATABASES), 1)
    for number, name in enumerate(names, 1)
} | {"backup1": "10.77.0.51"}
RELEASE = "1f0c5ad0b2c9"
IDS = {"db1": 18446744073709551615, "db2": 2, "db3": 3}


def of(names: list[str]) -> list[dict[str, str]]:
    return [{"name": name, "address": ADDRESSES[name]} for name in names]


def unit(active: str = "active", sub: str = "running", **other) -> dict:
    return {"active": active, "sub": sub, "restarted": 0, "seconds": 900, "known": True, "wanted": True} | other


def host(*units: str, **found) -> dict:
    found = {"certificate": 700, "disks": {"/": 40}, "versions": {}} | found
    return {"units": {name: unit() for name in units}, "found": found, "errors": {}}


def member(name: str, role: str = "quorum_standby", state: str = "streaming", lag: int | str | None = 0) -> dict:
    return {"name": name, "role": role, "state": state, "timeline": 3, "lag": lag, "restart": []}


def backup(hours: float) -> dict:
    """Return a backup that was taken some hours ago."""
    return {"label": "20261101-013000F", "end": time.time() - hours * 3600, "error": False, "gap": ""}


def proof(hours: float, *problems: str) -> dict:
    """Return what came of a proof some hours ago."""
    at = time.time() - hours * 3600
    return {"at": at, "problems": list(problems), "recovery_point_seconds": 41, "seconds": 12.5}


@pytest.fixture
def declared() -> dict:
    """The lab: two load balancers with an address, three of everything else."""
    return {
        "hosts": of(list(ADDRESSES)),
        "members": {
            "loadbalancer": of(BALANCERS),
            "app": of(NODES),
            "cache": of(CACHES),
            "sentinel": of(CACHES),
            "database": of(DATABASES),
            "etcd": of(DATABASES),
            "backup": of(["backup1"]),
        },
        "services": [{"name": "users", "version": "v1", "nodes": NODES, "routed": True}],
        "instances": ["cache", "queue"],
        "engine": "haproxy",
        "virtual_address": "10.77.0.10",
        "addresses": [["users", "curl --cacert ca.crt https://10.77.0.10/users"]],
    }


@pytest.fixture
def answers() -> dict:
    """What the lab's hosts answer while nothing is wrong."""
    found = {}
    for name in BALANCERS:
        up = {"users": dict.fromkeys(NODES, True)}
        found[name] = host(
            "haproxy@lb", "keepalived", balancer=True, served=700, balanced=up, holds=name == "lb2",
            tls={"names": [name, "shop.example.com"], "fingerprint": name},
            versions={"haproxy": "3.0.11", "keepalived": "2.3.3"},
        )  # fmt: skip
    for name in NODES:
        slot = "green" if name == "app2" else "blue"
        found[name] = host(
            "haproxy@node", "pgbouncer", "terrace-liveness", f"svc-users@{slot}",
            pooler={"paused": [], "waiting": 0, "seconds": 0},
            ready={"users": "ready"},
            live={"users": {"slot": slot, "release": RELEASE, "version": "v1"}},
            egress={
                "postgresql.primary": ["db2"], "postgresql.replica": ["db1", "db3"],
                "redis.cache": ["cache1"], "redis.queue": ["cache3"], "users.need": NODES,
            },
        )  # fmt: skip
        found[name]["units"][f"svc-users@{slot}"]["wanted"] = False
    for name in CACHES:
        instances = {}
        for instance, master in (("cache", "cache1"), ("queue", "cache3")):
            replicas = [other for other in CACHES if other != master]
            instances[f"redis.{instance}"] = (
                {
                    "role": "master",
                    "replicas": [
                        {"address": ADDRESSES[other], "state": "online", "lag": 1, "bytes": 20} for other in replicas
                    ],
                }
                if name == master
                else {"role": "replica", "master": ADDRESSES[master], "link": "up", "syncing": False}
            )
        watched = {
            instance: {"address": ADDRESSES[master], "flags": [], "quorum": 2, "sentinels": 3, "replicas": 2}
            for instance, master in (("cache", "cache1"), ("queue", "cache3"))
        }
        found[name] = host(
            "redis-server@cache", "redis-server@queue", "redis-sentinel", sentinel=watched, **instances
        )  # fmt: skip
    members = [member("db1"), member("db2", "leader", "running", None), member("db3", lag=2 * 1024**2)]
    for name in DATABASES:
        role = "primary" if name == "db2" else "replica"
        found[name] = host(
            "patroni", "etcd",
            versions={"postgresql-17": "17.6", "patroni": "4.0.6", "etcd-server": "3.5.16"},
            patroni={
                "role": role, "state": "running", "versions": {"postgresql": "17.5"}, "failsafe": False, "unseen": 2,
                "location": None,
            },
            cluster={"paused": False, "members": members},
            settings={"synchronous": True},
            etcd={"id": IDS[name], "leader": IDS["db1"], "wrong": []},
            members=[
                {"id": IDS[each], "name": each, "peers": [f"https://{ADDRESSES[each]}:2380"], "learner": False}
                for each in DATABASES
            ],
        )  # fmt: skip
        found[name]["found"]["archive"] = {"waiting": 1, "seconds": 2}
    found["backup1"] = host(
        "pgbackrest",
        versions={"pgbackrest": "2.55.1"},
        backups={"wrong": "", "newest": backup(0.5)},
        proof=proof(20),
    )
    return copy.deepcopy(found)


@pytest.fixture
def problems(declared, answers):
    """Return a function that returns what is wrong, without the mends."""

    def problems() -> list[str]:
        found = Status(declared, answers).problems
        assert all(problem.mend for problem in found)
        return [f"{problem.host}: {problem.what}" for problem in found]

    return problems


def stop(answers: dict, name: str, stopped: str, *questions: str, why: str = "Connection refused") -> None:
    """Have a unit not run on a host, and what it would be asked for not be answered."""
    answers[name]["units"][stopped] |= {"active": "inactive", "sub": "dead"}
    silence(answers, name, *questions, why=why)


def silence(answers: dict, name: str, *questions: str, why: str = "no answer within 3 s") -> None:
    """Have questions not be answered."""
    for question in questions:
        del answers[name]["found"][question]
        answers[name]["errors"][question] = why


def test_nothing_is_wrong(declared, answers):
    status = Status(declared, answers)
    assert status.problems == []
    assert status.healthy
    versions = "postgresql 17.5, patroni 4.0.6, etcd 3.5.16"
    assert [re.split(" {2,}", line) for line in status.lines()] == [
        ["HOST", "ADDRESS", "ROLES", "VERSIONS", "CERT", "DISK"],
        ["lb1", "10.77.0.11", "haproxy", "haproxy 3.0.11, keepalived 2.3.3", "700 d", "40 %"],
        ["lb2", "10.77.0.12", "haproxy, holds 10.77.0.10", "haproxy 3.0.11, keepalived 2.3.3", "700 d", "40 %"],
        *([name, ADDRESSES[name], "node proxy, pooler, 1 service", "700 d", "40 %"] for name in NODES),
        ["cache1", "10.77.0.31", "Redis cache master, queue replica (lag 1 s); Sentinel", "700 d", "40 %"],
        ["cache2", "10.77.0.32", "Redis cache replica (lag 1 s), queue replica (lag 1 s); Sentinel", "700 d", "40 %"],
        ["cache3", "10.77.0.33", "Redis cache replica (lag 1 s), queue master; Sentinel", "700 d", "40 %"],
        ["db1", "10.77.0.41", "PostgreSQL quorum standby (lag 0 MB); etcd leader", versions, "700 d", "40 %"],
        ["db2", "10.77.0.42", "PostgreSQL primary; etcd", versions, "700 d", "40 %"],
        ["db3", "10.77.0.43", "PostgreSQL quorum standby (lag 2 MB); etcd", versions, "700 d", "40 %"],
        ["backup1", "10.77.0.51", "backups (newest 30 min old)", "pgbackrest 2.55.1", "700 d", "40 %"],
        [""],
        ["SERVICE", "VERSION", "RELEASE", "STATE", "NODES"],
        ["users", "v1", RELEASE, "ready", "app1 (blue), app2 (green), app3 (blue)"],
        [""],
        ["BALANCER", "TLS", "DAYS", "NAMES", "LAST FAILURE"],
        ["lb1", "internal", "700 d", "lb1, shop.example.com", "-"],
        ["lb2", "internal", "700 d", "lb2, shop.example.com", "-"],
        [""],
        ["SERVICE", "TRY"],
        ["users", "curl --cacert ca.crt https://10.77.0.10/users"],
        [""],
        ["healthy: 12 hosts, 1 service"],
    ]


def test_as_data(declared, answers):
    data = json.loads(json.dumps(Status(declared, answers).data()))
    assert data["healthy"] is True
    assert data["problems"] == []
    assert data["address"] == {"virtual": "10.77.0.10", "holders": ["lb2"]}
    assert data["postgresql"]["primary"] == "db2"
    assert data["etcd"]["leader"] == "db1"
    assert {name: its["master"] for name, its in data["redis"].items()} == {"cache": "cache1", "queue": "cache3"}
    assert data["redis"]["cache"]["replicas"]["cache2"] == {"link": "up", "lag": 1}
    assert data["services"][0]["nodes"][1] == {
        "node": "app2", "slot": "green", "release": RELEASE, "version": "v1", "state": "ready",
    }  # fmt: skip
    assert [its for its in data["hosts"] if its["name"] == "db2"] == [
        {
            "name": "db2",
            "address": "10.77.0.42",
            "reached": True,
            "groups": ["database", "etcd"],
            "roles": ["PostgreSQL primary", "etcd"],
            "versions": {"postgresql": "17.5", "patroni": "4.0.6", "etcd": "3.5.16"},
            "certificate_days": 700,
            "disk_percent": 40,
            "units": {"patroni": "active", "etcd": "active"},
        }
    ]


# One machine in every group


@pytest.fixture
def alone(declared, answers) -> tuple[dict, dict]:
    """One machine that is everything, without an address beside its own."""
    here = [{"name": "solo", "address": "10.77.0.61"}]
    declared |= {"hosts": here, "members": dict.fromkeys(declared["members"], here), "virtual_address": ""}
    declared["services"] = [{"name": "users", "version": "", "nodes": ["solo"], "routed": True}]
    found: dict = {"units": {}, "found": {}, "errors": {}}
    for name in ("lb1", "app1", "cache1", "db2", "backup1"):
        found["units"] |= answers[name]["units"]
        found["found"] |= answers[name]["found"]
    watched = {"address": "10.77.0.61", "flags": [], "quorum": 1, "sentinels": 1, "replicas": 0}
    found["found"] |= {
        "balanced": {"users": {"solo": True}},
        "egress": {
            "postgresql.primary": ["solo"], "postgresql.replica": [], "redis.cache": ["solo"], "redis.queue": ["solo"],
        },
        "redis.cache": {"role": "master", "replicas": []},
        "redis.queue": {"role": "master", "replicas": []},
        "sentinel": {"cache": watched, "queue": watched},
        "cluster": {"paused": False, "members": [member("solo", "leader", "running", None)]},
        "etcd": {"id": 7, "leader": 7, "wrong": []},
        "members": [{"id": 7, "name": "solo", "peers": ["https://10.77.0.61:2380"], "learner": False}],
    }  # fmt: skip
    del found["found"]["holds"]
    return declared, {"solo": found}


def test_one_machine_is_healthy(alone):
    status = Status(*alone)
    assert status.problems == []
    assert status.hosts["solo"].roles == [
        "haproxy", "node proxy, pooler, 1 service", "PostgreSQL primary", "etcd leader",
        "Redis cache master, queue master", "Sentinel", "backups (newest 30 min old)",
    ]  # fmt: skip


def test_one_machine_that_is_not_reached(alone):
    declared, _ = alone
    said = "Task failed: Data could not be sent. Make sure this host can be reached over ssh: ssh: Connection refused\n"
    status = Status(declared, {"solo": {"unreachable": True, "msg": said}})
    assert list(map(str, status.problems)) == [
        "solo: is not reached: ssh: Connection refused; start it, or see why `make ssh HOST=solo` fails"
    ]
    assert status.lines()[1].split() == ["solo", "10.77.0.61", "NOT", "REACHED"]
    assert "users    -        -        not reached  solo" in status.lines()


# Hosts


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_host_that_is_not_reached_is_one_problem(answers, problems, name):
    """Of others only that is told which does not follow from it."""
    answers[name] = {"unreachable": True, "msg": "no route"}
    told = problems()
    assert told[0] == f"{name}: is not reached: no route"
    # Nobody has taken over yet in these answers.
    rest = {
        "lb2": ["lb1: nobody holds 10.77.0.10"],
        "cache1": ["cache2, cache3: nobody is the master of Redis 'cache'"],
        "cache3": ["cache1, cache2: nobody is the master of Redis 'queue'"],
    }
    assert told[1:] == rest.get(name, [])


def test_a_host_whose_task_failed(answers, problems):
    answers["db1"] = {"failed": True, "msg": "Missing sudo password"}
    assert problems() == ["db1: is not reached: Missing sudo password"]


def test_a_host_that_was_not_asked(answers, problems):
    del answers["db1"]
    assert problems() == ["db1: is not reached: it was not asked"]


def test_units(answers, problems):
    units = answers["app1"]["units"]
    units["terrace-liveness"] |= {"active": "failed", "sub": "failed"}
    units["pgbouncer"] |= {"known": False, "active": "inactive"}
    units["svc-users-mailer@1"] = unit("activating", "auto-restart", restarted=7)
    units["svc-users-other@1"] = unit(restarted=5, seconds=2)
    units["svc-users-fine@1"] = unit(restarted=5, seconds=200)
    units["svc-users-report.timer"] = unit("inactive", "dead")
    units["svc-users-report"] = unit("failed", "failed", wanted=False)
    units["redis-server@late"] = unit("activating", "start-post")
    units["svc-users@green"] = unit("deactivating", "stop-sigterm", wanted=False)
    assert problems() == [
        "app1: pgbouncer is not set up",
        "app1: terrace-liveness has failed",
        "app1: svc-users-mailer@1 ends and is started again, 7 times by now",
        "app1: svc-users-other@1 ends and is started again, 5 times by now",
        "app1: svc-users-report.timer is inactive",
        "app1: svc-users-report has failed",
        "app1: redis-server@late is still about to start",
    ]


def test_certificates_and_disks(answers, problems):
    answers["lb1"]["found"] |= {"certificate": 31, "served": 29, "disks": {"/": 90, "/var/log": 91}}
    answers["db1"]["found"]["certificate"] = -1
    assert problems() == [
        "lb1: the certificate that clients see has 29 days left",
        "lb1: /var/log is 91 % full",
        "db1: its certificate has run out",
    ]


@pytest.mark.parametrize(
    ("name", "unit", "questions"),
    [
        ("lb1", "haproxy@lb", ["balancer", "served", "tls", "balanced"]),
        ("app1", "haproxy@node", ["egress", "ready"]),
        ("app1", "pgbouncer", ["pooler"]),
        ("cache2", "redis-server@cache", ["redis.cache"]),
        ("cache1", "redis-sentinel", ["sentinel"]),
        ("db1", "patroni", ["patroni", "cluster", "settings"]),
        ("db3", "etcd", ["etcd", "members"]),
    ],
)
def test_a_daemon_that_does_not_run_is_one_problem(answers, problems, name, unit, questions):
    stop(answers, name, unit, *questions)
    assert problems() == [f"{name}: {unit} is inactive"]


@pytest.mark.parametrize(
    ("name", "questions", "what"),
    [
        ("lb1", ["balancer", "served", "tls", "balanced"], "the load balancer does not answer"),
        ("app1", ["egress", "ready"], "the node proxy's administration does not answer"),
        ("app1", ["pooler"], "the pooler does not answer"),
        ("cache2", ["redis.cache"], "Redis 'cache' does not answer"),
        ("cache1", ["sentinel"], "Sentinel does not answer"),
        ("db1", ["patroni", "cluster", "settings"], "Patroni does not answer"),
        ("db1", ["cluster"], "Patroni does not tell of its cluster"),
        ("db3", ["etcd", "members"], "etcd does not answer"),
        ("db3", ["disks"], "the disks do not answer"),
    ],
)
def test_a_daemon_that_hangs_is_one_problem(answers, problems, name, questions, what):
    silence(answers, name, *questions)
    assert problems() == [f"{name}: {what}: no answer within 3 s"]


def test_a_load_balancer_without_tls(answers, problems):
    for name in BALANCERS:
        silence(answers, name, "served", "tls", why="Connection refused")
    assert problems() == []


# The certificate that clients see


@pytest.fixture
def acme(declared, answers) -> dict[str, dict]:
    """One of an ACME server, on both load balancers for an hour: what each tells of it."""
    declared["tls"] = "acme"
    for name in BALANCERS:
        answers[name]["found"] |= {"served": 29}
        answers[name]["found"]["tls"] = {
            "names": ["shop.example.com"], "fingerprint": "new", "given": "new", "placed": time.time() - 3600,
            "lacking": [], "late": time.time() + 14 * 86400, "turn": time.time() + 86400, "failure": None, "reload": "",
        }  # fmt: skip
    return {name: answers[name]["found"]["tls"] for name in BALANCERS}


def test_one_that_is_soon_renewed_is_well(acme, problems):
    assert problems() == []


def test_a_refusal_is_shown_and_wrong(acme, declared, answers, problems):
    why = "shop.example.com: connection refused (connection)"
    acme["lb1"] |= {"failure": {"at": time.time() - 3 * 3600, "text": why}, "turn": time.time() + 4 * 3600 + 9}
    mend = "mend that; it is tried again in 4 h"
    assert [str(problem) for problem in Status(declared, answers).problems] == [
        f"lb1: the certificate that clients see could not be renewed: {why}; {mend}"
    ]
    acme["lb1"] |= {"lacking": ["www.example.com"]}
    assert problems() == [f"lb1: there is no certificate for www.example.com: {why}"]
    rows = [re.split(" {2,}", line) for line in Status(declared, answers).lines() if line.startswith("lb1")]
    assert rows[1] == ["lb1", "acme", "29 d", "shop.example.com", f"3 h ago: {why}"]
    [told, _] = Status(declared, answers).data()["tls"]
    assert (told["host"], told["mode"], told["days"], told["failure"]["text"]) == ("lb1", "acme", 29, why)


def test_one_that_should_have_been_renewed_is_wrong(acme, problems):
    acme["lb2"]["late"] = time.time() - 60
    assert problems() == ["lb2: the certificate that clients see has 29 days left, and is not renewed"]


def test_one_that_is_not_taken_up_is_wrong(acme, problems):
    acme["lb1"]["reload"] = "haproxy@lb cannot be reloaded: exit code 1"
    acme["lb2"]["fingerprint"] = "old"
    assert problems() == [
        "lb1: the certificate is not taken up: haproxy@lb cannot be reloaded: exit code 1",
        "lb2: clients do not see the certificate that is there for them",
    ]


def test_load_balancers_may_differ_for_a_while(acme, declared, answers, problems):
    acme["lb1"] |= {"fingerprint": "old", "given": "old", "placed": time.time() - 90 * 86400}
    assert problems() == ["lb1: clients see another certificate than on the host that got the newest"]
    acme["lb2"]["placed"] = time.time() - 1200
    assert problems() == []
    # Whose certificate it is decides how many days are few.
    declared["tls"] = "files"
    assert problems() == [f"{name}: the certificate that clients see has 29 days left" for name in BALANCERS]


# The address


def test_nobody_holds_the_address(answers, problems):
    answers["lb2"]["found"]["holds"] = False
    assert problems() == ["lb1, lb2: nobody holds 10.77.0.10"]


def test_two_hold_the_address(answers, problems):
    answers["lb1"]["found"]["holds"] = True
    assert problems() == ["lb1, lb2: more than one holds 10.77.0.10"]


# Services


def test_a_node_that_is_not_ready(answers, problems):
    answers["app3"]["found"]["ready"]["users"] = "not ready"
    answers["lb1"]["found"]["balanced"]["users"]["app3"] = False
    assert problems() == ["app3: users is not ready"]


def test_a_live_slot_that_does_not_run(answers, problems):
    """systemd forgets a unit that was stopped."""
    del answers["app3"]["units"]["svc-users@blue"]
    answers["app3"]["found"]["ready"]["users"] = "not ready"
    assert problems() == ["app3: svc-users@blue is inactive"]


def test_a_node_without_a_release(answers, problems):
    answers["app3"]["found"]["live"]["users"] = {"slot": "", "release": "", "version": ""}
    answers["app3"]["found"]["ready"]["users"] = "not ready"
    assert problems() == ["app3: users has no live release"]


def test_releases_that_differ(declared, answers, problems):
    answers["app3"]["found"]["live"]["users"] |= {"release": "2a", "version": "v2"}
    assert problems() == [
        f"app1, app2, app3: users has different live releases: app1 {RELEASE} (v1), app2 {RELEASE} (v1), app3 2a (v2)",
        "app3: users has version v2 live, and v1 is declared",
    ]
    rows = Status(declared, answers).lines()
    assert f"users    v1       {RELEASE}  ready  app1 (blue), app2 (green)" in rows
    assert "users    v2       2a            ready  app3 (blue)" in rows


def test_another_version_than_the_declared(declared, answers, problems):
    declared["services"][0]["version"] = "v2"
    assert problems() == ["app1, app2, app3: users has version v1 live, and v2 is declared"]
    declared["services"][0]["version"] = ""
    assert problems() == []


def test_a_load_balancer_that_misses_a_node(answers, problems):
    answers["lb1"]["found"]["balanced"]["users"]["app2"] = False
    answers["lb2"]["found"]["balanced"] = {}
    assert problems() == [
        "lb1: the load balancer does not pass users to app2, though ready",
        "lb2: the load balancer does not know users",
    ]


def test_nginx_does_not_tell_its_nodes(declared, answers, problems):
    declared["engine"] = "nginx"
    for name in BALANCERS:
        del answers[name]["found"]["balanced"]
    assert problems() == []


def test_a_pooler(answers, problems):
    answers["app1"]["found"]["pooler"] = {"paused": ["all"], "waiting": 20, "seconds": 12}
    answers["app2"]["found"]["pooler"] = {"paused": [], "waiting": 20, "seconds": 12}
    answers["app3"]["found"]["pooler"] = {"paused": [], "waiting": 2, "seconds": 1}
    assert problems() == [
        "app1: the pooler is paused (all)",
        "app2: 20 clients of the pooler wait for the database, one for 12 s",
    ]


def test_what_a_node_leads_to(answers, problems):
    answers["app1"]["found"]["egress"] = {
        "postgresql.primary": ["db1"], "postgresql.replica": ["db1"], "redis.cache": [], "redis.queue": ["cache3"],
        "users.need": [],
    }  # fmt: skip
    assert problems() == [
        "app1: the node proxy leads to db1 for PostgreSQL's primary, which is db2",
        "app1: the node proxy leads to nobody for the master of Redis 'cache', which is cache1",
        "app1: the node proxy does not read from db3, which could be read from",
        "app1: the node proxy leads nowhere for users, which is ready",
    ]


# PostgreSQL


def cluster(answers: dict, *members: dict, paused: bool = False) -> None:
    """Have all hosts tell of the same cluster."""
    for name in DATABASES:
        answers[name]["found"]["cluster"] = {"paused": paused, "members": list(members)}


def test_no_primary(answers, problems):
    cluster(answers, member("db1"), member("db2"), member("db3"))
    assert problems() == ["db1, db2, db3: there is no primary"]


def test_two_primaries(answers, problems):
    answers["db1"]["found"]["patroni"]["role"] = "primary"
    assert problems() == ["db1, db2: more than one is a primary"]


def test_members(answers, problems):
    cluster(
        answers,
        member("db2", "leader", "starting", None),
        member("db3", state="running"),
        member("db4", state="streaming"),
        paused=True,
    )
    for name in NODES:
        answers[name]["found"]["egress"]["postgresql.replica"] = []
    assert problems() == [
        "db1: is not in the PostgreSQL cluster",
        "db2: PostgreSQL is starting, not running",
        "db3: PostgreSQL is running, not streaming",
        "db4: is in the PostgreSQL cluster, and not declared",
        "db2: Patroni is paused, so nobody takes over from a primary that dies",
    ]


def test_replicas(answers, problems):
    late = member("db1", lag=11 * 1024**2) | {"restart": ["max_connections", "wal_level"]}
    cluster(answers, late, member("db2", "leader", "running", None), member("db3", lag="unknown") | {"timeline": 2})
    assert problems() == [
        "db1: PostgreSQL lags by 11 MB",
        "db1: PostgreSQL has to be restarted for max_connections, wal_level",
        "db3: PostgreSQL does not tell its lag",
        "db3: PostgreSQL is on timeline 2, and the primary on 3",
    ]


def test_a_replica_that_only_seems_to_lag_by_a_file_of_wal_that_was_begun(answers, problems):
    late = member("db1", lag=15 * 1024**2)
    cluster(answers, late, member("db2", "leader", "running", None), member("db3", lag=16 * 1024**2))
    for name, location in (("db1", 30), ("db2", 64), ("db3", 52)):
        answers[name]["found"]["patroni"]["location"] = location * 1024**2
    assert problems() == ["db1: PostgreSQL lags by 15 MB", "db3: PostgreSQL lags by 12 MB"]
    answers["db1"]["found"]["patroni"]["location"] = 60 * 1024**2
    answers["db3"]["found"]["patroni"]["location"] = 65 * 1024**2
    assert problems() == []


def test_no_standby_takes_part_in_commits(answers, problems):
    cluster(answers, member("db1", "replica"), member("db2", "leader", "running", None), member("db3", "replica"))
    assert problems() == ["db2: no standby takes part in commits, so what is acknowledged is on one host only"]
    for name in DATABASES:
        answers[name]["found"]["settings"]["synchronous"] = False
    assert problems() == []


def test_without_etcd(answers, problems):
    """The primary goes on; no view of the cluster is left, and who leads is known from the hosts themselves."""
    for name in DATABASES:
        stop(answers, name, "etcd", "etcd", "members")
        silence(answers, name, "cluster")
    answers["db2"]["found"]["patroni"] |= {"failsafe": True, "unseen": 40}
    answers["db1"]["found"]["patroni"]["unseen"] = 40
    silent = "Patroni does not tell of its cluster: no answer within 3 s"
    assert problems() == [
        *(f"{name}: {what}" for name in DATABASES for what in ("etcd is inactive", silent)),
        "db1: Patroni has not reached etcd for 40 s",
        "db2: PostgreSQL goes on without etcd (failsafe mode)",
    ]


# etcd


def test_etcd_without_a_leader(answers, problems):
    for name in ("db1", "db2"):
        stop(answers, name, "etcd", "etcd", "members")
    silence(answers, "db3", "members")
    answers["db3"]["found"]["etcd"] = {"id": 3, "leader": 0, "wrong": ["etcdserver: no leader"]}
    assert problems() == [
        "db1: etcd is inactive",
        "db2: etcd is inactive",
        "db3: etcd does not tell of its members, which takes a quorum: no answer within 3 s",
        "db3: etcd has no leader",
    ]


def test_members_of_etcd(declared, answers, problems):
    members = [
        {"id": 3, "name": "db3", "peers": [f"https://{ADDRESSES['db3']}:2380"], "learner": True},
        {"id": 2, "name": "", "peers": [f"https://{ADDRESSES['db2']}:2380"], "learner": True},
        {"id": 9, "name": "db9", "peers": ["https://10.77.0.49:2380"], "learner": False},
    ]
    for name in DATABASES:
        answers[name]["found"]["members"] = members
    answers["db3"]["found"]["etcd"]["wrong"] = ["memberID:3 alarm:NOSPACE "]
    answers["db2"]["found"]["etcd"]["leader"] = 9
    assert problems() == [
        "db3: etcd says: memberID:3 alarm:NOSPACE",
        "db1, db2, db3: etcd's members follow different leaders",
        "db1: is no member of etcd",
        "db2: is to be a member of etcd, and never started",
        "db3: is a learner of etcd, without a vote",
        "db9: is a member of etcd, and not declared",
    ]
    assert "etcd learner" in Status(declared, answers).hosts["db3"].roles


# Redis


def test_two_masters(answers, problems):
    answers["cache2"]["found"]["redis.cache"] = {"role": "master", "replicas": []}
    assert problems() == ["cache1, cache2: more than one is a master of Redis 'cache'"]


def test_no_master(answers, problems):
    answers["cache1"]["found"]["redis.cache"] = answers["cache2"]["found"]["redis.cache"] | {"link": "down"}
    answers["cache2"]["found"]["redis.cache"]["link"] = "down"
    assert problems() == [
        "cache1, cache2, cache3: nobody is the master of Redis 'cache'",
        "cache1: Redis 'cache' does not reach its master cache1",
        "cache2: Redis 'cache' does not reach its master cache1",
    ]


def test_replicas_of_redis(answers, problems):
    answers["cache2"]["found"]["redis.cache"] |= {"link": "down"}
    answers["cache3"]["found"]["redis.cache"] |= {"link": "down", "syncing": True}
    answers["cache1"]["found"]["redis.queue"]["master"] = ADDRESSES["cache2"]
    answers["cache3"]["found"]["redis.queue"]["replicas"][1] |= {"lag": 30, "bytes": 20 * 1024**2}
    assert problems() == [
        "cache2: Redis 'cache' does not reach its master cache1",
        "cache3: Redis 'cache' copies its master's data anew",
        "cache1: Redis 'queue' follows cache2, and cache3 is the master",
        "cache2: Redis 'queue' is online and lags by 30 s and 20 MB",
    ]


def test_sentinels(answers, problems):
    answers["cache1"]["found"]["sentinel"]["cache"] |= {"address": ADDRESSES["cache2"], "flags": ["o_down", "s_down"]}
    answers["cache2"]["found"]["sentinel"]["cache"] |= {"quorum": 1, "sentinels": 2, "replicas": 3}
    del answers["cache3"]["found"]["sentinel"]["queue"]
    assert problems() == [
        "cache1: Sentinel takes cache2 for the master of 'cache', and it is cache1",
        "cache1: Sentinel calls the master of 'cache' o_down, s_down",
        "cache2: Sentinel wants 1 votes on 'cache', not 2",
        "cache2: Sentinel knows 2 Sentinels of 'cache', and 3 are declared",
        "cache2: Sentinel knows 3 replicas of 'cache', and 2 are declared",
        "cache3: Sentinel does not watch 'queue'",
    ]


def test_a_problem_is_a_line_with_its_mend(declared, answers):
    stop(answers, "db3", "etcd", "etcd", "members")
    status = Status(declared, answers)
    assert not status.healthy
    assert status.lines()[-2:] == ["PROBLEMS", "db3: etcd is inactive; `systemctl start etcd` there, or `make site`"]
    assert status.data()["problems"] == status.lines()[-1:]


def test_columns_stand_below_each_other():
    assert table([["HOST", "RUNS"], ["a", "x y"], ["longer", ""]]) == ["HOST    RUNS", "a       x y", "longer"]
    assert table([["HOST"]]) == ["HOST"]


# As `make status` runs it


def run(shape: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook on one machine that is everything."""
    given = {"vault_key": VAULT_KEY, "vault_services": {}, "status_format": shape, "status_timeout": 2} | variables
    return subprocess.run(
        [ANSIBLE, "-i", ROOT / "tests/hostless/data/inventory/single", "-e", json.dumps(given), "playbooks/status.yml"],
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "lines", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_without_a_host_that_answers():
    done = run("json", ansible_host="127.0.0.1", ansible_port="1", ansible_ssh_common_args="-o BatchMode=yes")
    assert done.returncode == 3, done.stderr
    data = json.loads(done.stdout)
    assert data["healthy"] is False
    assert len(data["problems"]) == 1
    assert re.match(r"solo: is not reached: .*Connection refused", data["problems"][0])


def test_a_run_on_a_machine_that_is_nothing():
    done = run(
        "table", ansible_connection="local", ansible_become="false", address="127.0.0.1",
        ansible_python_interpreter=sys.executable,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["HOST", "ADDRESS", "ROLES", "VERSIONS", "CERT", "DISK"]
    told = lines[lines.index("PROBLEMS") + 1 :]
    assert len(told) > 5
    assert all(line.startswith("solo: ") and "; " in line for line in told)


def test_another_format_is_refused():
    done = run("xml", ansible_host="127.0.0.1", ansible_port="1", ansible_ssh_common_args="-o BatchMode=yes")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "there is no format 'xml'; choose table or json" in done.stderr


# Backups


def test_wal_that_waits_for_its_repository(answers, problems):
    answers["db2"]["found"]["archive"] = {"waiting": 34, "seconds": 750}
    assert problems() == ["db2: 34 files of WAL wait for the repository, the first for 12 min"]


def test_a_repository_that_is_not_well(answers, problems):
    answers["backup1"]["found"]["backups"] |= {"wrong": "missing stanza data"}
    assert problems() == ["backup1: pgBackRest says of the repository: missing stanza data"]


def test_no_backup(answers, problems):
    answers["backup1"]["found"]["backups"] = {"wrong": "", "newest": None}
    assert problems() == ["backup1: there is no backup"]


def test_an_old_backup_and_one_with_errors(answers, problems):
    answers["backup1"]["found"]["backups"]["newest"] = backup(75) | {"error": True}
    assert problems() == [
        "backup1: the newest backup is 3 d old",
        "backup1: the backup 20261101-013000F has pages with errors",
    ]


def test_wal_that_was_let_go(answers, problems):
    answers["backup1"]["found"]["backups"]["newest"]["gap"] = "000000030000000000000012"
    assert problems() == [
        "backup1: WAL is missing after 000000030000000000000012: nothing later can be restored, until there is a new "
        "backup"
    ]


def test_a_repository_that_does_not_answer(answers, problems):
    silence(answers, "backup1", "backups")
    assert problems() == ["backup1: the repository of backups does not answer: no answer within 3 s"]


def test_a_backup_that_was_never_proven_and_an_old_proof_that_failed(answers, problems):
    answers["backup1"]["found"]["proof"] = None
    assert problems() == ["backup1: it was never proven that a backup can be restored"]
    answers["backup1"]["found"]["proof"] = proof(240, "pg_amcheck finds damage: x")
    assert problems() == [
        "backup1: the last backup that was restored to prove that it can be: pg_amcheck finds damage: x",
        "backup1: that a backup can be restored was proven 10 d ago",
    ]


def test_a_proof_counts_on_whichever_host_it_was(answers, problems):
    """Without a host for backups, that is the replica of that time."""
    answers["backup1"]["found"]["proof"] = None
    answers["db1"]["found"]["proof"] = proof(400, "damage")
    answers["db3"]["found"]["proof"] = proof(20)
    assert problems() == []
    answers["db3"]["found"]["proof"] = proof(240)
    assert problems() == ["db3: that a backup can be restored was proven 10 d ago"]


def test_snapshots_of_redis_that_fail_and_grow_old(answers, problems):
    its = answers["backup1"]["found"]["backups"]
    its["snapshots"] = {"queue": {"at": its["newest"]["end"], "problem": ""}}
    assert problems() == []
    its["snapshots"] = {"queue": {"at": proof(2)["at"], "problem": "no Sentinel says who the master of queue is"}}
    assert problems() == [
        "backup1: the last snapshot of Redis queue failed: no Sentinel says who the master of queue is",
        "backup1: the newest snapshot of Redis queue is 2 h old",
    ]
    its["snapshots"] = {"queue": {"problem": "restic failed with 1"}}
    assert problems()[1:] == ["backup1: the newest snapshot of Redis queue was never taken"]
