"""What the user declares of services: read, merged, checked, and brought into the shapes that roles want.

`services/<name>.yml` says what a service is; `services:` of an environment says what differs there. Everything that
is computed from the two is computed here, so that templates and playbooks only loop.
"""

from __future__ import annotations

import base64
import difflib
import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from ansible.errors import AnsibleFilterError

NAME = re.compile(r"^[a-z][a-z0-9-]{0,23}$")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
MEMORY = re.compile(r"^[1-9][0-9]*[KMGT]$")
HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
PATH = re.compile(r"^/[^\s#]*$")

# Names that daemons keep for themselves: a service so called would get their user or their database.
RESERVED = {
    **dict.fromkeys(("admin", "default", "monitor", "replica", "sentinel"), "Redis"),
    **dict.fromkeys(("pgbouncer", "postgres", "template0", "template1"), "PostgreSQL"),
}

# Every key of a service: its type, and its value where it is not given. `...` stands for "has to be given".
# A mapping instead of a type describes nested keys, a list the type of its elements.
SHAPE: dict[str, Any] = {
    "source": (dict, ...),
    "version": (str, ""),
    "app": (str, ...),
    "interface": ({"asgi", "wsgi"}, ...),
    "server": ({"gunicorn", "uvicorn", "granian"}, "gunicorn"),
    "workers": ((int, {"auto"}), "auto"),
    "threads": (int, 4),
    "port": (int, ...),
    "routes": (list, []),
    "health": ({"live": (str, "/healthz"), "ready": (str, "/readyz")}, {}),
    "timeout": ({"request": (int, 30), "stop": (int, 30)}, {}),
    "memory": (str, "512M"),
    "body": (str, "16M"),
    "needs": ([str], []),
    "database": ({"migrate": (str, ""), "pool": (int, 10)}, None),
    "cache": (bool, False),
    "queue": (bool, False),
    "environment": (dict, {}),
    "secrets": ([str], []),
    "processes": (dict, {}),
    "schedule": (dict, {}),
    "on": (str, "app"),
}
ROUTE = {"host": (str, ""), "path": (str, ""), "strip": (bool, False)}
PROCESS = {"command": (str, ...), "count": (int, 1)}
SCHEDULE = {"command": (str, ...), "at": (str, ...)}
SOURCES = {"path", "git", "pypi"}


class Loader(yaml.CSafeLoader):
    """A YAML loader that refuses a key given twice, which YAML otherwise lets the last one win."""


def _mapping(loader: Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key, _ in node.value:
        name = loader.construct_object(key, deep=deep)
        if name in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{name}' is given twice; keep one", key.start_mark
            )
        seen.add(name)
    return yaml.CSafeLoader.construct_mapping(loader, node, deep=deep)


Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: _mapping(loader, node, True)
)


@functools.lru_cache(maxsize=256)
def _read(path: str, _changed: float) -> dict:
    """Return a YAML file's mapping; the time of its last change is part of the cache's key."""
    try:
        content = yaml.load(Path(path).read_text(), Loader=Loader)  # noqa: S506 (the loader above is a safe one)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise AnsibleFilterError(f"{path}{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise AnsibleFilterError(f"{path}: has to be a mapping of a service's keys")
    return content


def _merge(base: Any, over: Any) -> Any:
    """Return base with over's values on top; mappings are merged, anything else is replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}
    return over


def services_declared(overrides: Mapping[str, Mapping] | None, directory: str) -> dict[str, dict]:
    """Return what is declared of each service of an environment, merged, by name.

    Parameters:
        overrides: the environment's `services:`; it names the services that live there.
        directory: where `<name>.yml` stands for each.
    Errors:
        AnsibleFilterError, where a file is not valid YAML, gives a key twice, or is missing.
    """
    if not isinstance(overrides or {}, Mapping):
        raise AnsibleFilterError("services: has to be a mapping, with each service's name as a key")
    declared = {}
    for name, difference in (overrides or {}).items():
        if not isinstance(difference or {}, Mapping):
            raise AnsibleFilterError(f"services.{name}: is {difference!r}; has to be a mapping of what differs here")
        path = Path(directory) / f"{name}.yml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in Path(directory).glob("*.yml"))) or "none"
            raise AnsibleFilterError(
                f"services.{name}: there is no {path.resolve()}; write it, or name one that is there ({known})"
            )
        both = _merge(_read(str(path.resolve()), path.stat().st_mtime), difference or {})
        # YAML 1.1 reads a bare `on` as true.
        declared[name] = {"on" if key is True else key: value for key, value in both.items()}
    return declared


def _kind(kind: Any) -> str:
    if isinstance(kind, set):
        return "one of " + ", ".join(sorted(kind))
    if isinstance(kind, tuple):
        return " or ".join(_kind(k) for k in kind)
    if isinstance(kind, dict):
        return "a mapping"
    if kind == [str]:
        return "a list of text"
    return {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a mapping"}[kind]


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(_fits(value, k) for k in kind)
    if isinstance(kind, set):
        return isinstance(value, str) and value in kind
    if isinstance(kind, dict) or kind is dict:
        return isinstance(value, Mapping)
    if kind == [str]:
        return isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
    if kind is list:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check(value: Mapping, shape: Mapping, where: str) -> list[str]:
    """Return what is wrong with a mapping's keys and types, a line each."""
    problems = []
    for key in value:
        if key not in shape:
            close = difflib.get_close_matches(str(key), shape, n=1)
            mend = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(shape)}"
            problems.append(f"{where}.{key}: unknown key; {mend}")
    for key, (kind, default) in shape.items():
        if key not in value or (value[key] is None and default is None):
            if default is ...:
                problems.append(f"{where}.{key}: is missing; give {_kind(kind)}")
        elif not _fits(value[key], kind):
            problems.append(f"{where}.{key}: is {value[key]!r}; has to be {_kind(kind)}")
        elif isinstance(kind, dict):
            problems += _check(value[key], kind, f"{where}.{key}")
    return problems


def _filled(value: Mapping | None, shape: Mapping) -> dict:
    """Return a mapping with the defaults of its shape filled in."""
    value = value or {}
    result = {}
    for key, (kind, default) in shape.items():
        given = value.get(key, default)
        result[key] = _filled(given, kind) if isinstance(kind, dict) and given is not None else given
    return result


def _own_problems(service: Mapping, where: str) -> list[str]:
    """Return what is wrong with one service that no type tells, a line each."""
    problems = []
    for key, shape in (("processes", PROCESS), ("schedule", SCHEDULE)):
        for part, value in (service.get(key) or {}).items():
            if not NAME.match(str(part)):
                problems.append(f"{where}.{key}.{part}: a name is 1 to 24 of a-z, 0-9 and -")
            if not isinstance(value, Mapping):
                problems.append(f"{where}.{key}.{part}: has to be a mapping with a command")
            else:
                problems += _check(value, shape, f"{where}.{key}.{part}")
    kinds = SOURCES & set(service["source"])
    if len(kinds) != 1:
        problems.append(f"{where}.source: give exactly one of path, git or pypi")
    if not re.match(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", service["app"]):
        problems.append(f"{where}.app: is {service['app']!r}; has to be package.module:callable")
    for key in ("memory", "body"):
        if not MEMORY.match(service.get(key, "1M")):
            problems.append(f"{where}.{key}: is {service[key]!r}; has to be a size such as 512M")
    for key in ("live", "ready"):
        path = (service.get("health") or {}).get(key, "/")
        if not PATH.match(path):
            problems.append(f"{where}.health.{key}: is {path!r}; has to be a path, starting with /")
    for key, value in (
        ("workers", service.get("workers", 1)),
        ("threads", service.get("threads", 1)),
        ("timeout.request", service.get("timeout", {}).get("request", 1)),
        ("timeout.stop", service.get("timeout", {}).get("stop", 1)),
        ("database.pool", (service.get("database") or {}).get("pool", 1)),
    ):
        if value != "auto" and value < 1:
            problems.append(f"{where}.{key}: is {value}; has to be 1 or more")
    for variable, value in service.get("environment", {}).items():
        if not isinstance(value, (str, int, float)):
            problems.append(f"{where}.environment.{variable}: is {value!r}; has to be text, a number, true or false")
    for variable in [*service.get("environment", {}), *service.get("secrets", [])]:
        if not VARIABLE.match(str(variable)):
            problems.append(f"{where}: {variable!r} cannot be the name of an environment variable")
    return problems


def services_problems(
    declared: Mapping[str, Mapping], ports: Mapping[str, int], groups: Mapping, secrets: Mapping | None = None
) -> list[str]:
    """Return what is wrong with an environment's services: one line each, naming place, key and mend.

    Parameters:
        declared: what `services_declared` returned.
        ports: the table of ports that the stack itself uses, by name.
        groups: the inventory's groups, to see that `on:` names one.
        secrets: the vault's secrets of services: a mapping by service, then by variable.
    """
    problems: list[str] = []
    taken = {number: f"the stack's '{name}'" for name, number in ports.items()}
    routed: dict[tuple, str] = {}
    for name, service in declared.items():
        where = f"services.{name}"
        if not NAME.match(str(name)):
            problems.append(f"{where}: a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter")
        if name in RESERVED:
            problems.append(f"{where}: {RESERVED[name]} keeps this name for itself; choose another")
        wrong = _check(service, SHAPE, where)
        problems += wrong
        if wrong:
            continue
        problems += _own_problems(service, where)
        port = service["port"]
        if not 1024 <= port <= 65535:
            problems.append(f"{where}.port: is {port}; has to be between 1024 and 65535")
        elif port in taken:
            problems.append(f"{where}.port: {port} is taken by {taken[port]}; choose another")
        taken.setdefault(port, f"the service '{name}'")
        for number, route in enumerate(service.get("routes", [])):
            place = f"{where}.routes[{number}]"
            if not isinstance(route, Mapping):
                problems.append(f"{place}: has to be a mapping with host, path, or both")
                continue
            problems += _check(route, ROUTE, place)
            key = (str(route.get("host", "")).lower(), str(route.get("path", "")).rstrip("/"))
            if key == ("", "") and not route.get("path"):
                problems.append(f"{place}: give a host, a path, or both")
            if route.get("path") and not str(route["path"]).startswith("/"):
                problems.append(f"{place}.path: is {route['path']!r}; has to start with /")
            elif route.get("path") and not PATH.match(str(route["path"])):
                problems.append(f"{place}.path: is {route['path']!r}; cannot contain spaces or #")
            if route.get("host") and not HOST.match(str(route["host"])):
                problems.append(
                    f"{place}.host: is {route['host']!r}; has to be a host name alone, without port or path"
                )
            if key in routed:
                problems.append(f"{place}: the same route belongs to '{routed[key]}'; remove one")
            routed.setdefault(key, name)
        for need in service.get("needs", []):
            if need not in declared:
                problems.append(f"{where}.needs: there is no service '{need}' here; known are {', '.join(declared)}")
        given = (secrets or {}).get(name) or {}
        for variable in service.get("secrets", []):
            if not given.get(variable):
                problems.append(
                    f"{where}.secrets: {variable} is not in the vault; add vault_services.{name}.{variable}"
                )
        databases = {other for other, its in declared.items() if its.get("database") is not None}
        for alias in ("read", "session"):
            other = str(name).removesuffix(f"-{alias}")
            if other != name and databases >= {name, other}:
                problems.append(
                    f"{where}: the database of '{other}' has an alias {other.replace('-', '_')}_{alias}, which is this"
                    " service's database; choose another name"
                )
        for process in service.get("processes", {}):
            if f"{name}-{process}" in declared:
                problems.append(
                    f"{where}.processes.{process}: its unit svc-{name}-{process}@ is that of the service"
                    f" '{name}-{process}'; choose another name"
                )
        on = service.get("on", "app")
        if on not in groups:
            problems.append(f"{where}.on: there is no group '{on}' in the inventory")
        elif strangers := [host for host in groups[on] if host not in groups.get("app", [])]:
            problems.append(
                f"{where}.on: the group '{on}' has hosts that are not in 'app': {', '.join(strangers)}; services run on"
                " app hosts"
            )
        elif not groups[on] and on != "app":
            problems.append(f"{where}.on: the group '{on}' has no host; add one")
    return problems


def services_list(declared: Mapping[str, Mapping]) -> list[dict]:
    """Return the services with every default filled in, ordered by name.

    Beside the declared keys each has `name`, and with a database `database.name`.
    """
    result = []
    for name in sorted(declared):
        service = _filled(declared[name], SHAPE) | {"name": name}
        service["routes"] = [_filled(route, ROUTE) for route in service["routes"]]
        service["processes"] = {key: _filled(value, PROCESS) for key, value in service["processes"].items()}
        service["schedule"] = {key: _filled(value, SCHEDULE) for key, value in service["schedule"].items()}
        if service["database"] is not None:
            service["database"]["name"] = name.replace("-", "_")
        result.append(service)
    return result


def size_in_bytes(size: str) -> int:
    """Return a size such as 16M in bytes (powers of 1024, as systemd counts)."""
    if not MEMORY.match(size):
        raise AnsibleFilterError(f"{size!r} is not a size; write a number and K, M, G or T, such as 512M")
    return int(size[:-1]) * 1024 ** ("KMGT".index(size[-1]) + 1)


def derive(key: str, purpose: str) -> str:
    """Return the password for a purpose: its HMAC-SHA-256 under the environment's key, as 43 URL-safe characters.

    One secret in the vault so gives each user of each daemon a password of its own, none of which tells another
    (RFC 5869 uses HMAC the same way to expand a key).

    Parameters:
        key: the environment's key, at least 32 characters.
        purpose: what the password is for, such as `postgresql/superuser`.
    """
    if not isinstance(key, str) or len(key) < 32:
        raise AnsibleFilterError(
            "vault_key is missing or shorter than 32 characters; set it in the environment's vault"
        )
    raw = hmac.new(key.encode(), purpose.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def services_databases(services: list[dict], key: str) -> list[dict]:
    """Return the databases of services with their roles: an owner, an application role with two logins, a reader."""
    return [
        {
            "name": database,
            "owner": {"name": f"{database}_owner", "password": derive(key, f"postgresql/{database}/owner")},
            "application": {
                "name": f"{database}_app",
                "logins": [
                    {"name": f"{database}_app_{letter}", "password": derive(key, f"postgresql/{database}/app_{letter}")}
                    for letter in "ab"
                ],
            },
            "reader": {"name": f"{database}_reader", "password": derive(key, f"postgresql/{database}/reader")},
        }
        for database in (service["database"]["name"] for service in services if service["database"])
    ]


def services_pools(services: list[dict]) -> list[dict]:
    """Return the poolers' databases: each service's own, its read-only alias and its session-pooled one."""
    return [
        {"name": database["name"] + suffix, "database": database["name"], "mode": mode, "target": target, "pool": pool}
        for database in (service["database"] for service in services if service["database"])
        for suffix, mode, target, pool in (
            ("", "transaction", "primary", database["pool"]),
            ("_read", "transaction", "replica", database["pool"]),
            ("_session", "session", "primary", 2),
        )
    ]


def services_logins(databases: list[dict]) -> list[dict[str, str]]:
    """Return the users of `services_databases` that a pooler has to know: owners and application logins."""
    return [login for database in databases for login in (database["owner"], *database["application"]["logins"])]


def services_redis_users(services: list[dict], key: str) -> list[dict]:
    """Return the Redis users of services, each with the instances that it may use."""
    users = []
    for service in services:
        instances = [instance for instance in ("cache", "queue") if service[instance]]
        if instances:
            password = derive(key, f"redis/{service['name']}")
            users.append({"name": service["name"], "password": password, "instances": instances})
    return users


def services_backends(services: list[dict], nodes: Mapping[str, list[dict]], health_port: int) -> list[dict]:
    """Return what a load balancer has to know of each service that has routes.

    Parameters:
        services: what `services_list` returned.
        nodes: by service, its app nodes with name and address.
        health_port: the port on which node proxies tell of readiness.
    """
    return [
        {
            "name": service["name"],
            "routes": service["routes"],
            "nodes": nodes[service["name"]],
            "port": service["port"],
            "health_port": health_port,
            "timeout_request": service["timeout"]["request"],
            "body_max_bytes": size_in_bytes(service["body"]),
        }
        for service in services
        if service["routes"]
    ]


def services_ingress(services: list[dict], nodes: Mapping[str, list[dict]], node: str) -> list[dict]:
    """Return what the node proxy of one node has to know of the services that run there.

    Their peers come the next by name first: a node that takes a few stands in for as many as stand in for it.
    """
    return [
        {
            "name": service["name"],
            "port": service["port"],
            "ready": service["health"]["ready"],
            "host_header": next((route["host"] for route in service["routes"] if route["host"]), "localhost"),
            "timeout_request": service["timeout"]["request"],
            "timeout_stop": service["timeout"]["stop"],
            "peers": _from(nodes[service["name"]], node)[1:],
        }
        for service in services
    ]


def _from(nodes: list[dict], name: str) -> list[dict]:
    """Return nodes by name, turned round so that the one of this name comes first."""
    ordered = sorted(nodes, key=lambda node: node["name"])
    start = next((place for place, node in enumerate(ordered) if node["name"] == name), 0)
    return ordered[start:] + ordered[:start]


# Each caller checks every node that it may call, every second: with all of them checks, and the size of all
# configurations, would grow with the square of the nodes.
CALLED = 8


def _called(targets: list[dict], callers: list[str], node: str) -> list[dict]:
    """Return the nodes of a service that one caller balances over: itself and the next by name, at least CALLED.

    Where there are few callers each takes more, so that every node is called, and by as many as any other.
    """
    ordered = sorted(targets, key=lambda target: target["name"])
    if not any(target["name"] == node for target in ordered) and ordered:
        node = ordered[callers.index(node) * len(ordered) // len(callers)]["name"]
    return _from(ordered, node)[: max(CALLED, -(-len(ordered) // len(callers)))]


def services_needs(
    here: list[dict], services: list[dict], nodes: Mapping[str, list[dict]], health_port: int, node: str
) -> list[dict]:
    """Return the services that those of one node call, with the nodes that it calls them on.

    Parameters:
        here: the services of the node, of `services_list`.
        services: all of them.
        nodes: by service, its app nodes with name and address.
        health_port: the port on which node proxies tell of readiness.
        node: the node's name.
    """
    needed = {need for service in here for need in service["needs"]}
    callers = {
        need: sorted({host["name"] for s in services if need in s["needs"] for host in nodes[s["name"]]})
        for need in needed
    }
    return [
        {
            "name": service["name"],
            "port": service["port"],
            "health_port": health_port,
            "nodes": _called(nodes[service["name"]], callers[service["name"]], node),
            "timeout_request": service["timeout"]["request"],
        }
        for service in services
        if service["name"] in needed
    ]


def services_routes(services: list[dict]) -> list[dict]:
    """Return all routes with their service, the most specific first: with a host before without, longer paths first."""
    routes = [
        {
            "service": service["name"],
            "host": route["host"].lower(),
            "path": route["path"].rstrip("/"),
            "strip": route["strip"],
        }
        for service in services
        for route in service["routes"]
    ]
    return sorted(routes, key=lambda route: (not route["host"], -len(route["path"]), route["host"], route["path"]))


def service_environment(
    service: Mapping,
    services: list[dict],
    ports: Mapping[str, int],
    key: str,
    node: str,
    secrets: Mapping | None = None,
    owner: bool = False,
) -> dict[str, str]:
    """Return the environment variables of a service, as a twelve-factor application expects them.

    Parameters:
        service: one of `services_list`.
        services: all of them, for the ports of those that it needs.
        ports: the table of ports.
        key: the environment's key, from which passwords derive.
        node: the name of the app node.
        secrets: the vault's secrets of services.
        owner: whether these are for a migration, which connects as the owner, session-pooled.
    """
    name = service["name"]
    result = {"SERVICE_NAME": name, "NODE_NAME": node}
    if service["database"]:
        database = service["database"]["name"]
        login = f"{database}_owner" if owner else f"{database}_app_a"
        purpose = "owner" if owner else "app_a"
        password = quote(derive(key, f"postgresql/{database}/{purpose}"), safe="")
        base = f"postgresql://{login}:{password}@127.0.0.1:{ports['pgbouncer']}/{database}"
        result |= {
            "DATABASE_URL": base + ("_session" if owner else ""),
            "DATABASE_READ_URL": f"{base}_read",
            "DATABASE_SESSION_URL": f"{base}_session",
        }
    for wanted, variable, instance in (("cache", "REDIS_URL", "cache"), ("queue", "QUEUE_URL", "queue")):
        if service[wanted]:
            password = quote(derive(key, f"redis/{name}"), safe="")
            result[variable] = f"redis://{name}:{password}@127.0.0.1:{ports[f'node_{instance}']}/0"
    by_name = {other["name"]: other for other in services}
    for need in service["needs"]:
        result[f"{need.upper().replace('-', '_')}_URL"] = f"http://127.0.0.1:{by_name[need]['port']}"
    for variable, value in service["environment"].items():
        result[variable] = str(value).lower() if isinstance(value, bool) else str(value)
    result |= {variable: str((secrets or {})[name][variable]) for variable in service["secrets"]}
    return result


def members(group: str, groups: Mapping[str, list[str]], hostvars: Mapping) -> list[dict[str, str]]:
    """Return the hosts of a group as a list of name and private address; a group that does not exist has none."""
    return [{"name": host, "address": _address(host, hostvars)} for host in groups.get(group, [])]


# The addresses of the inventory that was asked last. Ansible puts all variables of a host together for each one that is
# asked, and every expression of topology.yml asks for those of a whole group.
_addresses: tuple[Mapping, dict[str, str]] = ({}, {})


def _address(host: str, hostvars: Mapping) -> str:
    global _addresses
    if _addresses[0] is not hostvars:
        _addresses = (hostvars, {})
    known = _addresses[1]
    if host not in known:
        variables = hostvars[host]
        known[host] = variables.get("address") or variables.get("ansible_host", host)
    return known[host]


TIERS = ("loadbalancer", "app", "cache", "sentinel", "database", "etcd")


def topology_problems(groups: Mapping[str, list[str]], hostvars: Mapping) -> list[str]:
    """Return what is wrong with an inventory's hosts and groups: one line each, naming place and mend."""
    problems = []
    for tier in TIERS:
        if not groups.get(tier):
            problems.append(f"hosts.yml: the group '{tier}' has no host; add one, it may be a host of another group")
    for tier in ("sentinel", "etcd"):
        if groups.get(tier) and len(groups[tier]) % 2 == 0:
            problems.append(
                f"hosts.yml: the group '{tier}' has {len(groups[tier])} hosts, which cannot outvote each other;"
                " use 1, 3 or 5"
            )
    seen: dict[str, str] = {}
    for host in groups["all"]:
        if not any(host in groups.get(tier, []) for tier in TIERS):
            problems.append(f"hosts.yml: the host '{host}' is in none of the groups {', '.join(TIERS)}; put it in one")
        address = _address(host, hostvars)
        if address in seen:
            problems.append(f"hosts.yml: '{host}' has the address {address} of '{seen[address]}'; each needs its own")
        seen[address] = host
    return problems


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        names = (
            services_declared,
            services_problems,
            services_list,
            services_databases,
            services_pools,
            services_logins,
            services_redis_users,
            services_backends,
            services_ingress,
            services_needs,
            services_routes,
            service_environment,
            size_in_bytes,
            derive,
            members,
            topology_problems,
        )
        return {function.__name__: function for function in names}
