"""What fits into a host: the memory and CPUs of a machine, divided among what runs there.

A host alone in its tier gives it everything but a reserve; a host of several tiers divides. What asks for a fixed
amount is counted first: the system, the services by their declared `memory`, proxies, etcd, Patroni. PostgreSQL and
Redis then get what they cannot do without, and share the rest. docs/sizing.md tells the rules with their sources, and
shows them applied. All memory is in MiB.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

# etcd with few keys was measured at 31 MiB; the room is for its log and a compaction.
ETCD = 96
PATRONI = 96
SENTINEL = 32
PGBACKREST = 64

# PostgreSQL. A backend of pgbench has 1.3 MiB of its own; TLS and caches of a larger catalogue come on top.
BACKEND = 3
AUTOVACUUM_WORKERS = 3

# Redis. A process, its backlog for replicas and its clients' buffers; and the allocator's loss on what is stored.
REDIS_BASE = 64
REDIS_FRAGMENTATION = 1.1
REDIS_LEAST = 32

# HAProxy's Starter Guide, 3.5: 8,000 connections with TLS, or 20,000 without, in one GB, the system's buffers included.
PROXY_BASE = 48
PROXY_THREAD = 4
PROXY_CONNECTION = {"lb": 1024 / 8000, "node": 1024 / 20000, "edge": 1024 / 8000}
PROXY_LEAST = 1000
PROXY_MOST = 30000  # two descriptors each, of the 65,536 that the role base gives a unit

# nginx that keeps answers: its table of them, and workers with 8,192 connections.
KEPT = 64

# PgBouncer takes 2 kB for a connection, and what clients prepare. A worker's pool is SQLAlchemy's: 5, and 10 more.
POOLER_BASE = 16
POOLER_CLIENT = 10 / 1024
POOLER_WORKER = 45  # three aliases
POOLER_LEAST, POOLER_MOST = 1000, 8000  # of the 16,384 descriptors of its unit

# An application server's supervisor, and one worker of a small application.
SERVER_BASE = 64
WORKER = 64

# Writes that an ASGI worker gets at once: less than half of the 40 threads that Starlette runs plain functions in.
ASGI_WRITES = 16

DATABASE_WEIGHT, CACHE_WEIGHT = 2, 1
PROXIES = (("loadbalancer", "lb", "the load balancer"), ("app", "node", "the node proxy"), ("edge", "edge", "the edge"))
DAEMONS = (
    ("etcd", "etcd", ETCD),
    ("sentinel", "Redis Sentinel", SENTINEL),
    ("database", "Patroni", PATRONI),
    ("backup", "pgBackRest", PGBACKREST),
)


def system_mb(memory_mb: int) -> int:
    """Return what the system keeps: a tenth of the memory, from 256 MiB to 2 GiB."""
    return max(256, min(2048, memory_mb // 10))


def service_workers(workers: int | str, memory_mb: int, cpus: int) -> int:
    """Return the number of workers of a slot.

    `auto` is one a CPU, two at least so that one slow request does not hold up all, and no more than the slot's memory
    carries. A declared number is left as it is.
    """
    if workers != "auto":
        return int(workers)
    return max(1, min(max(2, int(cpus)), (int(memory_mb) - SERVER_BASE) // WORKER))


def services_sized(services: list[Mapping], cpus: int) -> list[dict[str, Any]]:
    """Return services as `services_list` gives them, with a number of workers each.

    Parameters:
        services: each with its `workers` and `memory`, at least.
        cpus: those of the host.
    """
    return [
        {**service, "workers": service_workers(service["workers"], _mebibytes(service["memory"]), cpus)}
        for service in services
    ]


def slot_writes(service: Mapping) -> int:
    """Return how many writes a slot gets at once, so that those that wait for a database leave it room for reads.

    A server spreads requests over its workers by chance. With WSGI a write holds a thread: with one less than a worker
    has no worker is ever full of them. That is little for many workers, so a quarter of all threads is allowed, with
    which one seldom is. With ASGI a write holds a thread only where its route is a plain function: Starlette has
    40 for them in each worker.

    Parameters:
        service: its `interface`, and as numbers its `workers` and `threads`.
    """
    workers, threads = int(service["workers"]), int(service["threads"])
    if service["interface"] == "asgi":
        return ASGI_WRITES * workers
    return max(1, threads - 1, workers * threads // 4)


def services_bounded(services: list[Mapping], cpus: int) -> list[dict[str, Any]]:
    """Return services with a number of `writes` each; 0, or none given, is no bound.

    Parameters:
        services: each with `writes`; where that is `auto`, what `slot_writes` and `services_sized` take.
        cpus: those of the host.
    """
    return [
        {**service, "writes": slot_writes(services_sized([service], cpus)[0])}
        if service.get("writes") == "auto"
        else {**service, "writes": int(service.get("writes") or 0)}
        for service in services
    ]


def services_load(services: list[Mapping], first: Mapping[str, str], host: str) -> list[dict[str, Any]]:
    """Return what the services of a host ask of its memory.

    Parameters:
        services: those of `services_list` that run on the host.
        first: what `services_first` returned: the node that runs a service's scheduled commands.
        host: the host's name.
    Returns:
        For each its name, the memory of one unit, the number of units beside its slot, its workers, and whether it
        has a database.
    """
    return [
        {
            "name": service["name"],
            "memory_mb": _mebibytes(service["memory"]),
            "units": sum(process["count"] for process in service["processes"].values())
            + (len(service["schedule"]) if first[service["name"]] == host else 0),
            "workers": service["workers"],
            "database": bool(service["database"]),
        }
        for service in services
    ]


def _mebibytes(size: str) -> int:
    return math.ceil(int(size[:-1]) * 1024 ** ("KMGT".index(size[-1]) - 1))


@functools.cache
def postgresql_least_mb(cpus: int, max_connections: int) -> int:
    """Return the least memory in which PostgreSQL holds its connections, at 1 MiB of work_mem each."""
    memory = 256
    while sum(postgresql_uses(memory, cpus, max_connections).values()) > memory:
        memory += 8
    return memory


def postgresql_sizes(memory_mb: int, cpus: int, max_connections: int) -> dict[str, int]:
    """Return PostgreSQL's settings that depend on the host: memory in MiB, and numbers of workers.

    The rules are those of its manual (19.4, Resource Consumption) and of PGTune for web applications, except that
    `work_mem` is divided from what shared buffers, backends and maintenance leave.
    """
    memory_mb, cpus, max_connections = int(memory_mb), int(cpus), int(max_connections)
    shared = memory_mb // 4
    maintenance = max(16, min(2048, memory_mb // 16))
    left = memory_mb - _shared_mb(shared) - BACKEND * max_connections - 2 * maintenance
    parallel = min(cpus, 32)
    work = max(left // (3 * (max_connections + parallel)), min(4, left // (max_connections + parallel)), 1)
    half = max(1, min(4, math.ceil(cpus / 2)))
    return {
        "shared_buffers": shared,
        "effective_cache_size": memory_mb * 3 // 4,
        "work_mem": work,
        "maintenance_work_mem": maintenance,
        "autovacuum_work_mem": max(1, maintenance // AUTOVACUUM_WORKERS),
        "min_wal_size": max(80, min(1024, memory_mb // 4)),
        "max_wal_size": max(1024, min(4096, memory_mb)),
        "max_parallel_workers": parallel,
        "max_parallel_workers_per_gather": half,
        "max_parallel_maintenance_workers": half,
    }


def _shared_mb(shared_buffers: int) -> int:
    """Return PostgreSQL's shared memory: its buffers, what describes them, locks, and WAL buffers."""
    return math.ceil(shared_buffers * 1.04) + 32


def postgresql_uses(memory_mb: int, cpus: int, max_connections: int) -> dict[str, int]:
    """Return what PostgreSQL takes at most: connections all busy, an index being built, autovacuum at its full."""
    sizes = postgresql_sizes(memory_mb, cpus, max_connections)
    return {
        "shared memory": _shared_mb(sizes["shared_buffers"]),
        "backends": BACKEND * max_connections,
        "work": sizes["work_mem"] * (max_connections + sizes["max_parallel_workers"]),
        "maintenance": sizes["maintenance_work_mem"] + AUTOVACUUM_WORKERS * sizes["autovacuum_work_mem"],
    }


def redis_sizes(memory_mb: int, instances: list[Mapping]) -> list[int]:
    """Return `maxmemory` of Redis instances in MiB: as stated, or by their shares of what the memory carries.

    While an instance saves, it may take twice its memory (Redis's documentation, Administration). Instances seldom save
    at once, so there is room for the largest.

    Parameters:
        memory_mb: the memory of the host that all instances together may count on.
        instances: each with `share` (1 if not given) and, where it is stated, `maxmemory_mb`.
    """

    def sizes(unit: int) -> list[int]:
        return [
            int(instance.get("maxmemory_mb") or 0) or max(REDIS_LEAST, unit * int(instance.get("share") or 1))
            for instance in instances
        ]

    least, most = 0, int(memory_mb)
    while least < most:
        unit = (least + most + 1) // 2
        least, most = (unit, most) if redis_uses(sizes(unit)) <= memory_mb else (least, unit - 1)
    return sizes(least)


def redis_uses(sizes: list[int]) -> int:
    """Return what Redis instances take at most: each full, the largest of them saving."""
    return math.ceil(REDIS_BASE * len(sizes) + REDIS_FRAGMENTATION * sum(sizes) + max(sizes))


def redis_least_mb(instances: list[Mapping]) -> int:
    """Return the least memory that carries Redis instances: what is stated, and a little where nothing is."""
    memory = 0
    while redis_uses(redis_sizes(memory, instances)) > memory:
        memory += 8
    return memory


def _proxy_mb(instance: str, cpus: int, connections: int) -> int:
    return math.ceil(PROXY_BASE + PROXY_THREAD * cpus + connections * PROXY_CONNECTION[instance])


def _proxy_connections(instance: str, cpus: int, memory_mb: float) -> int:
    number = int((memory_mb - PROXY_BASE - PROXY_THREAD * cpus) / PROXY_CONNECTION[instance])
    return max(PROXY_LEAST, min(PROXY_MOST, number))


def host_plan(host: Mapping, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a host's memory and CPUs are divided among what runs there.

    Parameters:
        host: `tiers`, the groups whose daemons run there; `services`, what `services_load` returned;
            `max_connections` of PostgreSQL; `keeps`, whether answers are kept there; `redis`, its instances with their
            shares; `memory_mb` and `cpus` where they are stated.
        facts: what the host says of itself: `memtotal_mb` and `processor_nproc`.
    Returns:
        `memory_mb` and `cpus` of the host; `postgresql_mb` and `redis_mb`, the shares of the two; `connections` of
        HAProxy's instances and of PgBouncer (`pooler`); `workers` by service; `needs` and `uses`, in MiB by what takes
        it: what has to be there, and what is taken at most once all is divided.
    """
    memory = int(host.get("memory_mb") or facts["memtotal_mb"])
    cpus = int(host.get("cpus") or facts["processor_nproc"])
    tiers, services, instances = (list(host.get(key) or []) for key in ("tiers", "services", "redis"))
    max_connections = int(host.get("max_connections") or 0)

    workers = {s["name"]: service_workers(s["workers"], s["memory_mb"], cpus) for s in services}
    connections = {}
    needs = {"the system": system_mb(memory)}
    if "app" in tiers:
        # Two slots of a service exist while it is replaced.
        wanted = sum(2 * workers[s["name"]] * POOLER_WORKER for s in services if s["database"])
        connections["pooler"] = max(POOLER_LEAST, min(POOLER_MOST, wanted))
        needs |= {f"the service {s['name']}": s["memory_mb"] * (1 + s["units"]) for s in services}
        if services:
            needs["the second slot of a restart"] = max(s["memory_mb"] for s in services)
        needs["PgBouncer"] = math.ceil(POOLER_BASE + connections["pooler"] * POOLER_CLIENT)
    proxies = {instance: label for tier, instance, label in PROXIES if tier in tiers}
    needs |= {label: _proxy_mb(instance, cpus, PROXY_LEAST) for instance, label in proxies.items()}
    needs |= {label: taken for tier, label, taken in DAEMONS if tier in tiers}
    if host.get("keeps"):
        needs["what keeps answers"] = KEPT
    if "database" in tiers:
        needs["PostgreSQL"] = postgresql_least_mb(cpus, max_connections)
    if "cache" in tiers:
        needs["Redis"] = redis_least_mb(instances)
    uses, rest = dict(needs), max(0, memory - sum(needs.values()))

    # Beside others a proxy takes a sixteenth of the memory at most, and leaves three quarters of what is free.
    most = rest if tiers in (["loadbalancer"], ["edge"]) else min(memory // 16, rest // 4)
    for instance, label in proxies.items():
        connections[instance] = _proxy_connections(instance, cpus, needs[label] + most / len(proxies))
        uses[label] = _proxy_mb(instance, cpus, connections[instance])
        rest -= uses[label] - needs[label]

    # What is stated for all of Redis, it does not get more of.
    open_redis = "cache" in tiers and any(not instance.get("maxmemory_mb") for instance in instances)
    weights = {"PostgreSQL": DATABASE_WEIGHT * ("database" in tiers), "Redis": CACHE_WEIGHT * open_redis}
    total = sum(weights.values()) or 1
    given = {name: needs.get(name, 0) + rest * weight // total for name, weight in weights.items()}
    if "database" in tiers:
        uses["PostgreSQL"] = sum(postgresql_uses(given["PostgreSQL"], cpus, max_connections).values())
    if "cache" in tiers:
        uses["Redis"] = redis_uses(redis_sizes(given["Redis"], instances))
    return {
        "memory_mb": memory,
        "cpus": cpus,
        "postgresql_mb": given["PostgreSQL"],
        "redis_mb": given["Redis"],
        "connections": connections,
        "workers": workers,
        "needs": needs,
        "uses": uses,
    }


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        names = (host_plan, postgresql_sizes, redis_sizes, services_bounded, services_load, services_sized)
        return {function.__name__: function for function in names}
