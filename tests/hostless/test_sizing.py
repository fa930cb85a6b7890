"""What is derived from a host fits into it, and a host that is too small, or unfit otherwise, is refused by a line."""

from __future__ import annotations

import itertools
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from landscape import ROOT, load

sizing = load("plugins/filter/sizing.py", "sizing")
preflight = load("plugins/filter/preflight.py", "preflight")
host_facts = load("plugins/modules/host_facts.py", "host_facts")

MEMORY = [*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64]
CPUS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
ALL = ["loadbalancer", "app", "cache", "sentinel", "database", "etcd", "backup"]
REDIS = [{"share": 2}, {"share": 1}]


def service(name: str, memory_mb: int = 512, units: int = 0, workers: Any = "auto", database: bool = True) -> dict:
    return {"name": name, "memory_mb": memory_mb, "units": units, "workers": workers, "database": database}


FEW = [service("users", 256), service("orders", 256, units=2)]
MANY = [service(f"s{n}", 256 * (1 + n % 4), units=n % 3, workers=n or "auto") for n in range(12)]
HOSTS = {
    "database": (["database"], []),
    "database and etcd": (["database", "etcd"], []),
    "etcd witness": (["etcd"], []),
    "cache": (["cache"], []),
    "cache and Sentinel": (["cache", "sentinel"], []),
    "load balancer": (["loadbalancer"], []),
    "app": (["app"], FEW),
    "app, many services": (["app"], MANY),
    "app without services": (["app"], []),
    "app and cache": (["app", "cache", "sentinel"], FEW),
    "load balancer and app": (["loadbalancer", "app"], FEW),
    "database, etcd, cache": (["cache", "sentinel", "database", "etcd"], []),
    "everything": (ALL, FEW),
    "everything, many services": (ALL, MANY),
}


def plan(
    tiers: list[str], services: list[dict], memory_mb: int, cpus: int, connections: int = 100, redis=REDIS
) -> dict:
    host = {"tiers": tiers, "services": services, "max_connections": connections, "redis": redis}
    return sizing.host_plan(host, {"memtotal_mb": memory_mb, "processor_nproc": cpus})


def taken(tiers: list[str], services: list[dict], cpus: int, connections: int, made: dict, redis=REDIS) -> float:
    """Return the memory of everything on a host, added up from the settings and not from what they were made of."""
    total = 256.0
    if "app" in tiers:
        total += sum(s["memory_mb"] * (1 + s["units"]) for s in services)
        total += max([s["memory_mb"] for s in services], default=0)
        total += 10 + made["connections"]["pooler"] * 2 / 1024
        total += 32 + made["connections"]["node"] / 20000 * 1024
    if "loadbalancer" in tiers:
        total += 32 + made["connections"]["lb"] / 8000 * 1024
    if "database" in tiers:
        s = sizing.postgresql_sizes(made["postgresql_mb"], cpus, connections)
        assert s["work_mem"] >= 1
        total += 80 + s["shared_buffers"] * 1.03 + 16
        total += connections * (1.3 + s["work_mem"]) + s["max_parallel_workers"] * s["work_mem"]
        total += s["maintenance_work_mem"] + 3 * s["autovacuum_work_mem"]
    if "etcd" in tiers:
        total += 64
    if "cache" in tiers:
        sizes = sizing.redis_sizes(made["redis_mb"], redis)
        # Each full and fragmented, one saving while everything in it changes, a backlog each.
        total += sum(1.1 * size + 32 + 16 for size in sizes) + max(sizes)
    return total


@pytest.mark.parametrize("kind", HOSTS)
def test_everything_on_a_host_fits_wherever_the_host_is_accepted(kind):
    tiers, services = HOSTS[kind]
    accepted = refused = 0
    for gigabytes, cpus, connections in itertools.product(MEMORY, CPUS, (20, 100, 500)):
        memory = gigabytes * 1024
        made = plan(tiers, services, memory, cpus, connections)
        place = (kind, gigabytes, cpus, connections)
        if sum(made["needs"].values()) > memory:
            [line] = preflight._memory({}, {"plan": made})
            assert line.startswith(f"has {memory} MiB of memory, and what is declared comes to "), place
            refused += 1
            continue
        assert preflight._memory({}, {"plan": made}) == [], place
        assert sum(made["uses"].values()) <= memory, (place, made)
        assert taken(tiers, services, cpus, connections, made) <= memory, (place, made)
        # The system keeps a twentieth at least, with all the rest at its limit.
        assert made["uses"]["the system"] >= max(256, min(2048, memory / 20)), place
        accepted += 1
    assert accepted > 0
    if kind in ("everything", "app, many services", "database"):
        assert refused > 0


@pytest.mark.parametrize("kind", HOSTS)
def test_more_memory_never_gives_less(kind):
    tiers, services = HOSTS[kind]
    for cpus in (1, 8, 32):
        plans = [plan(tiers, services, gigabytes * 1024, cpus) for gigabytes in MEMORY]
        plans = [made for made in plans if sum(made["needs"].values()) <= made["memory_mb"]]
        for less, more in itertools.pairwise(plans):
            assert more["postgresql_mb"] >= less["postgresql_mb"]
            assert more["redis_mb"] >= less["redis_mb"]
            assert all(more["connections"][name] >= number for name, number in less["connections"].items())


def test_a_host_of_its_own_gives_its_tier_all_but_a_reserve():
    for gigabytes in (2, 8, 64):
        memory = gigabytes * 1024
        reserve = sizing.system_mb(memory)
        assert plan(["database"], [], memory, 4)["postgresql_mb"] == memory - reserve - sizing.PATRONI
        assert plan(["cache"], [], memory, 4)["redis_mb"] >= memory - reserve - 8


def test_what_is_stated_wins_over_what_the_host_claims():
    facts = {"memtotal_mb": 64000, "processor_nproc": 32}
    made = sizing.host_plan({"tiers": ["database"], "max_connections": 50, "memory_mb": 2048, "cpus": 2}, facts)
    assert (made["memory_mb"], made["cpus"]) == (2048, 2)
    stated = [{"share": 2, "maxmemory_mb": 100}, {"share": 1, "maxmemory_mb": 50}]
    made = plan(["cache", "database"], [], 8192, 4, redis=stated)
    assert sizing.redis_sizes(made["redis_mb"], stated) == [100, 50]
    assert made["uses"]["Redis"] == 2 * 64 + 165 + 100
    assert made["postgresql_mb"] == 8192 - 819 - 96 - made["redis_mb"]
    half = [{"share": 2, "maxmemory_mb": 3000}, {"share": 1, "maxmemory_mb": 0}]
    made = plan(["cache"], [], 8192, 4, redis=half)
    assert sizing.redis_sizes(made["redis_mb"], half)[0] == 3000
    assert sum(made["uses"].values()) <= 8192
    assert sum(plan(["cache"], [], 4096, 4, redis=half)["needs"].values()) > 4096


@pytest.mark.parametrize(
    ("workers", "memory", "cpus", "wanted"),
    [
        ("auto", 512, 1, 2),
        ("auto", 512, 4, 4),
        ("auto", 512, 32, 7),
        ("auto", 4096, 32, 32),
        ("auto", 64, 8, 1),
        (12, 128, 1, 12),
    ],
)
def test_workers_follow_cpus_as_far_as_the_slots_memory_goes(workers, memory, cpus, wanted):
    assert sizing.service_workers(workers, memory, cpus) == wanted


def test_services_get_a_number_of_workers():
    services = [{"name": "a", "workers": "auto", "memory": "1G"}, {"name": "b", "workers": 3, "memory": "64M"}]
    assert [(s["name"], s["workers"]) for s in sizing.services_sized(services, 16)] == [("a", 15), ("b", 3)]


@pytest.mark.parametrize(
    ("interface", "workers", "threads", "wanted"),
    [
        ("wsgi", 1, 1, 1),  # a write can hold the only thread
        ("wsgi", 4, 1, 1),
        ("wsgi", 2, 2, 1),
        ("wsgi", 1, 4, 3),
        ("wsgi", 2, 4, 3),
        ("wsgi", 8, 4, 8),
        ("wsgi", 2, 8, 7),
        ("asgi", 1, 4, 16),
        ("asgi", 2, 4, 32),
    ],
)
def test_writes_leave_room_for_reads(interface, workers, threads, wanted):
    service = {"interface": interface, "workers": workers, "threads": threads}
    assert sizing.slot_writes(service) == wanted
    assert interface == "asgi" or wanted < workers * threads or workers * threads == 1


def test_services_get_a_number_of_writes():
    size = {"interface": "wsgi", "workers": "auto", "threads": 4, "memory": "1G"}
    services = [size | {"writes": "auto"}, size | {"writes": 5}, size | {"writes": 0}, {"name": "a"}]
    assert [service["writes"] for service in sizing.services_bounded(services, 8)] == [8, 5, 0, 0]
    assert sizing.services_bounded(services, 8)[0]["workers"] == "auto"


def test_services_ask_for_their_processes_everywhere_and_for_their_schedules_on_the_first_node(lab):
    units = {
        host: {s["name"]: s["units"] for s in lab.value(host, "topology_host.services")} for host in ("app1", "app2")
    }
    assert units == {
        "app1": {"httpbin": 0, "orders": 2, "users": 0},
        "app2": {"httpbin": 0, "orders": 1, "users": 0},
    }
    assert lab.value("app1", "topology_host.services[0].memory_mb") == 512
    assert sizing.services_load(
        [{"name": "a", "memory": "1500K", "processes": {}, "schedule": {}, "workers": 1, "database": None}],
        {"a": "h"},
        "h",
    ) == [service("a", 2, workers=1, database=False)]


def test_the_plan_reaches_the_roles(single, lab):
    assert single.value("solo", "topology_host.tiers") == ALL
    assert single.value("solo", "redis_instances | map(attribute='share')") == [2, 1]
    assert lab.value("db1", "[patroni_host.memory_mb, patroni_host.max_connections]") == [4096, 200]


def test_redis_gets_what_the_host_carries_where_nothing_is_stated(single, ha):
    def maxmemory(landscape, host: str) -> dict[str, str]:
        found = {file.path: file.text for file in landscape.files if file.host == host and "runtime.conf" in file.path}
        return {Path(path).name: re.search(r'(?m)^maxmemory "(.*)"', text)[1] for path, text in found.items()}

    # 3900 MiB are too little for everything; so each gets the least.
    assert maxmemory(single, "solo") == {"redis-cache.runtime.conf": "32mb", "redis-queue.runtime.conf": "32mb"}
    assert maxmemory(ha, "cache1") == {"redis-cache.runtime.conf": "512mb", "redis-queue.runtime.conf": "256mb"}


def test_preflight_gathers_what_later_plays_of_the_run_look_for(ha):
    """A play that gathers gets what an earlier one gathered (`gathering = smart`), and no more than that."""
    gathered = {"hardware", "virtual"}
    later = [play for play in ha.plays if play.gather_facts]
    assert len(later) > 3
    assert [play.get_name() for play in later if not play.gather_subset or set(play.gather_subset) - gathered] == []


def test_the_page_is_current():
    """docs/sizing.md shows what the rules come to now; `make docs` writes it anew."""
    generate = load("docs/generate-sizing", "generate_sizing")
    page = (ROOT / "docs/sizing.md").read_text()
    assert generate.generated(page) == page
    assert page.count("\n| 64 | 32 |") == 4


# Preflight

NOW = 1_800_000_000.0
FACTS = {
    "distribution": "Debian",
    "distribution_version": "13.1",
    "distribution_major_version": "13",
    "architecture": "x86_64",
    "service_mgr": "systemd",
}
ASKED = {
    "addresses": ["10.0.0.41", "127.0.0.1", "::1", "fe80::1"],
    "resolved": ["10.0.0.41"],
    "listeners": [],
    "space": [{"path": "/", "free_mb": 9000, "filesystem": "1"}, {"path": "/srv", "free_mb": 9000, "filesystem": "2"}],
    "terrace": False,
    "time": NOW,
    "asked": NOW,
}
WANTED = {
    "name": "db1",
    "address": "10.0.0.41",
    "connection": "db1.example.com",
    "ports": [
        {"address": "10.0.0.41", "port": 5432, "by": "PostgreSQL"},
        {"address": "127.0.0.1", "port": 6432, "by": "PgBouncer"},
    ],
    "units": [r"(patroni|pgbouncer)\.service"],
    "disk": {"/": 512, "/srv": 2048},
    "disk_left_mb": 256,
    "clock_seconds": 30,
    "skip": [],
}
SMALL = plan(["database", "etcd"], [], 960, 1)
APACHE = {"address": "0.0.0.0", "port": 5432, "pid": 812, "process": "apache2", "unit": "apache2.service"}  # noqa: S104
BAD = {
    "unreachable": (
        {
            "gathered": {
                "unreachable": True,
                "msg": "Task failed: Failed to connect to the host via ssh: Connection refused.",
            }
        },
        "cannot be reached at db1.example.com: Connection refused; mend ansible_host, ansible_user, its key or the"
        " network",
    ),
    "gone between the two": (
        {"asked": {"unreachable": True, "msg": "Connection timed out"}},
        "cannot be reached at db1.example.com: Connection timed out; mend ansible_host, ansible_user, its key or the"
        " network",
    ),
    "no Python": (
        {
            "gathered": {
                "failed": True,
                "msg": "The following modules failed to execute: ansible.legacy.setup.",
                "failed_modules": {
                    "ansible.legacy.setup": {
                        "rc": 127,
                        "msg": "The module interpreter '/usr/bin/python3' was not found.",
                    }
                },
            }
        },
        "has no /usr/bin/python3; install it there: apt install python3",
    ),
    "no sudo": (
        {"gathered": {"failed": True, "msg": "Task failed: Missing sudo password"}},
        "has no root for us: Missing sudo password; allow its user sudo without a password, or give"
        " ansible_become_password",
    ),
    "breaks otherwise": (
        {"gathered": {"failed": True, "msg": "No space left on device"}},
        "could not be asked: No space left on device",
    ),
    "Ubuntu": (
        {
            "facts": FACTS
            | {"distribution": "Ubuntu", "distribution_version": "24.04", "distribution_major_version": "24"}
        },
        "is Ubuntu 24.04; Terrace runs on Debian 13 only, so install that",
    ),
    "Debian 12": (
        {"facts": FACTS | {"distribution_version": "12.11", "distribution_major_version": "12"}},
        "is Debian 12.11; Terrace runs on Debian 13 only, so install that",
    ),
    "32 bits": (
        {"facts": FACTS | {"architecture": "armv7l"}},
        "its processor is armv7l; use a machine with one of x86_64, aarch64",
    ),
    "no systemd": (
        {"facts": FACTS | {"service_mgr": "sysvinit"}},
        "runs sysvinit instead of systemd; boot it with systemd",
    ),
    "little memory": (
        {"plan": SMALL},
        "has 960 MiB of memory, and what is declared comes to 256 for the system + 96 for etcd + 96 for Patroni"
        " + 704 for PostgreSQL = 1152; give it more, or lower patroni_max_connections, or move a group to another host",
    ),
    "little memory for services": (
        {"plan": plan(["app"], FEW, 1024, 1)},
        "has 1024 MiB of memory, and what is declared comes to 256 for the system + 256 for the service users"
        " + 768 for the service orders + 256 for the second slot of a restart + 26 for PgBouncer "
        "+ 104 for the node proxy = 1666; give it more, or lower memory of a service, or move a group to another host",
    ),
    "unknown memory": (
        {"plan": {}},
        "does not tell how much memory it has; mount its /proc, or state host_memory_mb and host_cpus",
    ),
    "little space": (
        {"asked": {"space": [ASKED["space"][0], ASKED["space"][1] | {"free_mb": 900}]}},
        "has 900 MiB free for /srv, and a first run needs 2048; make room, or lower preflight_disk",
    ),
    "little space on one filesystem": (
        {"asked": {"space": [{"path": path, "free_mb": 2100, "filesystem": "1"} for path in ("/srv", "/")]}},
        "has 2100 MiB free for / and /srv, and a first run needs 512 + 2048 = 2560; make room, or lower preflight_disk",
    ),
    "hardly any space, later": (
        {"asked": {"terrace": True, "space": [ASKED["space"][0] | {"free_mb": 120}]}},
        "has 120 MiB free for /, less than the 256 that a run needs; make room",
    ),
    "clock behind": (
        {"asked": {"time": NOW - 95.4}},
        "its clock is 95 seconds behind the controller's; set it, and keep it set by NTP",
    ),
    "clock ahead": (
        {"asked": {"time": NOW + 3700}},
        "its clock is 3690 seconds ahead of the controller's; set it, and keep it set by NTP",
    ),
    "another's address": (
        {"asked": {"addresses": ["127.0.0.1", "192.168.1.5", "::1", "fe80::1"]}},
        "its address 10.0.0.41 is on none of its interfaces, which have 192.168.1.5; set address in hosts.yml"
        " to one of these",
    ),
    "no network": (
        {"asked": {"addresses": ["127.0.0.1"]}},
        "its address 10.0.0.41 is on none of its interfaces, which have none; set address in hosts.yml to one of these",
    ),
    "a name that is none": (
        {"asked": {"resolved": []}},
        "cannot resolve its own address 10.0.0.41; set address in hosts.yml to its private IP address",
    ),
    "a port taken": (
        {"asked": {"listeners": [APACHE]}},
        "port 5432, which PostgreSQL wants, is taken by apache2 (pid 812, apache2.service); stop it or move it",
    ),
    "a port taken by nobody knows whom": (
        {"asked": {"listeners": [APACHE | {"pid": 0, "process": "", "unit": ""}]}},
        "port 5432, which PostgreSQL wants, is taken by a process that root may not see; stop it or move it",
    ),
    "a local port taken by hand": (
        {"asked": {"listeners": [{"address": "::", "port": 6432, "pid": 99, "process": "ncat", "unit": ""}]}},
        "port 6432, which PgBouncer wants, is taken by ncat (pid 99); stop it or move it",
    ),
}


def refusals(**changes: Any) -> list[str]:
    answers = {"gathered": {}, "asked": {}, "facts": FACTS, "plan": plan(["database"], [], 4096, 2)} | changes
    answers["asked"] = ASKED | answers["asked"]
    skip = answers.pop("skip", [])
    return preflight.preflight_problems(WANTED | {"skip": skip}, answers, NOW + 10)


def test_a_good_host_is_not_refused():
    assert refusals() == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_host_is_refused_with_a_line(name):
    changes, line = BAD[name]
    assert refusals(**changes) == [f"db1: {line}"]


def test_all_that_is_wrong_is_told_at_once():
    found = refusals(
        facts=FACTS | {"distribution_major_version": "12"}, plan=SMALL, asked={"listeners": [APACHE], "time": 0}
    )
    assert len(found) == 4
    skipped = {"skip": ["system", "memory", "ports"], "plan": SMALL, "asked": {"listeners": [APACHE]}}
    assert refusals(**skipped) == []
    with pytest.raises(AnsibleFilterError, match=r"preflight_skip: there is no check memroy; known are system, memory"):
        refusals(skip=["memroy"])


def test_what_is_ours_or_elsewhere_is_in_nobodys_way():
    ours = APACHE | {"process": "postgres", "unit": "patroni.service"}
    elsewhere = APACHE | {"address": "192.168.1.5"}
    assert refusals(asked={"listeners": [ours, elsewhere]}) == []
    unseen = APACHE | {"pid": 0, "process": "", "unit": ""}
    assert refusals(asked={"listeners": [unseen], "terrace": True}) == []


def test_slow_answers_are_no_wrong_clock():
    """The host was asked at NOW, and all answers were there ten seconds later."""
    assert refusals(asked={"time": NOW + 39}) == []
    assert refusals(asked={"time": NOW - 29}) == []


def test_ports_are_those_of_the_hosts_daemons(lab, single):
    def listed(landscape, host: str) -> list[tuple[str, int]]:
        return [(port["address"], port["port"]) for port in landscape.value(host, "preflight_ports")]

    assert listed(lab, "lb1") == [("10.77.0.11", port) for port in (80, 443, 8403)]
    assert listed(lab, "edge1") == [("10.77.0.61", 80), ("10.77.0.61", 443)]
    assert sorted(listed(lab, "db1")) == [("10.77.0.41", port) for port in (2379, 2380, 5432, 8008, 8432)]
    local = [6432, 5432, 5433, 6379, 6380, 8002]
    assert listed(lab, "app1") == [
        *(("10.77.0.21", port) for port in (8400, 8003, 8001, 8002)),
        *(("127.0.0.1", port) for port in local),
    ]
    assert len(set(listed(single, "solo"))) == len(listed(single, "solo"))


def test_the_units_of_ours_are_those_that_roles_run():
    """Every unit of the roles that listens on a port is known as ours, and none of a package is."""
    patterns = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_units"]
    units = ["haproxy@lb", "haproxy@node", "nginx@lb", "patroni", "etcd", "pgbouncer", "redis-sentinel", "pgbackrest"]
    units += ["redis-server@cache", "redis-server@queue", "nginx-certificates", "nginx@cache", "nginx@edge"]
    for unit in units:
        assert any(re.fullmatch(pattern, f"{unit}.service") for pattern in patterns), unit
    for foreign in ("haproxy.service", "nginx.service", "redis-server.service", "postgresql@17-main.service"):
        assert not any(re.fullmatch(pattern, foreign) for pattern in patterns), foreign


# What a host is asked

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1920 00000000:0000 0A 00000000:00000000 00:00000000 00000000   100        0 4242 1 0000000000000000
   1: 2900000A:1538 0100000A:C001 01 00000000:00000000 00:00000000 00000000   100        0 4243 1 0000000000000000
"""
TCP6 = """\
  sl  local_address remote_address st
   0: 0000000000000000FFFF00002900000A:1538 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1
   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 78 1
"""
TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.41
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
"""


def test_listeners_are_read_from_the_kernels_tables():
    assert host_facts.sockets(TCP, {6432, 5432}) == [("127.0.0.1", 6432, "4242")]
    assert host_facts.sockets(TCP6, {5432, 80}) == [("10.0.0.41", 5432, "77"), ("::", 80, "78")]


def test_addresses_are_read_from_the_kernels_tables():
    inet6 = "00000000000000000000000000000001 01 80 10 80 lo\n"
    assert host_facts.local_addresses(TRIE, inet6) == ["10.0.0.41", "127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/apache2.service\n", "apache2.service"),
        ("0::/system.slice/system-haproxy.slice/haproxy@lb.service\n", "haproxy@lb.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/\n", ""),
    ],
)
def test_a_process_is_told_by_its_unit(cgroup, unit):
    assert host_facts.unit_of(cgroup) == unit


def test_this_machine_answers(tmp_path):
    """The reading itself, on the machine that the tests run on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = host_facts.listeners({port})
    assert [(f["address"], f["port"], f["pid"]) for f in found] == [("127.0.0.1", port, os.getpid())]
    place = host_facts.space(str(tmp_path / "not/there/yet"))
    assert place["free_mb"] == pytest.approx(host_facts.space(str(tmp_path))["free_mb"], abs=64)
    assert place["filesystem"] == str(tmp_path.stat().st_dev)
    assert host_facts.resolved("127.0.0.1") == ["127.0.0.1"]
    assert host_facts.resolved("no-such-host.invalid") == []
    addresses = host_facts.local_addresses(host_facts.read("/proc/net/fib_trie"), host_facts.read("/proc/net/if_inet6"))
    assert "127.0.0.1" in addresses
