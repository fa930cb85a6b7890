"""What is wrong with an inventory's hosts, groups and addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable, Iterator, Mapping

from terrace.contracts import guess
from terrace.services import HOST

TIERS = ("loadbalancer", "app", "cache", "sentinel", "database", "etcd", "backup", "edge")
# Groups whose hosts vote, and what most of them are good for: every member more has to agree to each decision.
# https://etcd.io/docs/v3.5/faq/ names seven as the most.
VOTERS = ("sentinel", "etcd")
MOST_VOTERS = 7
# Groups of which one host is what others know it by.
SINGLE = ("backup",)
# Groups that need no host, and those of which a host cannot be of both: their daemons want the same ports.
WITHOUT = ("edge",)
APART = (("edge", "loadbalancer", "both answer clients on the same ports; the edge stands before the load balancers"),)


def topology_problems(
    groups: Mapping[str, list[str]], addresses: Mapping[str, str], optional: Container[str] = ()
) -> list[str]:
    """Return what is wrong with an inventory's hosts and groups: one line each, with its mend.

    Parameters:
        groups: the inventory's groups, `all` among them, with the names of their hosts.
        addresses: the private address of each host.
        optional: groups that need no host.
    """
    return [*_groups(groups, optional), *_apart(groups), *_hosts(groups), *_addresses(addresses)]


def virtual_address_problems(
    given: str, groups: Mapping[str, list[str]], addresses: Mapping[str, str]
) -> Iterator[str]:
    """Return what is wrong with the address that load balancers hold in turn, each with its mend.

    Parameters:
        given: the address.
        groups, addresses: as of `topology_problems`.
    """
    try:
        number = ipaddress.IPv4Address(given)
    except ValueError:
        yield f"is {given!r}; has to be an IPv4 address, without port or network"
        return
    mend = "give a free address of the balancers' network"
    if number.is_unspecified or number.is_multicast or number.is_loopback:
        yield f"is {given}, which no host can have for others; {mend}"
    for host, address in addresses.items():
        if address == given:
            yield f"is {given}, the address of '{host}'; {mend}"
    for host in groups.get("loadbalancer", []):
        try:
            ipaddress.IPv4Address(addresses.get(host, ""))
        except ValueError:
            yield f"cannot be held by '{host}', whose own address is no IPv4 address; give it one in hosts.yml"


def trusted_problems(given: Iterable[object]) -> Iterator[tuple[int, str]]:
    """Return what is wrong with the addresses and networks of trusted proxies: each one's number, and the problem.

    Parameters:
        given: the addresses and networks.
    """
    for number, each in enumerate(given):
        try:
            network = ipaddress.ip_network(str(each))
        except ValueError as error:
            mend = "write the network's first address" if "host bits set" in str(error) else "names are not looked up"
            yield number, f"is {each!r}; has to be an IP address or a network such as 198.51.100.0/24; {mend}"
            continue
        if network.prefixlen == 0:
            yield number, f"is {each}, which is everybody, who could all say to be anybody; name the proxies"


def origin_problems(given: list[str]) -> Iterator[str]:
    """Return what is wrong with the addresses at which an edge host reaches the load balancers, each with its mend."""
    if not given:
        yield "is empty; give the load balancers' addresses as the edge reaches them, or take it out"
    for address in given:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield f"has {address!r}; has to be IP addresses, without port or network"


def _groups(groups: Mapping[str, list[str]], optional: Container[str]) -> Iterator[str]:
    misspelt = _misspelt(groups)
    for group, tier in misspelt.items():
        yield f"the group '{group}' is none of Terrace's; did you mean '{tier}'?"
    for tier in TIERS:
        count = len(groups.get(tier, []))
        if not count and tier not in misspelt.values() and tier not in optional and tier not in WITHOUT:
            yield f"the group '{tier}' has no host; add one, it may be a host of another group"
        elif tier in VOTERS and count and count % 2 == 0:
            yield f"the group '{tier}' has {count} hosts, which cannot outvote each other; use 1, 3 or 5"
        elif tier in VOTERS and count > MOST_VOTERS:
            yield f"the group '{tier}' has {count} hosts, which is too many to agree quickly; use 3 or 5"
        elif tier in SINGLE and count > 1:
            yield f"the group '{tier}' has {count} hosts, of which none would have all; use one"


def _apart(groups: Mapping[str, list[str]]) -> Iterator[str]:
    for group, other, why in APART:
        for host in groups.get(group, []):
            if host in groups.get(other, []):
                yield f"the host '{host}' is in '{group}' and in '{other}', which {why}; take it out of one"


def _misspelt(groups: Mapping[str, list[str]]) -> dict[str, str]:
    """Return groups that were probably meant to be a tier: it has no host, or a host of theirs is in no tier."""
    placed = {host for tier in TIERS for host in groups.get(tier, [])}
    found = {}
    for group, hosts in groups.items():
        tier = guess(group.lower(), TIERS)
        ours = group in (*TIERS, "all", "ungrouped")
        if tier and hosts and not ours and (not groups.get(tier) or set(hosts) - placed):
            found[group] = tier
    return found


def _hosts(groups: Mapping[str, list[str]]) -> Iterator[str]:
    placed = {host for group in (*TIERS, *_misspelt(groups)) for host in groups.get(group, [])}
    for host in groups["all"]:
        if host not in placed:
            yield f"the host '{host}' is in none of the groups {', '.join(TIERS)}; put it in one"


def _addresses(addresses: Mapping[str, str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for host, given in addresses.items():
        address = str(given or "").lower()
        if not address:
            yield f"the host '{host}' has no address; fill in its ansible_host"
            continue
        if wrong := _wrong(address, alone=len(addresses) == 1):
            yield f"'{host}' has the address {given}, {wrong}"
        if address in seen:
            yield f"'{host}' has the address {given} of '{seen[address]}'; each needs its own"
        seen.setdefault(address, host)


def _wrong(address: str, alone: bool) -> str | None:
    """Return what is wrong with an address by itself, and its mend."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        if re.fullmatch(r"[\d.]+", address) or not HOST.fullmatch(address):
            return "which is neither an IP address nor a host name; give it without port or network"
        loopback = address == "localhost"
    else:
        if number.is_unspecified or number.is_multicast:
            return "which no host can have; give the one that others reach it at"
        loopback = number.is_loopback
    if loopback and not alone:
        return "which only the host itself reaches; give the one that others reach it at"
    return None
