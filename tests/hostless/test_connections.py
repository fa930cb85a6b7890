"""The budget of database connections."""

from __future__ import annotations

import pytest

from terrace.connections import connection_findings, pools

SERVICES = [
    {"name": "my-shop", "database": {"name": "my_shop", "pool": 5}},
    {"name": "static", "database": None},
    {"name": "users", "database": {"name": "users", "pool": 4}},
]
NODES = {"my-shop": 3, "static": 1, "users": 1}


def test_pools():
    assert [(each["name"], each["pool"]) for each in pools(SERVICES[0]["database"])] == [
        ("my_shop", 5),
        ("my_shop_read", 5),
        ("my_shop_session", 2),
    ]


@pytest.mark.parametrize("allowed", [66, 1000])
def test_within_the_budget(allowed):
    """Three nodes with 5 + 5 + 2, one with 4 + 4 + 2, and 20 in reserve."""
    assert connection_findings(SERVICES, NODES, allowed) == []


@pytest.mark.parametrize("allowed", [65, 0])
def test_beyond_the_budget(allowed):
    assert connection_findings(SERVICES, NODES, allowed) == [
        (
            "patroni_max_connections",
            f"is {allowed}, and the pools of all nodes come to 36 for my-shop + 10 for users + 20 in reserve = 66;"
            " raise it to that, or lower database.pool of a service",
        )
    ]


def test_a_budget_that_is_not_stated():
    assert connection_findings(SERVICES, NODES, None) == [
        (
            "patroni_max_connections",
            "is missing; state at least 66, which the services' pools and a reserve come to",
        )
    ]


def test_no_service_has_a_database():
    assert connection_findings(SERVICES[1:2], NODES, 20) == []
    assert len(connection_findings(SERVICES[1:2], NODES, 19)) == 1
