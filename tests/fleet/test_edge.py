"""The edge: hosts that answer near the clients, whose origin is the load balancers."""

from __future__ import annotations

import pytest

import lab

EDGE = lab.GROUPS["edge"]
each = pytest.mark.parametrize("place", EDGE)


@each
def test_what_is_not_kept_passes(place):
    headers = {"Host": "httpbin.lab"}
    assert lab.ask(place, "/post", "POST", {"a": 1}, headers).json()["json"] == {"a": 1}
    assert lab.ask(place, "/users?limit=1").status == 200
    assert lab.ask(place, "/users/none").status == lab.ask("virtual", "/users/none").status
    assert lab.ask(place, "/status/418", headers=headers).status == 418
    assert lab.ask(place, "/nothing-answers-here").status == 404
    plain = lab.ask(place, "/get?a=1", headers=headers, port=lab.PORTS["http"])
    assert (plain.status, plain.headers["location"]) == (308, "https://httpbin.lab/get?a=1")


@each
def test_it_tells_who_the_client_is(place):
    """As seen from the load balancers themselves, whatever the client says."""
    forged = {"Host": "httpbin.lab", "X-Forwarded-For": "192.0.2.99", "X-Forwarded-Proto": "ftp"}
    told, straight = (
        lab.ask(where, "/get?show_env=1", headers=forged).json()["headers"] for where in (place, "virtual")
    )
    names = [name for name in straight if name.startswith("X-Forwarded-")]
    assert names
    assert {name: told.get(name) for name in names} == {name: straight[name] for name in names}


@each
def test_it_is_neither_root_nor_believes_another_origin(hosts, place):
    host = hosts[place]
    assert host.run(f"stat --format=%U /proc/{host.show('nginx@edge.service', 'MainPID')}") == "loadbalancer"
    # Not by `nginx -T`, which as root would give the folder of what is kept to another user.
    said = host.run("grep -E '^ *proxy_ssl_(verify|name) ' /etc/nginx/edge.conf")
    assert {line.strip() for line in said.splitlines()} == {
        "proxy_ssl_verify on;",
        "proxy_ssl_name origin.terrace.internal;",
    }


def test_a_load_balancer_that_dies_is_not_missed(hosts):
    engine = lab.running_engine(hosts).unit
    with lab.Load(EDGE[0], "/users?limit=1", pause=0.05) as load:
        hosts[lab.BALANCERS[0]].run(f"systemctl kill --signal=KILL {engine}")
        lab.wait_until_ready(30)
    assert not load.failed, load
