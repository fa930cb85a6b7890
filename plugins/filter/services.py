"""What the user declares of services, brought into the shapes that roles want.

`services/<name>.yml` says what a service is; `services:` of an environment says what differs there. Everything that
is computed from the two is computed here, so that templates and playbooks only loop.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import caching
from terrace import rotation as rotations
from terrace.connections import pools
from terrace.services import MEMORY, listed, need_variable, read


def services_declared(overrides: Mapping[str, Mapping] | None, directory: str) -> dict[str, dict]:
    """Return what is declared of each service of an environment, merged, by name.

    Parameters:
        overrides: the environment's `services:`; it names the services that live there.
        directory: where `<name>.yml` stands for each.
    Errors:
        AnsibleFilterError, where a file is not valid YAML, gives a key twice, or is missing.
    """
    declared, problems, wrong = read(overrides, Path(directory))
    if told := [*map(str, problems), *(f"{key}: {text}" for key, text in wrong)]:
        raise AnsibleFilterError("\n".join(told))
    return declared


def services_list(declared: Mapping[str, Mapping]) -> list[dict]:
    """Return the services with every default filled in, ordered by name.

    Beside the declared keys each has `name`, and with a database `database.name`.
    """
    return listed(declared)


def size_in_bytes(size: str) -> int:
    """Return a size such as 16M in bytes (powers of 1024, as systemd counts)."""
    if not MEMORY.fullmatch(size):
        raise AnsibleFilterError(f"{size!r} is not a size; write a number and K, M, G or T, such as 512M")
    return int(size[:-1]) * 1024 ** ("KMGT".index(size[-1]) + 1)


def derive(key: str, purpose: str, generation: int = 1) -> str:
    """Return the password for a purpose: its HMAC-SHA-256 under the environment's key, as 43 URL-safe characters.

    One secret in the vault so gives each user of each daemon a password of its own, none of which tells another
    (RFC 5869 uses HMAC the same way to expand a key).

    Parameters:
        key: the environment's key, at least 32 characters.
        purpose: what the password is for, such as `postgresql/superuser`.
        generation: which password for it. The first is that of the purpose alone, which environments have had always.
    """
    if generation > 1:
        purpose = f"{purpose}/{generation}"
    if not isinstance(key, str) or len(key) < 32:
        raise AnsibleFilterError(
            "vault_key is missing or shorter than 32 characters; set it in the environment's vault"
        )
    raw = hmac.new(key.encode(), purpose.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def services_checks(services: list[dict]) -> list[dict[str, str]]:
    """Return what services want to have tried in a copy of their database: `service`, `database`, `role`, `statement`.

    Parameters:
        services: of `services_list`.
    """
    checked = [service for service in services if service["database"] and service["database"]["check"]]
    return [
        {
            "service": service["name"],
            "database": service["database"]["name"],
            "role": f"{service['database']['name']}_reader",
            "statement": service["database"]["check"].strip(),
        }
        for service in checked
    ]


def services_databases(services: list[dict], key: str, rotation: Mapping | None = None) -> list[dict]:
    """Return databases with what they have and their roles: an owner, an application role with two logins, a reader.

    Parameters:
        services: of `services_list`, and of `databases_list`.
        key: the environment's key, from which passwords derive.
        rotation: the generations of passwords, as `terrace.rotation` has them.
    """
    return [
        {
            "name": database,
            "owner": _owner(service, key, rotation),
            "application": {
                "name": f"{database}_app",
                "logins": [_login(service, letter, key, rotation) for letter in rotations.LETTERS],
            },
            "reader": {
                "name": f"{database}_reader",
                "password": derive(key, f"postgresql/{database}/reader", _generation(service, rotation)),
            },
            # -1 is PostgreSQL's word for no limit.
            "connections": service["database"]["connections"] or -1,
            "extensions": service["database"]["extensions"],
            "settings": service["database"]["settings"],
        }
        for service, database in ((service, service["database"]["name"]) for service in services if service["database"])
    ]


def _generation(service: Mapping, rotation: Mapping | None) -> int:
    """Return the generation of a database's passwords, other than those of its two logins during a change."""
    return rotations.generation(rotation, f"{service['name']}/database")


def _owner(service: Mapping, key: str, rotation: Mapping | None) -> dict[str, str]:
    database = service["database"]["name"]
    password = derive(key, f"postgresql/{database}/owner", _generation(service, rotation))
    return {"name": f"{database}_owner", "password": password}


def _login(service: Mapping, letter: str, key: str, rotation: Mapping | None) -> dict[str, str]:
    """Return one of the two logins of a service's database.

    The one that is not in turn has a password of this generation, too, which no host but the database's ever gets.
    """
    database = service["database"]["name"]
    turns = {rotations.letter(number): number for number in rotations.accepted(rotation, f"{service['name']}/database")}
    number = turns.get(letter, _generation(service, rotation))
    return {"name": f"{database}_app_{letter}", "password": derive(key, f"postgresql/{database}/app_{letter}", number)}


def services_pools(services: list[dict]) -> list[dict]:
    """Return the poolers' databases: each one's own name, its read-only alias and its session-pooled one."""
    return [pool for service in services if service["database"] for pool in pools(service["database"])]


def services_logins(services: list[dict], key: str, rotation: Mapping | None = None) -> list[dict[str, str]]:
    """Return the users of databases that a pooler has to know: owners and application logins.

    Before the first change both logins are known; after it, those that are accepted.

    Parameters:
        services, key, rotation: as of `services_databases`; those to which no pool leads are left out.
    """
    users = []
    for service in services:
        if service["database"] and pools(service["database"]):
            numbers = rotations.accepted(rotation, f"{service['name']}/database")
            letters = rotations.LETTERS if numbers == [1] else sorted(map(rotations.letter, numbers))
            users.append(_owner(service, key, rotation))
            users += [_login(service, letter, key, rotation) for letter in letters]
    return users


def services_redis_users(services: list[dict], key: str, rotation: Mapping | None = None) -> list[dict]:
    """Return the Redis users of services, each with the instances that it may use.

    While its password is changed, a user has `also` the one that is accepted beside it.

    Parameters:
        services, key, rotation: as of `services_databases`.
    """
    users = []
    for service in services:
        instances = [instance for instance in ("cache", "queue") if service[instance]]
        if instances:
            numbers = rotations.accepted(rotation, f"{service['name']}/redis")
            password, *also = (derive(key, f"redis/{service['name']}", number) for number in numbers)
            users.append({"name": service["name"], "password": password, "instances": instances})
            users[-1] |= {"also": also} if also else {}
    return users


def services_nodes(services: list[dict], groups: Mapping[str, list[str]], hostvars: Mapping) -> dict[str, list[str]]:
    """Return by service the names of the hosts that run it, in the order of the inventory."""
    return {
        service["name"]: [host["name"] for host in members(service["on"], groups, hostvars)] for service in services
    }


def services_first(services: list[dict], groups: Mapping[str, list[str]], hostvars: Mapping) -> dict[str, str]:
    """Return by service the name of the first host that runs it; a service that none runs is left out."""
    return {name: nodes[0] for name, nodes in services_nodes(services, groups, hostvars).items() if nodes}


def services_backends(
    services: list[dict], groups: Mapping[str, list[str]], hostvars: Mapping, health_port: int
) -> list[dict]:
    """Return what a load balancer has to know of each service that has routes.

    Parameters:
        services: what `services_list` returned.
        groups, hostvars: as of `members`.
        health_port: the port on which node proxies tell of readiness.
    """
    return [
        {
            "name": service["name"],
            "routes": service["routes"],
            "nodes": members(service["on"], groups, hostvars),
            "port": service["port"],
            "health_port": health_port,
            "timeout_request": service["timeout"]["request"],
            "body_max_bytes": size_in_bytes(service["body"]),
            "limits": service["limits"],
            # A page that is kept needs its files, too.
            "cached": caching.rules(service) + (caching.static_rules(service) if service["cached"] else []),
            "compression": caching.compression(service),
            "brotli_asked": "brotli" in (service["compression"] or []),
        }
        for service in services
        if service["routes"]
    ]


# A node checks every node that it may call, every second: with all of them checks, and the size of all configurations,
# would grow with the square of the nodes.
CALLED = 8


def services_ingress(here: list[dict], groups: Mapping[str, list[str]], hostvars: Mapping, node: str) -> list[dict]:
    """Return what the node proxy of one node has to know of the services that run there.

    Their peers are the next CALLED by name: a node that takes a few of them stands in for as many as stand in for it.

    Parameters:
        here: the services of the node, of `services_list`.
        groups, hostvars: as of `members`.
        node: the node's name.
    """
    return [
        {
            "name": service["name"],
            "port": service["port"],
            "ready": service["health"]["ready"],
            "host_header": next((route["host"] for route in service["routes"] if route["host"]), "localhost"),
            "timeout_request": service["timeout"]["request"],
            "timeout_stop": service["timeout"]["stop"],
            **{key: service[key] for key in ("interface", "workers", "threads", "memory")},
            "writes": service["writes"] if service["writes"] != "auto" or _waits(service) else 0,
            "static": service["static"]["url"] if service["static"] is not None else "",
            "peers": _from(members(service["on"], groups, hostvars), node)[1 : CALLED + 1],
        }
        for service in here
    ]


def _waits(service: Mapping) -> bool:
    """Return whether there is something that a write of a service may have to wait for."""
    return bool(service["database"] is not None or service["queue"] or service["needs"])


def _from(nodes: list[dict], name: str) -> list[dict]:
    """Return nodes by name, turned round so that the one of this name comes first."""
    ordered = sorted(nodes, key=lambda node: node["name"])
    start = next((place for place, node in enumerate(ordered) if node["name"] == name), 0)
    return ordered[start:] + ordered[:start]


def _called(targets: list[dict], callers: list[str], node: str) -> list[dict]:
    """Return the nodes of a service that one caller balances over: itself and the next by name, at least CALLED.

    Where there are few callers each takes more, so that every node is called, and by as many as any other.
    """
    ordered = sorted(targets, key=lambda target: target["name"])
    if not any(target["name"] == node for target in ordered) and ordered:
        node = ordered[callers.index(node) * len(ordered) // len(callers)]["name"]
    return _from(ordered, node)[: max(CALLED, -(-len(ordered) // len(callers)))]


def services_needs(
    here: list[dict],
    services: list[dict],
    groups: Mapping[str, list[str]],
    hostvars: Mapping,
    health_port: int,
    node: str,
) -> list[dict]:
    """Return the services that those of one node call, with the nodes that it calls them on.

    Parameters:
        here: the services of the node, of `services_list`.
        services: all of them.
        groups, hostvars: as of `members`.
        health_port: the port on which node proxies tell of readiness.
        node: the node's name.
    """
    needed = {need for service in here for need in service["needs"]}
    on = {need: {service["on"] for service in services if need in service["needs"]} for need in needed}
    callers = {
        need: sorted({host["name"] for group in wanting for host in members(group, groups, hostvars)})
        for need, wanting in on.items()
    }
    return [
        {
            "name": service["name"],
            "port": service["port"],
            "health_port": health_port,
            "nodes": _called(members(service["on"], groups, hostvars), callers[service["name"]], node),
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
            "host": route.get("host", "").lower(),
            "path": route.get("path", "").rstrip("/"),
            "strip": route.get("strip", False),
        }
        for service in services
        for route in service["routes"]
    ]
    return sorted(routes, key=lambda route: (not route["host"], -len(route["path"]), route["host"], route["path"]))


def services_limits(services: list[dict], requests: int = 0) -> list[dict]:
    """Return what is counted of requests: the limits of services, and before them one of all requests of a client.

    Each has `name`; `key`, the same for variables; `service`, empty for all; `number`, from 1, of which a request meets
    at most one limit; `path`, `methods`, `requests`, `seconds`, `by`. For nginx, which lets as many in at once and then
    one after the other: `rate`, how many a minute; `wait`, seconds until one more is let in; and `pattern`, what
    "SERVICE METHOD PATH" has to be.

    Parameters:
        services: of `services_backends`.
        requests: of a client in ten seconds, for all services; 0 for any number.
    """
    all_of_them = {"path": "", "methods": [], "requests": requests, "seconds": 10, "by": "client"}
    found = [{"name": "all", "service": "", "number": 1, **all_of_them}] if requests else []
    for service in services:
        for number, limit in enumerate(service.get("limits") or [], start=1):
            defaults = {"path": "", "methods": [], "seconds": 60, "by": "client"}
            name = f"{service['name']}.{number}"
            found.append({"name": name, "service": service["name"], "number": number + 1} | defaults | limit)
    for limit in found:
        limit["key"] = limit["name"].replace("-", "_")
        limit["path"] = limit["path"].rstrip("/").lower()
        limit["pattern"] = _pattern(limit)
        limit["rate"] = max(1, limit["requests"] * 60 // limit["seconds"])
        limit["wait"] = -(-60 // limit["rate"])
    return found


def _pattern(limit: Mapping) -> str:
    """Return the expression of requests that a limit counts; a segment of a path may have parameters, after `;`."""
    if not limit["service"]:
        return "^"
    methods = f"(?:{'|'.join(limit['methods'])})" if limit["methods"] else "[^ ]+"
    path = "".join(f"{re.escape(part)}(?:;[^/]*)?" for part in re.findall(r"/[^/]+", limit["path"]))
    return f"^{re.escape(limit['service'])} {methods} {path}{'(?:/|$)' if path else ''}"


def service_environment(
    service: Mapping,
    services: list[dict],
    ports: Mapping[str, int],
    key: str,
    node: str,
    secrets: Mapping | None = None,
    owner: bool = False,
    rotation: Mapping | None = None,
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
        rotation: the generations of passwords, as `terrace.rotation` has them.
    """
    name = service["name"]
    result = {"SERVICE_NAME": name, "NODE_NAME": node}
    if service["database"]:
        database = service["database"]["name"]
        turn = rotations.letter(rotations.accepted(rotation, f"{name}/database")[0])
        login = _owner(service, key, rotation) if owner else _login(service, turn, key, rotation)
        password = quote(login["password"], safe="")
        base = f"postgresql://{login['name']}:{password}@127.0.0.1:{ports['pgbouncer']}/{database}"
        result |= {
            "DATABASE_URL": base + ("_session" if owner else ""),
            "DATABASE_READ_URL": f"{base}_read",
            "DATABASE_SESSION_URL": f"{base}_session",
        }
    for wanted, variable, instance in (("cache", "REDIS_URL", "cache"), ("queue", "QUEUE_URL", "queue")):
        if service[wanted]:
            used = rotations.accepted(rotation, f"{name}/redis")[0]
            password = quote(derive(key, f"redis/{name}", used), safe="")
            result[variable] = f"redis://{name}:{password}@127.0.0.1:{ports[f'node_{instance}']}/0"
    if service["static"] is not None:
        result["STATIC_URL"] = service["static"]["url"]
    by_name = {other["name"]: other for other in services}
    for need in service["needs"]:
        result[need_variable(need)] = f"http://127.0.0.1:{by_name[need]['port']}"
    for variable, value in service["environment"].items():
        result[variable] = str(value).lower() if isinstance(value, bool) else str(value)
    result |= {variable: str((secrets or {})[name][variable]) for variable in service["secrets"]}
    return result


def services_run(
    here: list[dict],
    services: list[dict],
    first: Mapping[str, str],
    ports: Mapping[str, int],
    key: str,
    node: str,
    secrets: Mapping | None = None,
    releases: Mapping[str, Mapping] | None = None,
    migrating: list[str] | None = None,
    rotation: Mapping | None = None,
) -> list[dict]:
    """Return what an app node has to know of each service that it runs.

    Parameters:
        here: those of `services_list` that run on this node.
        services: all of them.
        first: what `services_first` returned. Scheduled commands run on one node at a time: on this one.
        ports: the table of ports.
        key: the environment's key, from which passwords derive.
        node: the name of this node.
        secrets: the vault's secrets of services.
        releases: by service, the `id` of the release that becomes live where none is, and the `server` and `interface`
            that it was built for.
        migrating: the services whose database this node migrates before they start.
        rotation: the generations of passwords, as `terrace.rotation` has them.
    """
    same = ("name", "app", "interface", "server", "workers", "threads", "health", "timeout", "memory", "processes")
    return [
        {name: service[name] for name in same}
        | {name: release[name] for name in ("interface", "server") if release}
        | {
            "release": release.get("id", ""),
            "serial": release.get("serial", 0),
            "keep": not release.get("settled", False),
            "migrate_after": (service["database"] or {}).get("migrate_after", "")
            if service["name"] in (migrating or [])
            else "",
            "migrate": (service["database"] or {}).get("migrate", "") if service["name"] in (migrating or []) else "",
            "schedule": service["schedule"] if first[service["name"]] == node else {},
            **{
                variable: service_environment(
                    service, services, ports, key, node, secrets, owner=owner, rotation=rotation
                )
                for variable, owner in (("environment", False), ("migrate_environment", True))
            },
        }
        for service, release in ((service, (releases or {}).get(service["name"], {})) for service in here)
    ]


class _Known:
    """The members of an inventory's groups, each found once."""

    def __init__(self, groups: Mapping[str, list[str]]) -> None:
        self.groups = groups
        self._addresses: dict[str, str] = {}
        self._members: dict[str, list[dict[str, str]]] = {}

    def members(self, group: str, hostvars: Mapping) -> list[dict[str, str]]:
        if group not in self._members:
            hosts = self.groups.get(group, [])
            self._members[group] = [{"name": host, "address": self._address(host, hostvars)} for host in hosts]
        return self._members[group]

    def _address(self, host: str, hostvars: Mapping) -> str:
        if host not in self._addresses:
            variables = hostvars[host]
            self._addresses[host] = str(variables.get("address") or variables.get("ansible_host", host) or "")
        return self._addresses[host]


# What is known of each inventory. Every host looks at every other, and Ansible puts all variables of a host together
# for each look at one, and renders each name of a list that is handed to a filter: that would be most of a run.
_KNOWN: weakref.WeakKeyDictionary[object, _Known] = weakref.WeakKeyDictionary()


def members(group: str, groups: Mapping[str, list[str]], hostvars: Mapping) -> list[dict[str, str]]:
    """Return the hosts of a group as a list of name and private address; a group that does not exist has none.

    Parameters:
        group: its name.
        groups, hostvars: Ansible's variables of these names.
    """
    inventory = getattr(hostvars, "_inventory", None)
    if inventory is None:
        return _Known(groups).members(group, hostvars)
    # Ansible makes another one where hosts or groups were added.
    groups = inventory.get_groups_dict()
    known = _KNOWN.get(inventory)
    if known is None or known.groups is not groups:
        known = _KNOWN[inventory] = _Known(groups)
    return list(known.members(group, hostvars))


def members_addresses(names: list[str], groups: Mapping[str, list[str]], hostvars: Mapping) -> list[str]:
    """Return the private addresses of the hosts of some groups, each once, in the order of the groups.

    Parameters:
        names: the groups.
        groups, hostvars: as of `members`.
    """
    return list(dict.fromkeys(host["address"] for name in names for host in members(name, groups, hostvars)))


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        names = (
            services_declared,
            services_list,
            services_checks,
            services_databases,
            services_pools,
            services_logins,
            services_redis_users,
            services_nodes,
            services_first,
            services_backends,
            services_ingress,
            services_needs,
            services_routes,
            services_limits,
            service_environment,
            services_run,
            size_in_bytes,
            derive,
            members,
            members_addresses,
        )
        return {function.__name__: function for function in names}
