"""The table that `make status` ends with."""

from __future__ import annotations

from collections.abc import Mapping


def table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def status_hosts(
    hosts: list[str], groups: Mapping[str, list[str]], hostvars: Mapping, tiers: list[str]
) -> list[list[str]]:
    """Return a row for each host: its name, address, groups, and the units that run there, failed ones marked.

    Parameters:
        hosts: the hosts, in the order of the rows.
        groups: the inventory's groups.
        hostvars: their variables; `status_units` is what `systemctl list-units` printed.
        tiers: the groups that say what a host is for.
    """
    rows = [["HOST", "ADDRESS", "GROUPS", "RUNS"]]
    for host in hosts:
        answer = hostvars[host].get("status_units", {})
        running = []
        for line in answer.get("stdout_lines", []):
            unit, _, active, *_ = line.split()
            running.append(unit.removesuffix(".service") + ("" if active == "active" else f" ({active.upper()})"))
        of = [tier for tier in tiers if host in groups.get(tier, [])]
        what = " ".join(running) if "stdout_lines" in answer else "NOT REACHED"
        rows.append([host, hostvars[host]["topology_address"], " ".join(of), what or "nothing yet"])
    return rows


def status_addresses(services: list[Mapping], balancers: list[Mapping], authority: str) -> list[list[str]]:
    """Return a row for each route of each service: the addresses to try, on the first load balancer."""
    rows = [["SERVICE", "TRY"]]
    balancer = balancers[0]["address"]
    for service in services:
        for route in service["routes"]:
            host, path = route["host"], route["path"] or "/"
            resolve = f" --resolve {host}:443:{balancer}" if host else ""
            rows.append([service["name"], f"curl --cacert {authority}{resolve} https://{host or balancer}{path}"])
    return rows


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (table, status_hosts, status_addresses)}
