"""What is wrong with an inventory's hosts and groups, a line each."""

from __future__ import annotations

import pytest

from terrace import topology

TIERS = "loadbalancer, app, cache, sentinel, database, etcd, backup, edge"
WANTED = TIERS.split(", ")[:-1]


def groups(**changes: list[str]) -> dict[str, list[str]]:
    """Return the groups of a landscape of three hosts that is right, with some of them changed."""
    right = {
        "loadbalancer": ["a"],
        "app": ["a"],
        "cache": ["b"],
        "sentinel": ["a", "b", "c"],
        "database": ["c"],
        "etcd": ["c"],
        "backup": ["b"],
    }
    found = right | changes
    return found | {"all": list(dict.fromkeys(host for hosts in found.values() for host in hosts))}


def problems(found: dict[str, list[str]], **addresses: str) -> list[str]:
    return topology.topology_problems(found, {host: host for host in found["all"]} | addresses)


def test_nothing_wrong():
    assert problems(groups()) == []
    assert problems({tier: ["a"] for tier in WANTED} | {"all": ["a"]}) == []
    assert problems(groups(edge=["b", "d"])) == []


def test_the_edge_stands_before_the_load_balancers():
    [line] = problems(groups(edge=["a", "d"]))
    assert line.startswith("the host 'a' is in 'edge' and in 'loadbalancer', which both answer clients")


@pytest.mark.parametrize("tier", WANTED)
def test_a_group_without_hosts(tier):
    message = f"the group '{tier}' has no host; add one, it may be a host of another group"
    found = groups(spare=["a", "b", "c"], **{tier: []})
    assert message in problems(found)
    assert problems({name: hosts for name, hosts in found.items() if name != tier}) == problems(found)


@pytest.mark.parametrize("tier", ["sentinel", "etcd"])
def test_an_even_number_of_voters(tier):
    assert problems(groups(**{tier: ["a", "b"]}, app=["a", "b", "c"])) == [
        f"the group '{tier}' has 2 hosts, which cannot outvote each other; use 1, 3 or 5"
    ]


def test_a_host_without_a_purpose():
    assert problems(groups(spare=["d"])) == [f"the host 'd' is in none of the groups {TIERS}; put it in one"]


def test_an_address_given_twice():
    assert problems(groups(), a="10.0.0.1", c="10.0.0.1") == ["'c' has the address 10.0.0.1 of 'a'; each needs its own"]


def test_a_name_as_address():
    """Names are alike whatever their case."""
    assert problems(groups(), a="C") == ["'c' has the address c of 'a'; each needs its own"]


@pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9", "db1", "db1.example.com", "db-1.example.com"])
def test_addresses(address):
    assert problems(groups(), a=address) == []


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        *((bad, "neither an IP address nor a host name") for bad in ("10.0.0", "10.0.0.1/24", "a b", "-a", "a..b")),
        *((bad, "no host can have") for bad in ("::", "224.0.0.1")),
        *((bad, "only the host itself reaches") for bad in ("127.0.1.1", "::1", "localhost")),
    ],
)
def test_addresses_that_are_none(address, wrong):
    [line] = problems(groups(), a=address)
    assert line.startswith(f"'a' has the address {address}, which ")
    assert wrong in line


def test_a_host_without_an_address():
    assert problems(groups(), a="") == ["the host 'a' has no address; fill in its ansible_host"]


def test_one_machine_may_be_reached_by_itself_alone():
    alone = {tier: ["a"] for tier in (*WANTED, "all")}
    assert problems(alone, a="127.0.0.1") == []


def test_a_misspelt_group_is_told_once():
    """Neither its hosts nor the tier that it was meant to be are told again."""
    found = groups() | {"databse": ["c"], "database": [], "etcd": ["b"], "sentinel": ["a"]}
    assert problems(found) == ["the group 'databse' is none of Terrace's; did you mean 'database'?"]


def test_a_group_of_ones_own_may_resemble_a_tier():
    assert problems(groups(apps=["a"], caches=["b"])) == []
