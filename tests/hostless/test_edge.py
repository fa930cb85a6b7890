"""The edge: whom it and the load balancers believe, what its hosts are, and that nothing is counted twice."""

from __future__ import annotations

import re

import pytest

from landscape import ROOT, Landscape, load
from test_nginx import block, configuration, first

preflight = load("plugins/filter/preflight.py", "filter_preflight_for_edge")
rotation = load("plugins/filter/rotation.py", "filter_rotation_for_edge")
status = load("plugins/filter/status.py", "filter_status_for_edge")

CDN = "198.51.100.0/24"
EDGES = ["10.77.0.61", "10.77.0.62"]
PORTS = {"http": 80, "https": 443, "certificates": 8402, "patroni": 8008, "postgresql": 5432}
PORTS |= {"etcd_client": 2379, "etcd_peer": 2380}


@pytest.mark.parametrize(
    ("bought", "closed"),
    [([], {"lb1": True, "edge1": False}), ([CDN], {"lb1": True, "edge1": True})],
    ids=["alone", "behind a CDN"],
)
def test_each_believes_what_stands_before_it(bought, closed):
    """An origin that is closed to others is so at the edge only where something stands before that."""
    behind = Landscape(ROOT / "inventory/lab", trusted_proxies=bought, origin_closed=True, tls={"mode": "acme"})
    assert behind.value("lb1", "haproxy_lb_trusted") == [*EDGES, *bought]
    assert behind.value("edge1", "nginx_lb_trusted") == bought
    assert {host: behind.value(host, "nginx_lb_closed") for host in closed} == closed
    # Both have clients, so both have the certificate.
    assert behind.value("edge1", "certificates_units") == ["nginx@edge"]
    assert "certificates" in behind.value("edge1", "topology_roles")
    assert {"edge1", "lb1"} <= set(behind.value("edge1", "certificates_hosts | map(attribute='name')"))
    assert behind.value("edge1", "nginx_lb_certificate") == behind.value("lb1", "haproxy_lb_certificate")


def test_the_exchange_of_certificates_is_known_at_the_edge():
    wanted = preflight.ports_wanted(["edge"], PORTS, "192.0.2.1", [], [], True)
    assert [each["port"] for each in wanted] == [80, 443, 8402]
    shown = [rotation.rotation_ports(["edge"], PORTS, mode, 3) for mode in ("internal", "acme", "files")]
    assert [[port["name"] for port in ports] for ports in shown] == [["https"], ["certificates"], []]
    asked = status.status_asked(
        ["edge"], "192.0.2.1", "", "haproxy", "/", PORTS, [], [], {}, "edge1", tls="acme", keeps=True
    )
    assert asked["units"] == ["nginx@edge", "nginx-certificates", "terrace-certificates.timer"]


@pytest.mark.parametrize(("address", "counted"), [("unix:", ""), ("192.0.2.1", "counted")])
def test_what_a_host_asks_itself_is_counted_once(nginx, address, counted):
    """A cache asks the engine over a socket for what came in, and was counted, before."""
    everybody = first(block(configuration(nginx), "map $exempt:$remote_addr $everybody"), f":{address}")
    client = first(block(configuration(nginx), "map $binary_remote_addr $network"), address)
    assert (bool(everybody), bool(client)) == (bool(counted), bool(counted))


def test_clients_are_not_shown_what_the_edge_is():
    """The host's own certificate has clients' names, too, and of two kinds of key HAProxy prefers the newer."""
    acme = Landscape(ROOT / "inventory/lab", playbook="playbooks/loadbalancer.yml", tls={"mode": "acme"})
    found = {file.path: file.text for file in acme.files if file.host == "lb1"}
    bind = re.search(r"bind \S+:443 ssl (.*)", found["/etc/haproxy/lb.cfg"])[1]
    assert "crt /etc/terrace/tls/public.crt crt-list /etc/haproxy/lb.origin.list" in bind
    assert found["/etc/haproxy/lb.origin.list"].splitlines()[-1] == (
        "/etc/terrace/pki/host.crt origin.terrace.internal"
    )
