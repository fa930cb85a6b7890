"""Limits and trusted proxies: what the filter, and both engines' configurations, make of them."""

from __future__ import annotations

import re

import pytest

from landscape import Landscape, load
from test_nginx import block, configuration, first
from test_templates import sections, text

services = load("plugins/filter/services.py", "filter_services_for_limits")


def given(**limit) -> list[dict]:
    return services.services_limits([{"name": "web-shop", "limits": [{"requests": 10} | limit]}])


def test_limits_are_numbered_and_have_all_defaults():
    shop = {"name": "shop", "limits": [{"requests": 5}, {"path": "/Login/", "requests": 2, "by": "all"}]}
    found = services.services_limits([shop, {"name": "other"}], 100)
    assert [(limit["name"], limit["number"], limit["path"], limit["by"]) for limit in found] == [
        ("all", 1, "", "client"),
        ("shop.1", 2, "", "client"),
        ("shop.2", 3, "/login", "all"),
    ]
    assert [limit["seconds"] for limit in found] == [10, 60, 60]
    assert services.services_limits([shop])[0]["name"] == "shop.1"
    # HAProxy's variables know no dash.
    assert given()[0]["key"] == "web_shop.1"


@pytest.mark.parametrize(
    ("requests", "seconds", "rate", "wait"),
    [(10, 60, 10, 6), (100, 1, 6000, 1), (1, 60, 1, 60), (7, 60, 7, 9), (100, 3600, 1, 60), (5, 2, 150, 1)],
)
def test_nginx_is_given_a_rate_and_a_wait_that_is_long_enough(requests, seconds, rate, wait):
    [limit] = given(requests=requests, seconds=seconds)
    assert (limit["rate"], limit["wait"]) == (rate, wait)
    assert limit["wait"] * limit["rate"] >= 60


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ("web-shop POST /login", True),
        ("web-shop POST /login/", True),
        ("web-shop PUT /LOGIN/x", True),
        ("web-shop POST /login;a=b", True),
        ("web-shop POST /login;a=b/x", True),
        ("web-shop GET /login", False),
        ("web-shop POST /loginx", False),
        ("web-shop POST /x/login", False),
        ("web-shopx POST /login", False),
        ("other POST /login", False),
    ],
)
def test_a_limit_counts_what_it_says(asked, counts):
    [limit] = given(path="/login", methods=["POST", "PUT"])
    assert bool(re.search(f"(?i){limit['pattern']}", asked)) == counts


def test_every_service_has_its_limits_in_nginx(nginx):
    """One that a location has of its own takes the place of those around it, so that of all services is said again."""
    zones = [
        line.split()[1].rstrip(";") for line in block(configuration(nginx), "location shop:") if "limit_req" in line
    ]
    assert sorted(zones) == ["zone=all", "zone=shop.1", "zone=shop.2", "zone=shop.3"]
    said = configuration(nginx).text
    assert "zone=shop.1:4m rate=10r/m;" in said
    # The longest wait is looked at first.
    waits = [int(value) for value in re.findall(r"map \$limit_\d+ \$wait_\d+ {\n +default (\d+);", said)]
    assert waits == sorted(waits, reverse=True) == [6, 5, 1, 1]
    assert "        ::429 $wait_1;" in said


def test_nginx_counts_a_network_of_ipv6_as_one(nginx):
    rules = block(configuration(nginx), "map $binary_remote_addr $network")
    address = "\x20\x01\x0d\xb8\x00\x01\x00\x02" + "\n" * 8
    assert first([rule.replace("$binary_remote_addr", "whole") for rule in rules], address) == address[:8]
    assert first([rule.replace("$binary_remote_addr", "whole") for rule in rules], "\x0a\x00\x00\x01") == "whole"


def web(landscape: Landscape, host: str = "lb1") -> list[str]:
    """Return the lines of HAProxy's frontend."""
    file = next(f for f in landscape.files if (f.host, f.path) == (host, "/etc/haproxy/lb.cfg"))
    return sections(file)["frontend", "web from http"]


def test_balancers_count_in_tables_of_their_own_and_add_those_of_all(ha):
    for host in ("lb1", "lb2"):
        lines = web(ha, host)
        tracked = [line for line in lines if line.startswith("http-request track-sc")]
        assert [re.search(r"table limits/(\S+)", line)[1] for line in tracked] == [
            f"{seconds}s.{host}" for seconds in (10, 60, 10, 5)
        ]
        added = [line for line in lines if "table_gpc_rate" in line]
        assert len(added) == 4 * 2
        # What is refused is not counted.
        refusals = [number for number, line in enumerate(lines) if "status 429" in line]
        counts = [number for number, line in enumerate(lines) if "sc-inc-gpc" in line]
        assert refusals[0] < counts[0] < refusals[1] < refusals[-1] < counts[1]
    settings = text(ha, "lb1", "/etc/haproxy/lb.cfg")
    assert "tune.stick-counters 5\n" in settings


def test_only_the_other_balancers_are_let_in_to_what_was_counted(ha):
    file = next(f for f in ha.files if (f.host, f.path) == ("lb1", "/etc/haproxy/lb.cfg"))
    door = sections(file)["listen", "limits.peers from limits"]
    assert "bind 192.0.2.11:8403 ssl" in door[0]
    assert door[0].endswith("verify required crt-ignore-err X509_V_ERR_INVALID_PURPOSE")
    assert "tcp-request connection reject unless { src -- 192.0.2.12 }" in door
    assert "tcp-request session reject unless { ssl_c_s_dn(cn) -m str lb2 }" in door
    [other] = [line for line in sections(file)["peers", "limits"] if line.startswith("server lb2")]
    assert "192.0.2.12:8403 source 192.0.2.11 ssl" in other
    assert other.endswith("verify required verifyhost lb2")
    # Balancers' certificates are good for a server alone: one that is good for a client opens etcd.
    assert ha.value("lb1", "pki_client") is False


def test_one_balancer_alone_opens_no_port(single):
    assert "8403" not in text(single, "solo", "/etc/haproxy/lb.cfg")


def test_trusted_proxies_alone_say_who_the_client_is(ha, nginx, single, lab):
    lines = web(ha)
    assert "acl trusted src -- 198.51.100.0/24 203.0.113.7 2001:db8::/32" in lines
    taken = [line for line in lines if line.startswith("http-request set-src")]
    assert len(taken) == 5
    assert not any("set-src" in line or "trusted" in line for line in web(single, "solo"))
    # Hosts of the edge are known by themselves.
    assert "acl trusted src -- 10.77.0.61 10.77.0.62" in web(lab)
    said = configuration(nginx).text
    assert re.findall(r"set_real_ip_from (\S+);", said) == ["198.51.100.0/24", "203.0.113.7", "2001:db8::/32"]
    # Nobody's X-Forwarded-Host is: a proxy that caches by Host would pass on what a client says there.
    assert "http_x_forwarded_host" not in said
    assert not any("req.fhdr(x-forwarded-host)" in line for line in lines)


def test_a_closed_origin_answers_strangers_nothing_but_its_health(ha, nginx):
    lines = web(ha)
    deny = lines.index("http-request deny deny_status 403 unless { var(txn.trusted) -m bool }")
    health = next(number for number, line in enumerate(lines) if line.endswith('"ok\\n" if health'))
    assert health < deny < next(number for number, line in enumerate(lines) if "status 429" in line)
    for file in re.findall(
        r"(?m)^        location (?:/|= :drain) {\n((?:.*\n)*?)        }$", configuration(nginx).text
    ):
        assert 'if ($trusted = "") {' in file


@pytest.mark.parametrize(
    ("said", "scheme"), [("trusted https", "https"), ("trusted HTTP", "http"), ("trusted https, http", "$scheme"),
                         (" https", "$scheme"), ("trusted ", "$scheme")],
)  # fmt: skip
def test_the_scheme_is_what_a_trusted_proxy_says(nginx, said, scheme):
    rules = [
        rule.replace('"~*', '"~(?i)')
        for rule in block(configuration(nginx), 'map "$trusted $http_x_forwarded_proto" $asked_scheme')
    ]
    assert first(rules, said) == scheme
