"""What `make status` asks each host for, and what the answers are held against."""

from __future__ import annotations

from collections.abc import Mapping

# Where data grows, whatever a host is.
PATHS = ["/", "/var/log", "/var/lib/terrace", "/srv/terrace"]
TIER_PATHS = {
    "cache": "/var/lib/redis",
    "database": "/var/lib/postgresql",
    "etcd": "/var/lib/etcd",
    "backup": "/var/lib/pgbackrest",
    "edge": "/var/cache/nginx-edge",
}
TIER_PACKAGES = {
    "app": ["haproxy", "pgbouncer"],
    "cache": ["redis-server"],
    "sentinel": ["redis-sentinel"],
    "database": ["postgresql-17", "patroni"],
    "etcd": ["etcd-server"],
    "backup": ["pgbackrest"],
    "edge": ["nginx"],
}
TIER_UNITS = {
    "app": ["haproxy@node", "pgbouncer", "terrace-liveness"],
    "sentinel": ["redis-sentinel"],
    "database": ["patroni"],
    "etcd": ["etcd"],
    "backup": ["pgbackrest"],
    "edge": ["nginx@edge"],
}


def status_asked(
    tiers: list[str],
    address: str,
    virtual_address: str,
    engine: str,
    balancer_health: str,
    ports: Mapping[str, int],
    instances: list[str],
    services: list[Mapping],
    first: Mapping[str, str],
    host: str,
    archives: bool = False,
    takers: list[str] | tuple[str, ...] = (),
    tls: str = "internal",
    keeps: bool = False,
) -> dict:
    """Return the parameters of `host_status` for a host.

    Parameters:
        tiers: the groups that say what it is.
        address: its private address.
        virtual_address: the one that a load balancer holds; empty where there is none.
        engine: what balances the load.
        balancer_health: the path at which it says that it works.
        ports: the table of ports.
        instances: the instances of Redis.
        services: those that run on it, of `services_list`.
        first: by service the first host that runs it, where its schedules are.
        host: its name.
        archives: whether databases hand their WAL to a repository.
        takers: the names of the hosts that take backups and prove them; the first is asked what there is.
        tls: where the certificate comes from that load balancers show.
        keeps: whether load balancers keep answers.
    """
    keepalived = ["keepalived"] if virtual_address else []
    exchange = ["nginx-certificates", "terrace-certificates.timer"] if tls == "acme" else []
    units = {
        **TIER_UNITS,
        "loadbalancer": [f"{engine}@lb", *(["nginx@cache"] if keeps else []), *keepalived, *exchange],
        "edge": [*TIER_UNITS["edge"], *exchange],
    }
    units["cache"] = [f"redis-server@{instance}" for instance in instances]
    packages = {**TIER_PACKAGES, "loadbalancer": [engine, *keepalived]}
    return {
        "tiers": list(tiers),
        "address": address,
        "virtual_address": virtual_address,
        "engine": engine,
        "balancer_health": balancer_health,
        "tls": tls,
        "ports": dict(ports),
        "services": [service["name"] for service in services],
        "instances": list(instances),
        "archives": archives and "database" in tiers,
        "backups": [host] == takers[:1],
        "proof": host in takers,
        "units": [
            *(unit for tier in tiers for unit in units[tier]),
            *(["nginx-static"] if any(service.get("static") is not None for service in services) else []),
            *(unit for service in services for unit in _service_units(service, first.get(service["name"]) == host)),
        ],
        "packages": list(dict.fromkeys(package for tier in tiers for package in packages[tier])),
        "paths": PATHS + [TIER_PATHS[tier] for tier in tiers if tier in TIER_PATHS],
    }


def _service_units(service: Mapping, first: bool) -> list[str]:
    """Return the units of a service that have to run, beside its live slot."""
    name = service["name"]
    processes = [
        f"svc-{name}-{process}@{number}"
        for process, its in service["processes"].items()
        for number in range(1, int(its.get("count", 1)) + 1)
    ]
    return processes + [f"svc-{name}-{job}.timer" for job in service["schedule"] if first]


def status_services(services: list[Mapping], nodes: Mapping[str, list[str]]) -> list[dict]:
    """Return of each service its name, its declared version, the nodes that run it, and whether it has routes.

    Parameters:
        services: of `services_list`.
        nodes: by service the names of its nodes.
    """
    return [
        {
            "name": service["name"],
            "version": service["version"],
            "nodes": list(nodes[service["name"]]),
            "routed": bool(service["routes"]),
        }
        for service in services
    ]


def status_addresses(services: list[Mapping], address: str, authority: str) -> list[list[str]]:
    """Return for each route of each service the service and the command that tries it.

    Parameters:
        services: of `services_list`.
        address: where clients reach the load balancers.
        authority: the file of the certificate that theirs is signed by; empty where clients know it anyway.
    """
    found = []
    trusting = f" --cacert {authority}" if authority else ""
    for service in services:
        for route in service["routes"]:
            host, path = route["host"], route["path"] or "/"
            resolve = f" --resolve {host}:443:{address}" if host else ""
            found.append([service["name"], f"curl{trusting}{resolve} https://{host or address}{path}"])
    return found


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (status_asked, status_services, status_addresses)}
