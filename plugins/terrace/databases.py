"""What is declared of databases, a service's or others, and what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from terrace.connections import pools
from terrace.contracts import Finding, contract, filled, shown
from terrace.indexes import index_findings

# Names of PostgreSQL databases that Terrace makes, without quotes, with room for `_app_a` and `_session`.
NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
EXTENSION = re.compile(r"[a-z0-9_][a-z0-9_-]*")
# A setting of PostgreSQL, or one of an extension.
SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")
SUFFIXES = ("read", "session")


def listed(declared: Mapping[str, Mapping] | None) -> list[dict]:
    """Return the databases of no service in the shape of services that have nothing but a database, ordered by name.

    Parameters:
        declared: the environment's `databases:`.
    """
    options = contract("environment")["databases"]["options"]
    return [
        {"name": name, "database": filled(its, options) | {"name": name}}
        for name, its in sorted((declared or {}).items())
    ]


def database_findings(database: Mapping, place: str = "") -> Iterator[Finding]:
    """Return what is wrong with what is declared of a database, its types left out.

    Parameters:
        database: of a service, or of `databases`.
        place: what stands before the keys that are told, such as `database.`.
    """
    for name, count in Counter(database.get("extensions") or []).items():
        if not EXTENSION.fullmatch(name):
            yield f"{place}extensions", f"has {shown(name)}; give names alone, such as pg_trgm"
        elif count > 1:
            yield f"{place}extensions", f"has {name} twice; keep one"
    for name, value in (database.get("settings") or {}).items():
        key = f"{place}settings.{name}"
        if not SETTING.fullmatch(str(name)):
            yield key, "is no name of a setting; write it as PostgreSQL does, such as work_mem"
        elif not _plain(value) and not (isinstance(value, list) and value and all(map(_plain, value))):
            yield key, f"is {shown(value)}; has to be text, a number, true, false, or a list of these"
    if (connections := database.get("connections")) is not None and connections < 1:
        yield f"{place}connections", f"is {connections}; has to be 1 or more"
    yield from index_findings(database.get("indexes") or {}, f"{place}indexes")


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def databases_findings(
    declared: Mapping[str, Mapping], services: Mapping[str, str], reserved: Mapping[str, str]
) -> Iterator[Finding]:
    """Return what is wrong with the databases of no service.

    Parameters:
        declared: the environment's `databases:`, of the right type.
        services: by database of a service, the service's name.
        reserved: names that daemons keep for themselves, with the daemon of each.
    """
    taken = {f"{database}_{suffix}": database for database in services for suffix in SUFFIXES}
    for name, its in declared.items():
        key = f"databases.{name}"
        if not NAME.fullmatch(str(name)):
            yield key, "a name is 1 to 24 of a-z, 0-9 and _, and starts with a letter"
        elif name in reserved:
            yield key, f"{reserved[name]} keeps this name for itself; choose another"
        elif name in services:
            yield key, f"is the database of the service '{services[name]}'; declare it there, or choose another name"
        elif name in taken or any(f"{other}_{suffix}" == name for other in declared for suffix in SUFFIXES):
            yield key, f"is an alias of the database '{name.rpartition('_')[0]}' in the poolers; choose another name"
        elif clash := next((f"{name}_{suffix}" for suffix in SUFFIXES if f"{name}_{suffix}" in services), None):
            yield key, f"has an alias {clash} in the poolers, which is a service's database; choose another name"
        if its.get("pool", 0) < 0:
            yield f"{key}.pool", f"is {its['pool']}; has to be 0 or more"
        yield from database_findings(its, f"{key}.")


def limit_findings(service: Mapping, nodes: int) -> Iterator[Finding]:
    """Return what is wrong with the limit of connections of a database, held against the pools that lead to it.

    Parameters:
        service: with every key filled in.
        nodes: the number of app nodes whose poolers lead to the database.
    """
    database = service["database"]
    if not database or not database["connections"]:
        return
    needed = nodes * sum(pool["pool"] for pool in pools(database))
    if database["connections"] < needed:
        text = f"is {database['connections']}, and the pools of all nodes come to {needed}"
        yield "connections", f"{text}; raise it to that at least, or lower the pool"
