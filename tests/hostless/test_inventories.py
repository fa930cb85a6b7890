"""The inventories that come with Terrace, and what topology and validation make of them and of others."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from landscape import ROOT, Landscape, problems

# Connections that are not the services': superusers, Patroni, monitoring and people.
RESERVE = 20
ADDRESSES = {
    **{"lb1": "10.77.0.11", "lb2": "10.77.0.12"},
    **{"app1": "10.77.0.21", "app2": "10.77.0.22", "app3": "10.77.0.23"},
    **{"cache1": "10.77.0.31", "cache2": "10.77.0.32", "cache3": "10.77.0.33"},
    **{"db1": "10.77.0.41", "db2": "10.77.0.42", "db3": "10.77.0.43"},
    **{"backup1": "10.77.0.51", "edge1": "10.77.0.61", "edge2": "10.77.0.62"},
}


def test_lab_hosts_and_addresses(lab):
    assert {host: lab.value(host, "topology_address") for host in lab.hosts} == ADDRESSES


def test_lab_members(lab):
    def of(*names: str) -> list[dict[str, str]]:
        return [{"name": name, "address": ADDRESSES[name]} for name in names]

    assert lab.value("lb1", "topology_members") == {
        "loadbalancer": of("lb1", "lb2"),
        "app": of("app1", "app2", "app3"),
        "cache": of("cache1", "cache2", "cache3"),
        "sentinel": of("cache1", "cache2", "cache3"),
        "database": of("db1", "db2", "db3"),
        "etcd": of("db1", "db2", "db3"),
        "backup": of("backup1"),
        "edge": of("edge1", "edge2"),
    }


def test_all_hosts_see_the_same(landscape):
    seen = [landscape.value(host, "[topology_members, topology_ports, topology_services]") for host in landscape.hosts]
    assert all(each == seen[0] for each in seen)


def test_private_addresses_come_first(ha):
    assert ha.value("db3", "topology_address") == "192.0.2.43"
    assert ha.value("db3", "topology_members.database[0]") == {"name": "db1", "address": "192.0.2.41"}


def test_production_is_of_full_size_and_staging_small(production, staging):
    def sizes(landscape: Landscape) -> dict[str, int]:
        return {tier: len(members) for tier, members in landscape.value(landscape.hosts[0], "topology_members").items()}

    three = dict.fromkeys(("app", "cache", "sentinel", "database", "etcd"), 3)
    assert sizes(production) == {"loadbalancer": 2, "backup": 1, "edge": 0} | three
    assert production.value("lb2", "[ansible_host, topology_address]") == ["lb2.example.com", "192.0.2.12"]
    assert len(staging.hosts) == 2
    assert sizes(staging) == dict.fromkeys([*three, "loadbalancer", "backup"], 1) | {"edge": 0}


def test_ports_are_unique_where_they_listen(landscape):
    """On an address, and on 127.0.0.1: the table's comments say which; services are on both."""
    text = (ROOT / "playbooks/group_vars/all/topology.yml").read_text()
    local = set(re.findall(r"(?m)^  (\w+): \d+ +# local$", text))
    assert local == {"pgbouncer", "node_primary", "node_replica", "node_cache", "node_queue"}
    ports = landscape.value(landscape.hosts[0], "topology_ports")
    services = landscape.value(landscape.hosts[0], "topology_services | map(attribute='port')")
    for names in (set(ports) - local, local):
        numbers = Counter([ports[name] for name in names] + services)
        assert [number for number, count in numbers.items() if count > 1] == []


def test_ports_are_below_those_of_outgoing_connections(landscape):
    """A daemon cannot take a port that a connection happens to come from."""
    [constants] = [yaml.safe_load((ROOT / "roles/base/vars/main.yml").read_text())]
    first = int(constants["__base_sysctl"]["net.ipv4.ip_local_port_range"].split()[0])
    ports = landscape.value(landscape.hosts[0], "topology_ports")
    services = landscape.value(landscape.hosts[0], "topology_services | map(attribute='port')")
    assert max([*ports.values(), *services]) < first


def test_lab_services(lab):
    services = {service["name"]: service for service in lab.value("app1", "topology_services")}
    assert list(services) == ["httpbin", "orders", "users"]
    assert {name: service["workers"] for name, service in services.items()} == {"httpbin": 2, "orders": 2, "users": 2}
    assert lab.value("app1", "topology_hostnames") == ["httpbin.lab"]
    for service in services.values():
        if "path" in service["source"]:
            assert (ROOT / service["source"]["path"] / "pyproject.toml").exists()


def test_services_here_are_those_of_the_hosts_groups(ha):
    here = {host: ha.value(host, "topology_services_here | map(attribute='name')") for host in ("app1", "app2", "lb1")}
    assert here == {"app1": ["shop", "stock"], "app2": ["search-index", "shop", "stock"], "lb1": []}


def test_poolers_stay_within_the_connection_budget(landscape):
    """All pools of all nodes at once, and a reserve, fit into what the database takes."""
    app, database = landscape.groups["app"], landscape.groups["database"][0]
    pools = sum(sum(landscape.value(host, "pgbouncer_databases | map(attribute='pool')")) for host in app)
    assert pools > 0
    assert pools + RESERVE <= landscape.value(database, "patroni_max_connections")


def test_lab_makes_its_key_once_and_keeps_it_closed(tmp_path):
    keys = {
        Landscape(ROOT / "inventory/lab", lab_state=str(tmp_path), vault_key=None).value("lb1", "vault_key")
        for _ in range(2)
    }
    [key] = keys
    assert re.fullmatch(r"[A-Za-z0-9]{48}", key)
    file = tmp_path / "vault_key"
    assert key in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_lab_state_is_ignored_by_git(lab):
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    fresh = Landscape(ROOT / "inventory/lab")
    assert Path(fresh.value("lb1", "lab_state")) == (ROOT / ".terrace").resolve() / "lab"
    assert ".terrace" in ignored


SCENARIO = ROOT / "molecule/single/environment"


@pytest.fixture
def scenario(tmp_path) -> Path:
    """The inventory of the scenario `single`, where it may be edited, as its create.yml puts it."""
    shutil.copytree(SCENARIO, tmp_path, dirs_exist_ok=True)
    for name in ("services", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path / "inventory/single"


def test_the_scenario_single_is_one_machine_and_room_for_a_second(scenario):
    """One in every group; the second app node, which its test adds by the same words, fits into the budget."""
    alone = Landscape(scenario)
    assert alone.hosts == ["solo1"]
    assert problems(scenario) == []
    assert Path(alone.value("solo1", "lab_state")) == scenario.parents[1] / ".terrace/single"
    hosts = scenario / "hosts.yml"
    nodes = "    app:\n      hosts:\n        solo1:\n"
    assert hosts.read_text().count(nodes) == 1
    hosts.write_text(hosts.read_text().replace(nodes, nodes + "        solo2: {ansible_host: 10.77.0.72}\n"))
    grown = Landscape(scenario)
    assert problems(scenario) == []
    assert grown.value("solo2", "[group_names, topology_address]") == [["app", "lab"], "10.77.0.72"]
    assert grown.value("solo1", "haproxy_lb_services | map(attribute='nodes') | map('length')") == [2, 2, 2]


def test_the_labs_tools_know_every_environment_of_the_lab(scenario):
    """What tests on the lab read of an inventory is what Ansible makes of it."""
    shown = subprocess.run(
        [sys.executable, "-c", "import json, lab; print(json.dumps([lab.ADDRESSES, lab.NODES, str(lab.STATE)]))"],
        cwd=ROOT / "tests/fleet",
        env=os.environ | {"LAB_INVENTORY": str(scenario)},
        capture_output=True,
        text=True,
        check=True,
    )
    state = Landscape(scenario).value("solo1", "lab_state")
    assert json.loads(shown.stdout) == [{"solo1": "10.77.0.71"}, ["solo1"], state]


@pytest.fixture
def large(tmp_path) -> Landscape:
    """300 hosts, 285 of them for services."""
    sizes = {"loadbalancer": 4, "app": 285, "cache": 3, "sentinel": 3, "database": 3, "etcd": 3}
    names = iter(range(1, 1000))
    hosts, groups = {}, {}
    for group, size in sizes.items():
        groups[group] = [f"{group}{number}" for number in range(1, size + 1)]
        for host in groups[group]:
            number = next(names)
            hosts[host] = {"ansible_host": f"198.18.{number // 250}.{number % 250 + 1}"}
    groups["backup"] = ["cache1"]
    directory = tmp_path / "inventory/large"
    (directory / "group_vars/all").mkdir(parents=True)
    children = {group: {"hosts": {host: {} for host in names}} for group, names in groups.items()}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": children}}))
    single = ROOT / "tests/hostless/data/inventory/single/group_vars/all/main.yml"
    (directory / "group_vars/all/main.yml").write_text(single.read_text())
    (tmp_path / "services").symlink_to(ROOT / "tests/hostless/data/services")
    return Landscape(directory)


def test_three_hundred_hosts(large):
    assert len(large.hosts) == 301
    trusted = large.value("app285", "haproxy_node_trusted")
    assert len(trusted) == 4 + 285
    peers = large.value("app285", "haproxy_node_services | map(attribute='peers') | map('length')")
    assert peers == [8, 8, 8]
    backends = large.value("loadbalancer4", "haproxy_lb_services | map(attribute='nodes') | map('length')")
    assert backends == [285, 285]
    assert len(large.value("database2", "patroni_clients")) == 285
    assert large.value("cache3", "redis_sentinel_quorum") == 2
