"""The budget of database connections."""

from __future__ import annotations

import pytest

from landscape import load

connections = load("plugins/filter/connections.py", "filter_connections")
SERVICES = [
    {"name": "my-shop", "database": {"name": "my_shop"}},
    {"name": "static", "database": None},
    {"name": "users", "database": {"name": "users"}},
]
POOLS = [
    {"name": "my_shop", "database": "my_shop", "pool": 5},
    {"name": "my_shop_session", "database": "my_shop", "pool": 2},
    {"name": "users", "database": "users", "pool": 10},
]
NODES = {"my-shop": [{}, {}, {}], "static": [{}], "users": [{}]}
PLACE = "group_vars/database.yml: patroni_max_connections"


@pytest.mark.parametrize("allowed", [51, "51", 1000])
def test_within_the_budget(allowed):
    """Three nodes with 5 + 2, one with 10, and 20 in reserve."""
    assert connections.connection_problems(POOLS, SERVICES, NODES, allowed) == []


@pytest.mark.parametrize("allowed", [50, "50", 0])
def test_beyond_the_budget(allowed):
    assert connections.connection_problems(POOLS, SERVICES, NODES, allowed) == [
        f"{PLACE}: is {allowed}, and the pools of all nodes come to 21 for my-shop + 10 for users + 20 in reserve = 51;"
        " raise it to that, or lower database.pool of a service"
    ]


def test_a_budget_that_is_not_stated():
    assert connections.connection_problems(POOLS, SERVICES, NODES, None) == [
        f"{PLACE}: is missing; state at least 51, which the services' pools and a reserve come to"
    ]


def test_no_service_has_a_database():
    assert connections.connection_problems([], SERVICES[1:2], NODES, 20) == []
    assert len(connections.connection_problems([], SERVICES[1:2], NODES, 19)) == 1


def test_filters_are_offered_by_name():
    assert connections.FilterModule().filters() == {"connection_problems": connections.connection_problems}
