"""What is wrong with an inventory's hosts and groups, a line each."""

from __future__ import annotations

import pytest

from landscape import load

services = load("plugins/filter/services.py", "filter_services")
TIERS = "loadbalancer, app, cache, sentinel, database, etcd"


def groups(**changes: list[str]) -> dict[str, list[str]]:
    """Return the groups of a landscape of three hosts that is right, with some of them changed."""
    right = {
        "loadbalancer": ["a"],
        "app": ["a"],
        "cache": ["b"],
        "sentinel": ["a", "b", "c"],
        "database": ["c"],
        "etcd": ["c"],
    }
    found = right | changes
    return found | {"all": list(dict.fromkeys(host for hosts in found.values() for host in hosts))}


def problems(found: dict[str, list[str]], **hostvars: dict) -> list[str]:
    return services.topology_problems(found, {host: {} for host in found["all"]} | hostvars)


def test_nothing_wrong():
    assert problems(groups()) == []
    assert problems({tier: ["a"] for tier in TIERS.split(", ")} | {"all": ["a"]}) == []


@pytest.mark.parametrize("tier", TIERS.split(", "))
def test_a_group_without_hosts(tier):
    message = f"hosts.yml: the group '{tier}' has no host; add one, it may be a host of another group"
    found = groups(spare=["a", "b", "c"], **{tier: []})
    assert message in problems(found)
    assert problems({name: hosts for name, hosts in found.items() if name != tier}) == problems(found)


@pytest.mark.parametrize("tier", ["sentinel", "etcd"])
def test_an_even_number_of_voters(tier):
    assert problems(groups(**{tier: ["a", "b"]}, app=["a", "b", "c"])) == [
        f"hosts.yml: the group '{tier}' has 2 hosts, which cannot outvote each other; use 1, 3 or 5"
    ]


def test_a_host_without_a_purpose():
    assert problems(groups(spare=["d"])) == [f"hosts.yml: the host 'd' is in none of the groups {TIERS}; put it in one"]


@pytest.mark.parametrize("name", ["address", "ansible_host"])
def test_an_address_given_twice(name):
    assert problems(groups(), a={"ansible_host": "10.0.0.1"}, c={name: "10.0.0.1", "x": 1}) == [
        "hosts.yml: 'c' has the address 10.0.0.1 of 'a'; each needs its own"
    ]


def test_a_name_as_address():
    assert problems(groups(), a={"ansible_host": "c"}) == [
        "hosts.yml: 'c' has the address c of 'a'; each needs its own"
    ]


def test_a_shared_public_name_is_no_shared_address():
    hosts = {host: {"ansible_host": "jump.example.com", "address": f"10.0.0.{n}"} for n, host in enumerate("abc")}
    assert problems(groups(), **hosts) == []
