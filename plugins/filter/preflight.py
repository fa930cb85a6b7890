"""What keeps a host from being what it is declared to be, found before anything on it is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from ansible.errors import AnsibleFilterError

ARCHITECTURES = ("x86_64", "aarch64")
# What Ansible says before it comes to the reason.
PREAMBLE = re.compile(
    r"^((Task failed|Failed to connect to the host via ssh"
    r"|Data could not be sent to remote host \S+ Make sure this host can be reached over ssh): )+"
)
CHECKS = ("system", "memory", "disk", "clock", "address", "ports")


def ports_wanted(
    tiers: list[str],
    ports: Mapping[str, int],
    address: str,
    services: list[Mapping],
    needs: list[int],
    certificates: bool = False,
) -> list[dict[str, Any]]:
    """Return the ports that a host's daemons listen on, each with its address and what wants it.

    Parameters:
        tiers: the groups that the host is in.
        ports: the table of ports.
        address: the host's own.
        services: those of `services_list` that run on the host.
        needs: local ports by which they reach other services.
        certificates: whether hosts that clients reach exchange certificates.
    """
    own = [
        ("loadbalancer", "the load balancer", ("http", "https", "limits")),
        ("edge", "the edge", ("http", "https")),
        ("database", "PostgreSQL", ("postgresql",)),
        ("database", "Patroni", ("patroni",)),
        ("database", "pgBackRest", ("pgbackrest",)),
        ("backup", "pgBackRest", ("pgbackrest",)),
        ("etcd", "etcd", ("etcd_client", "etcd_peer")),
        ("cache", "Redis", ("redis_cache", "redis_queue")),
        ("sentinel", "Redis Sentinel", ("sentinel",)),
        ("app", "the node proxy", ("node_health",)),
    ]
    wanted = [(address, ports[name], by) for tier, by, names in own if tier in tiers for name in names]
    if certificates and {"loadbalancer", "edge"} & set(tiers):
        wanted += [(address, ports["certificates"], "the exchange of certificates")]
    if "app" in tiers:
        local = ("node_primary", "node_replica", "node_cache", "node_queue")
        wanted += [(address, service["port"], f"the service {service['name']}") for service in services]
        wanted += [("127.0.0.1", ports["pgbouncer"], "PgBouncer")]
        wanted += [("127.0.0.1", ports[name], "the node proxy") for name in local]
        wanted += [("127.0.0.1", port, "the node proxy") for port in needs]
    return [{"address": host, "port": port, "by": by} for host, port, by in dict.fromkeys(wanted)]


def preflight_problems(host: Mapping, answers: Mapping, now: float) -> list[str]:
    """Return what is wrong with a host: a line each, naming the host and the mend.

    Parameters:
        host: what is wanted: `name`, `address`, `connection` (where it is reached), `ports` (what `ports_wanted`
            returned), `units` (patterns of our own), `disk` (MiB by path), `disk_left_mb`, `clock_seconds`, and
            `skip`, a list out of CHECKS.
        answers: what was found: `gathered` and `asked`, the results of gathering facts and of `host_facts`; `facts`;
            and `plan`, what `host_plan` made of them.
        now: the controller's time, in seconds since the epoch, after all hosts answered.
    Errors:
        AnsibleFilterError, where a check to skip is not known.
    """
    if unknown := sorted(set(host["skip"]) - set(CHECKS)):
        raise AnsibleFilterError(
            f"preflight_skip: there is no check {', '.join(unknown)}; known are {', '.join(CHECKS)}"
        )
    if silent := _silence(host, answers):
        return [f"{host['name']}: {silent}"]
    checks = {
        "system": _system,
        "memory": _memory,
        "disk": _disk,
        "clock": _clock,
        "address": _address,
        "ports": _ports,
    }
    found = [
        problem
        for name, check in checks.items()
        if name not in host["skip"]
        for problem in check(host, {**answers, "now": now})
    ]
    return [f"{host['name']}: {problem}" for problem in found]


def _silence(host: Mapping, answers: Mapping) -> str:
    """Return why a host did not answer; empty where it did."""
    for result in (answers["gathered"], answers["asked"]):
        if not (result.get("unreachable") or result.get("failed")):
            continue
        parts = [result, *(result.get("failed_modules") or {}).values()]
        said = " ".join(str(p.get(k) or "") for p in parts for k in ("msg", "module_stderr", "module_stdout")).strip()
        reason = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        reason = PREAMBLE.sub("", reason)
        if result.get("unreachable"):
            where = f"cannot be reached at {host['connection']}"
            return f"{where}: {reason.rstrip('.')}; mend ansible_host, ansible_user, its key or the network"
        if re.search(r"python[\d.]*'?:? (was )?not found|python[\d.]*: No such file", said):
            return "has no /usr/bin/python3; install it there: apt install python3"
        if re.search(r"sudo|become|privilege", said, re.IGNORECASE):
            mend = "allow its user sudo without a password, or give ansible_become_password"
            return f"has no root for us: {reason.rstrip('.')}; {mend}"
        return f"could not be asked: {reason.rstrip('.')}"
    return ""


def _system(host: Mapping, answers: Mapping) -> list[str]:
    facts, found = answers["facts"], []
    system = f"{facts['distribution']} {facts['distribution_version']}"
    if (facts["distribution"], str(facts["distribution_major_version"])) != ("Debian", "13"):
        found.append(f"is {system}; Terrace runs on Debian 13 only, so install that")
    if facts["architecture"] not in ARCHITECTURES:
        found.append(f"its processor is {facts['architecture']}; use a machine with one of {', '.join(ARCHITECTURES)}")
    if facts["service_mgr"] != "systemd":
        found.append(f"runs {facts['service_mgr']} instead of systemd; boot it with systemd")
    return found


def _memory(host: Mapping, answers: Mapping) -> list[str]:
    plan = answers["plan"]
    if not plan:
        return ["does not tell how much memory it has; mount its /proc, or state host_memory_mb and host_cpus"]
    needed = sum(plan["needs"].values())
    if needed <= plan["memory_mb"]:
        return []
    mends = ["give it more"]
    if any(name.startswith("the service ") for name in plan["needs"]):
        mends.append("lower memory of a service")
    if "PostgreSQL" in plan["needs"]:
        mends.append("lower patroni_max_connections")
    if len(plan["needs"]) > 2:
        mends.append("move a group to another host")
    each = " + ".join(f"{size} for {name}" for name, size in plan["needs"].items())
    return [
        f"has {plan['memory_mb']} MiB of memory, and what is declared comes to {each} = {needed}; {', or '.join(mends)}"
    ]


def _disk(host: Mapping, answers: Mapping) -> list[str]:
    """Return the filesystems with too little space: for a first run what each path needs, later just some."""
    found, space = [], answers["asked"]["space"]
    for _, group in groupby(sorted(space, key=lambda s: (s["filesystem"], s["path"])), lambda s: s["filesystem"]):
        places = list(group)
        paths, free = [place["path"] for place in places], places[0]["free_mb"]
        sizes = [int(host["disk"][path]) for path in paths]
        where = f"has {free} MiB free for {' and '.join(paths)}"
        if answers["asked"]["terrace"]:
            if free < host["disk_left_mb"]:
                found.append(f"{where}, less than the {host['disk_left_mb']} that a run needs; make room")
        elif free < sum(sizes):
            sizes_text = " + ".join(map(str, sizes)) + (f" = {sum(sizes)}" if len(sizes) > 1 else "")
            found.append(f"{where}, and a first run needs {sizes_text}; make room, or lower preflight_disk")
    return found


def _clock(host: Mapping, answers: Mapping) -> list[str]:
    """Return whether the clock is off, beyond the time that asking took."""
    time, asked = answers["asked"]["time"], answers["asked"]["asked"]
    for off, side in ((asked - time, "behind"), (time - answers["now"], "ahead of")):
        if off > host["clock_seconds"]:
            return [f"its clock is {round(off)} seconds {side} the controller's; set it, and keep it set by NTP"]
    return []


def _address(host: Mapping, answers: Mapping) -> list[str]:
    asked = answers["asked"]
    if not asked["resolved"]:
        return [f"cannot resolve its own address {host['address']}; set address in hosts.yml to its private IP address"]
    if set(asked["resolved"]) & set(asked["addresses"]):
        return []
    others = [address for address in asked["addresses"] if not re.match(r"127\.|::1$|fe80:", address)]
    return [
        f"its address {host['address']} is on none of its interfaces, which have {', '.join(others) or 'none'};"
        " set address in hosts.yml to one of these"
    ]


def _ports(host: Mapping, answers: Mapping) -> list[str]:
    found = {}
    anywhere = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound)
    addresses = {host["address"]: set(answers["asked"]["resolved"])}
    for wanted in host["ports"]:
        own = addresses.get(wanted["address"], {wanted["address"]})
        for taken in answers["asked"]["listeners"]:
            if taken["port"] != wanted["port"] or taken["address"] not in (*own, *anywhere):
                continue
            if any(re.fullmatch(pattern, taken["unit"]) for pattern in host["units"]):
                continue
            # Root of a container may not see whose a socket is; on a host of ours it is taken for ours.
            if not taken["pid"] and answers["asked"]["terrace"]:
                continue
            process = ", ".join(filter(None, [f"pid {taken['pid']}", taken["unit"]]))
            who = f"{taken['process']} ({process})" if taken["pid"] else "a process that root may not see"
            found[wanted["port"], taken["pid"]] = (
                f"port {wanted['port']}, which {wanted['by']} wants, is taken by {who}; stop it or move it"
            )
    return list(found.values())


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {"ports_wanted": ports_wanted, "preflight_problems": preflight_problems}
