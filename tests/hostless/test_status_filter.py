"""What `make status` asks each host for, and what it holds the answers against."""

from __future__ import annotations

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from landscape import ROOT, Landscape, load

status = load("plugins/filter/status.py", "filter_status")
module = load("plugins/modules/host_status.py", "host_status_of_filter")
ADDRESS = "192.0.2.10"


@pytest.fixture
def here() -> dict:
    """A service with everything that has a unit."""
    return {
        "name": "shop",
        "processes": {"mailer": {"command": "x", "count": 2}, "off": {"command": "x", "count": 0}},
        "schedule": {"report": {"command": "x", "at": "daily"}},
    }


def asked(tiers: list[str], virtual: str = "", engine: str = "haproxy", services=(), first=None) -> dict:
    return status.status_asked(
        tiers,
        ADDRESS,
        virtual,
        engine,
        "/health",
        {"http": 80},
        ["cache", "queue"],
        list(services),
        first or {},
        "app1",
    )


def test_units_of_a_load_balancer():
    assert asked(["loadbalancer"])["units"] == ["haproxy@lb"]
    assert asked(["loadbalancer"], "192.0.2.9", "nginx")["units"] == ["nginx@lb", "keepalived"]
    assert asked(["loadbalancer"], "192.0.2.9", "nginx")["packages"] == ["nginx", "keepalived"]


def test_schedules_are_on_the_first_node(here):
    units = ["haproxy@node", "pgbouncer", "terrace-liveness", "svc-shop-mailer@1", "svc-shop-mailer@2"]
    assert asked(["app"], services=[here], first={"shop": "app2"})["units"] == units
    assert asked(["app"], services=[here], first={"shop": "app1"})["units"] == [*units, "svc-shop-report.timer"]
    assert "nginx-static" in asked(["app"], services=[here | {"static": {}}])["units"]


def test_paths_are_where_data_is():
    common = ["/", "/var/log", "/var/lib/terrace", "/srv/terrace"]
    assert asked(["loadbalancer"])["paths"] == common
    assert asked(["database", "etcd"])["paths"] == [*common, "/var/lib/postgresql", "/var/lib/etcd"]


def test_addresses():
    services = [
        {"name": "a", "routes": [{"host": "", "path": "/a"}, {"host": "a.example.com", "path": ""}]},
        {"name": "b", "routes": []},
        {"name": "c", "routes": [{"host": "c.example.com", "path": "/c"}]},
    ]
    assert status.status_addresses(services, "10.0.0.1", "/x/ca.crt") == [
        ["a", "curl --cacert /x/ca.crt https://10.0.0.1/a"],
        ["a", "curl --cacert /x/ca.crt --resolve a.example.com:443:10.0.0.1 https://a.example.com/"],
        ["c", "curl --cacert /x/ca.crt --resolve c.example.com:443:10.0.0.1 https://c.example.com/c"],
    ]


def test_every_host_is_asked_by_what_the_module_takes(landscape):
    for host in landscape.hosts:
        result = ArgumentSpecValidator(module.ARGUMENTS).validate(landscape.value(host, "topology_status_asked"))
        assert result.error_messages == [], host


def test_one_machine_is_asked_everything(single):
    found = single.value("solo", "topology_status_asked")
    assert found["tiers"] == ["loadbalancer", "app", "cache", "sentinel", "database", "etcd", "backup"]
    assert found["virtual_address"] == ""
    assert {"haproxy@lb", "haproxy@node", "redis-server@queue", "redis-sentinel", "patroni", "etcd"} <= {
        *found["units"]
    }
    assert "keepalived" not in found["units"]


def test_answers_are_held_against_the_whole_inventory(ha):
    found = ha.value("db3", "topology_status_declared")
    assert [host["name"] for host in found["hosts"]] == ha.hosts
    assert found["members"]["etcd"][2] == {"name": "db3", "address": "192.0.2.43"}
    assert [(its["name"], its["nodes"], its["routed"]) for its in found["services"]] == [
        ("search-index", ["app2", "app3"], True),
        ("shop", ["app1", "app2", "app3"], True),
        ("stock", ["app1", "app2", "app3"], False),
    ]
    assert found["addresses"][0] == ["search-index", "curl --cacert /nowhere/pki/ca.crt https://192.0.2.10/"]


def test_clients_are_told_the_virtual_address():
    there = Landscape(ROOT / "inventory/lab", loadbalancer_virtual_address="10.77.0.10", lab_state="/nowhere")
    assert there.value("lb1", "topology_status_declared.virtual_address") == "10.77.0.10"
    assert there.value("lb1", "topology_status_declared.addresses")[-1] == [
        "users",
        "curl --cacert /nowhere/pki/ca.crt https://10.77.0.10/users",
    ]
    assert "keepalived" in there.value("lb1", "topology_status_asked.units")


def test_filters_are_offered_by_name():
    assert list(status.FilterModule().filters()) == ["status_asked", "status_services", "status_addresses"]
