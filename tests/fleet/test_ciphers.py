"""What testssl.sh says of the load balancers' TLS, by both engines, and of the edge's."""

from __future__ import annotations

import ciphers
import lab

# Of those who answer clients, hosts of one kind have the same configuration.
SCANNER = "backup1"


def test_the_edge_offers_the_intermediate_profile(hosts):
    assert ciphers.judged(ciphers.scan(hosts[SCANNER], lab.ADDRESSES[lab.GROUPS["edge"][0]], "httpbin.lab")) == []


def test_a_load_balancer_offers_the_intermediate_profile(hosts, engine):
    assert ciphers.judged(ciphers.scan(hosts[SCANNER], lab.ADDRESSES[lab.BALANCERS[-1]], "httpbin.lab")) == []
