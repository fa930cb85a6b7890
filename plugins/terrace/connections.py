"""Database connections: the pools of a service, and whether all of them fit into what PostgreSQL allows."""

from __future__ import annotations

from collections.abc import Mapping

from terrace.contracts import Finding

# For superusers, Patroni, replication and monitoring: three are PostgreSQL's superuser_reserved_connections, ten its
# default max_wal_senders, and Patroni keeps a few.
RESERVE = 20


def pools(database: Mapping) -> list[dict]:
    """Return a pooler's databases for a service's: its own, its read-only alias and its session-pooled one.

    Parameters:
        database: `database` of a service with its name and `pool`; without connections no pooler leads to it.
    """
    if not database["pool"]:
        return []
    return [
        {
            "name": database["name"] + suffix,
            "database": database["name"],
            "mode": mode,
            "target": target,
            "pool": pool,
        }
        for suffix, mode, target, pool in (
            ("", "transaction", "primary", database["pool"]),
            ("_read", "transaction", "replica", database["pool"]),
            ("_session", "session", "primary", 2),
        )
    ]


def connection_findings(services: list[Mapping], nodes: Mapping[str, int], allowed: int | None) -> list[Finding]:
    """Return what is wrong with the budget of connections, at most one finding.

    Parameters:
        services: those of the environment, every key filled in; databases of no service too (`databases.listed`).
        nodes: by service, the number of app nodes that run it; each has a pooler with all of the service's pools.
        allowed: what the environment states for PostgreSQL; None where it states nothing.
    """
    key = "patroni_max_connections"
    sums = {
        service["name"]: nodes[service["name"]] * sum(pool["pool"] for pool in pools(service["database"]))
        for service in services
        if service["database"]
    }
    needed = sum(sums.values()) + RESERVE
    if allowed is None:
        return [(key, f"is missing; state at least {needed}, which the services' pools and a reserve come to")]
    if allowed < needed:
        sums = {name: count for name, count in sums.items() if count}
        each = "".join(f"{count} for {name} + " for name, count in sums.items())
        pools_of_all = f"and the pools of all nodes come to {each}{RESERVE} in reserve = {needed}"
        return [(key, f"is {allowed}, {pools_of_all}; raise it to that, or lower database.pool of a service")]
    return []
