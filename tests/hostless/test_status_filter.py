"""The table that `make status` ends with."""

from __future__ import annotations

from landscape import load

status = load("plugins/filter/status.py", "filter_status")


def test_columns_stand_below_each_other():
    assert status.table([["HOST", "RUNS"], ["a", "x y"], ["longer", ""]]) == ["HOST    RUNS", "a       x y", "longer"]
    assert status.table([["HOST"]]) == ["HOST"]


def test_hosts():
    hostvars = {
        "a": {
            "topology_address": "10.0.0.1",
            "status_units": {
                "stdout_lines": [
                    "haproxy@node.service  loaded active running HAProxy node",
                    "svc-x@blue.service loaded failed failed x (gunicorn), slot blue",
                ]
            },
        },
        "b": {"topology_address": "10.0.0.2", "status_units": {"stdout_lines": []}},
        "c": {"topology_address": "10.0.0.3", "status_units": {"unreachable": True}},
        "d": {"topology_address": "10.0.0.4"},
    }
    groups = {"app": ["a", "b"], "cache": ["a"], "lab": ["a"]}
    assert status.status_hosts(["b", "a", "c", "d"], groups, hostvars, ["cache", "app", "etcd"]) == [
        ["HOST", "ADDRESS", "GROUPS", "RUNS"],
        ["b", "10.0.0.2", "app", "nothing yet"],
        ["a", "10.0.0.1", "cache app", "haproxy@node svc-x@blue (FAILED)"],
        ["c", "10.0.0.3", "", "NOT REACHED"],
        ["d", "10.0.0.4", "", "NOT REACHED"],
    ]


def test_addresses():
    services = [
        {"name": "a", "routes": [{"host": "", "path": "/a"}, {"host": "a.example.com", "path": ""}]},
        {"name": "b", "routes": []},
        {"name": "c", "routes": [{"host": "c.example.com", "path": "/c"}]},
    ]
    assert status.status_addresses(services, [{"address": "10.0.0.1"}, {"address": "10.0.0.2"}], "/x/ca.crt") == [
        ["SERVICE", "TRY"],
        ["a", "curl --cacert /x/ca.crt https://10.0.0.1/a"],
        ["a", "curl --cacert /x/ca.crt --resolve a.example.com:443:10.0.0.1 https://a.example.com/"],
        ["c", "curl --cacert /x/ca.crt --resolve c.example.com:443:10.0.0.1 https://c.example.com/c"],
    ]


def test_status_of_the_lab(lab):
    """As the playbook shows it before any host was asked."""
    shown = lab.value("lb1", "topology_status")
    assert shown[:3] == [
        "HOST    ADDRESS     GROUPS          RUNS",
        "lb1     10.77.0.11  loadbalancer    NOT REACHED",
        "lb2     10.77.0.12  loadbalancer    NOT REACHED",
    ]
    state = lab.value("lb1", "lab_state")
    assert shown[-1] == f"users    curl --cacert {state}/pki/ca.crt https://10.77.0.10/users"


def test_filters_are_offered_by_name():
    assert list(status.FilterModule().filters()) == ["table", "status_hosts", "status_addresses"]
