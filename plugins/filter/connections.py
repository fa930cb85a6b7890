"""The budget of database connections: what the services' pools may open, beside what PostgreSQL allows."""

from __future__ import annotations

from collections.abc import Mapping

# For superusers, Patroni, replication and monitoring: three are PostgreSQL's superuser_reserved_connections, ten its
# default max_wal_senders, and Patroni keeps a few.
RESERVE = 20


def connection_problems(
    pools: list[Mapping], services: list[Mapping], nodes: Mapping[str, list], max_connections: int | None
) -> list[str]:
    """Return what is wrong with the budget of connections, at most one line that names place and mend.

    Parameters:
        pools: what `services_pools` returned: the poolers' aliases, with the database and the size of each.
        services: what `services_list` returned.
        nodes: by service, the app nodes that run it; each has a pooler with all of the service's pools.
        max_connections: what the environment states for PostgreSQL; None where it states nothing.
    """
    place = "group_vars/database.yml: patroni_max_connections"
    sums = {
        service["name"]: len(nodes[service["name"]])
        * sum(pool["pool"] for pool in pools if pool["database"] == service["database"]["name"])
        for service in services
        if service["database"]
    }
    needed = sum(sums.values()) + RESERVE
    if max_connections is None:
        return [f"{place}: is missing; state at least {needed}, which the services' pools and a reserve come to"]
    if int(max_connections) < needed:
        each = " + ".join(f"{count} for {name}" for name, count in sums.items())
        return [
            f"{place}: is {max_connections}, and the pools of all nodes come to {each} + {RESERVE} in reserve"
            f" = {needed}; raise it to that, or lower database.pool of a service"
        ]
    return []


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {"connection_problems": connection_problems}
