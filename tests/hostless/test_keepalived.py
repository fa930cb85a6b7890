"""The virtual address: what each balancer is told of the others, and what the engines and certificates make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from landscape import Landscape

VIRTUAL = "192.0.2.10"
BALANCERS = {"lb1": "192.0.2.11", "lb2": "192.0.2.12"}


@pytest.fixture(scope="module")
def alone() -> Landscape:
    """One machine in every group, with an address to hold."""
    return Landscape(Path(__file__).parent / "data/inventory/single", loadbalancer_virtual_address="192.0.2.9")


def text(landscape: Landscape, host: str, path: str) -> str:
    [found] = {file.text for file in landscape.files if (file.host, file.path) == (host, path)}
    return found


def configuration(landscape: Landscape, host: str) -> str:
    return text(landscape, host, "/etc/keepalived/keepalived.conf")


def peers(configuration: str) -> list[str]:
    return re.findall(r"(?m)^        (\S+) min_ttl 255$", configuration)


def test_balancers_know_each_other_and_agree(ha):
    said = {name: configuration(ha, name) for name in BALANCERS}
    for name, address in BALANCERS.items():
        assert f"\n    unicast_src_ip {address}\n" in said[name]
        assert peers(said[name]) == [other for other in BALANCERS.values() if other != address]
        assert f"\n        {VIRTUAL}/32 dev eth0\n" in said[name]
        assert f" http://{address}:80/.well-known/terrace/balancer" in said[name]
    assert {re.search(r"virtual_router_id (\d+)", each)[1] for each in said.values()} == {"10"}
    assert len({re.search(r"priority (\d+)\n", each)[1] for each in said.values()}) == len(BALANCERS)


def test_one_alone_speaks_to_nobody(alone):
    assert peers(configuration(alone, "solo")) == ["127.0.0.1"]


@pytest.mark.parametrize("landscape", ["ha", "nginx"])
def test_it_stops_before_either_engine_does(request, landscape):
    unit = text(request.getfixturevalue(landscape), "lb1", "/etc/systemd/system/keepalived.service.d/terrace.conf")
    [after] = re.findall(r"(?m)^After=(.*)$", unit)
    assert {"haproxy@lb.service", "nginx@lb.service"} <= set(after.split())


def test_an_address_that_a_killed_one_left_is_taken_off(ha):
    unit = text(ha, "lb1", "/etc/systemd/system/keepalived.service.d/terrace.conf")
    assert f"\nExecStopPost=/usr/sbin/ip address flush dev eth0 to {VIRTUAL}/32\n" in unit


def test_certificates_of_balancers_alone_are_good_for_it(ha):
    assert all(VIRTUAL in ha.value(balancer, "pki_addresses") for balancer in BALANCERS)
    assert ha.value("app1", "pki_addresses") == []


def test_without_an_address_it_is_retired(single, ha):
    def actions(landscape: Landscape, host: str) -> set[str]:
        return {step.task.action for step in landscape.steps(host) if step.role == "keepalived"}

    assert "systemd_retired" in actions(single, "solo")
    assert "systemd_current" not in actions(single, "solo")
    assert "systemd_retired" not in actions(ha, "lb1")
    assert single.value("solo", "haproxy_lb_addresses") == [single.value("solo", "topology_address")]
    assert "keepalived" not in single.value("solo", "topology_roles")


def test_the_kernel_lets_the_engine_bind_it_before_the_engine_starts(ha):
    roles = [step.role for step in ha.steps("lb1") if step.task.action == "systemd_current"]
    mine = [role for role in roles if role in ("keepalived", "haproxy")]
    assert mine == ["keepalived", "haproxy", "keepalived"]


def test_every_balancer_says_whether_it_works_before_limits_and_unlogged(ha, nginx):
    lines = text(ha, "lb1", "/etc/haproxy/lb.cfg").splitlines()
    silent, answer, limit = (
        next(number for number, line in enumerate(lines) if start in line)
        for start in ("set-log-level silent if health", "return status 200", "return status 429")
    )
    assert silent < answer < limit
    blocks = re.findall(
        r"(?m)^        location = /\.well-known/terrace/balancer {\n((?:.*\n)*?)        }$",
        text(nginx, "lb1", "/etc/nginx/lb.conf"),
    )
    assert len(blocks) == 2
    assert all("access_log off;" in block and 'return 200 "ok\\n";' in block for block in blocks)
