"""Everything that is wrong with an environment and is known without a host: a line each, with file, key and mend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from ansible.errors import AnsibleError
from jinja2 import TemplateError

from terrace import certificates, databases, project, rotation, services, topology
from terrace.connections import connection_findings
from terrace.contracts import contract, finding, guess
from terrace.inventory import Inventory, Setting
from terrace.yaml_files import Problem, shown

# What people write where a secret is still to come. Some are also the beginnings of real tokens, so they count only
# where little else is there.
PLACEHOLDERS = re.compile(r"change|example|placeholder|replace|default|insert|your[-_ ]|[-_ ]here$", re.IGNORECASE)
BEGINNINGS = re.compile(r"secret|password|token|key|test|todo|admin|none|null|dummy|foobar|qwerty", re.IGNORECASE)
# The shortest `vault_key`: as many characters as SHA-256 has bytes, which RFC 2104 wants of a key.
KEY_LENGTH = 32


class Anything(dict):
    """Filters and tests of any name: a template is only asked which variables it names."""

    def __contains__(self, _name: object) -> bool:
        return True

    def get(self, _name: object, _default: Any = None) -> Any:
        return str


JINJA = jinja2.Environment(autoescape=False)  # noqa: S701 (it only parses)
JINJA.filters = JINJA.tests = Anything()


class Environment:
    """An environment, looked at from its files and from what Ansible makes of them.

    Parameters:
        hostvars: Ansible's, of every host.
        groups: the inventory's, `all` among them.
        text: returns the text of a file that is encrypted.
    """

    def __init__(
        self, hostvars: Mapping, groups: Mapping[str, list[str]], text: Callable[[Path], str] | None = None
    ) -> None:
        self.groups = {name: list(hosts) for name, hosts in groups.items()}
        self.hosts = self.groups["all"]
        # Each look at hostvars puts a host's variables together anew, so there is one for each host.
        self.hostvars = {host: hostvars[host] for host in self.hosts}
        first = self.hostvars[self.hosts[0]]
        folders = dict.fromkeys(str(variables["inventory_dir"]) for variables in self.hostvars.values())
        self.inventories = [Inventory(Path(folder), text) for folder in folders if folder != "None"]
        self.settings = [setting for inventory in self.inventories for setting in inventory.settings]
        self.first = first
        self.text = text or Path.read_text
        self.problems: list[Problem] = []
        # Where the source and the version of each sound service stand, by key: a file and the key in it.
        self.places: dict[str, dict[str, str]] = {}
        self._check()

    @property
    def lines(self) -> list[str]:
        """What is wrong, a line each, in the order of the files."""
        return list(dict.fromkeys(map(str, self.problems)))

    def _check(self) -> None:
        for inventory in self.inventories:
            self.problems += inventory.problems
        for check in (
            self._names,
            self._values,
            self._missing,
            self._topology,
            self._secrets,
            self._rotation,
            self._services,
            self._tls,
            self._databases,
            self._protection,
            self._connections,
        ):
            self.problems += check()

    def _hosts_of(self, setting: Setting) -> list[str]:
        if setting.kind == "host":
            return [setting.scope] if setting.scope in self.hostvars else []
        return self.groups.get(setting.scope, [])

    # Which variables there are, and where

    def _names(self) -> Iterator[Problem]:
        named = _named(self.settings)
        known = {**project.inputs(), **contract("environment")}
        for setting in self.settings:
            yield from self._scope(setting)
            name = setting.name
            if name.startswith("topology_"):
                yield Problem(setting.file, setting.key, "is derived from the inventory and cannot be set; remove it")
            elif name in known or name in project.derived():
                yield from self._reach(setting)
            elif not name.startswith("ansible_") and name not in named:
                close = guess(name, known)
                mend = f"did you mean '{close}'?" if close else "remove it, or use it in another variable's value"
                yield Problem(setting.file, setting.key, f"unknown variable; {mend}")
        yield from self._overruled()

    def _scope(self, setting: Setting) -> Iterator[Problem]:
        """Tell of a file of variables for a group or a host that is not there."""
        if setting.inline:
            return
        if setting.kind == "group" and setting.scope not in self.groups and setting.scope not in topology.TIERS:
            known = self.groups
        elif setting.kind == "host" and setting.scope not in self.hostvars:
            known = self.hostvars
        else:
            return
        close = guess(setting.scope, known)
        mend = f"did you mean '{close}'?" if close else "rename it, or add that to hosts.yml"
        yield Problem(setting.file, "", f"there is no {setting.kind} '{setting.scope}' in the inventory; {mend}")

    def _reach(self, setting: Setting) -> Iterator[Problem]:
        """Tell of a variable that does not reach those that read it."""
        name = setting.name
        hosts = set(self._hosts_of(setting))
        role, _ = project.inputs().get(name, ("", {}))
        groups = project.groups_of(role, name)
        if name in contract("environment"):
            yield from self._reach_of_ours(setting, contract("environment")[name].get("for", "all"))
            return
        target = groups[0] if len(groups) == 1 and groups != ["all"] else "<group>"
        if name in project.derived() and (setting.kind == "all" or (setting.inline and setting.kind == "group")):
            loser = "group 'all'" if setting.kind == "all" and not setting.inline else "'vars:' in hosts.yml"
            text = f"is set by {project.derived()[name]}, which wins over {loser}; move it to group_vars/{target}.yml"
            yield Problem(setting.file, setting.key, text)
        elif groups and hosts and not any(hosts & set(self.groups.get(group, [])) for group in groups):
            who = "does not read it on the host" if setting.kind == "host" else "reads it on no host of"
            where = " or ".join(f"group_vars/{group}.yml" for group in groups)
            yield Problem(setting.file, setting.key, f"the role {role} {who} '{setting.scope}'; move it to {where}")

    def _reach_of_ours(self, setting: Setting, readers: str) -> Iterator[Problem]:
        hosts = set(self._hosts_of(setting))
        if readers == "any":
            return
        if readers == "host":
            if setting.kind != "host":
                yield Problem(setting.file, setting.key, "is of one host; move it to that host in hosts.yml")
        elif readers == "all":
            if hosts and not hosts >= set(self.hosts):
                yield Problem(setting.file, setting.key, "has to be the same for every host; move it to group_vars/all")
        elif hosts and not hosts & set(self.groups.get(readers, [])):
            who = f"the host '{setting.scope}' is not" if setting.kind == "host" else f"no host of '{setting.scope}' is"
            yield Problem(setting.file, setting.key, f"{who} in '{readers}'; move it to group_vars/{readers}.yml")

    def _overruled(self) -> Iterator[Problem]:
        """Tell of variables that are set twice where only one can win."""
        first: dict[tuple, Setting] = {}
        for setting in self.settings:
            before = first.setdefault((setting.kind, setting.scope, setting.name), setting)
            if before[:4] != setting[:4]:
                yield Problem(setting.file, setting.key, f"is also set in {before.file}; keep one")
        for setting in self.settings:
            winner = first.get(("all", "all", setting.name))
            if setting.inline and setting.kind == "group" and winner and not winner.inline:
                mend = f"remove it, or move it to group_vars/{setting.scope}.yml"
                yield Problem(setting.file, setting.key, f"is also set in {winner.file}, which wins; {mend}")

    # What they are

    def _values(self) -> Iterator[Problem]:
        """Tell of values that are not of the type that is wanted."""
        winners: dict[tuple[str, str], Setting] = {}
        for setting in sorted(self.settings, key=self._rank):
            for host in self._hosts_of(setting):
                winners[host, setting.name] = setting
        host_of: dict[tuple[str, str], str] = {}
        for (host, _), setting in winners.items():
            host_of.setdefault((setting.file, setting.key), host)
        for setting in self.settings:
            role, option = project.inputs().get(setting.name, ("", contract("environment").get(setting.name)))
            host = host_of.get((setting.file, setting.key))
            if host and option and setting.name in self.hostvars[host]:
                yield from self._value(setting, host, option, lenient=bool(role))

    def _rank(self, setting: Setting) -> tuple:
        """Return what Ansible orders by: files win over vars in hosts.yml, hosts over groups, small groups over all."""
        files = not setting.inline
        if setting.kind == "host":
            return (2, files, 0, "")
        if setting.kind == "all":
            return (int(files), 0, 0, "")
        return (int(files), 1, -len(self.groups.get(setting.scope, [])), setting.scope)

    def _value(self, setting: Setting, host: str, option: Mapping, lenient: bool) -> Iterator[Problem]:
        try:
            value = _plain(self.hostvars[host][setting.name])
        except (AnsibleError, TemplateError) as error:
            yield Problem(setting.file, setting.key, f"cannot be evaluated ({_said(error)}); mend the template")
            return
        if setting.name == "services":
            return
        if value is None:
            yield Problem(setting.file, setting.key, "has no value; give one, or remove it")
            return
        for key, text in finding(value, option, setting.key, lenient):
            yield Problem(setting.file, key, text)

    def _missing(self) -> Iterator[Problem]:
        """Tell of what an environment has to give and does not."""
        set_names = {setting.name for setting in self.settings}
        wanted = [
            (name, option.get("for", "all"), option)
            for name, option in contract("environment").items()
            if option.get("required")
        ]
        wanted += [(name, group, option) for group, name, option in project.required()]
        for name, group, option in wanted:
            # The budget of connections says itself how much is wanted.
            hosts = [host for host in self.groups.get(group, []) if name not in self.hostvars[host]]
            if not hosts or name == "patroni_max_connections":
                continue
            place = {"vault_key": "group_vars/all/vault.yml"}.get(
                name, "group_vars/all/main.yml" if group == "all" else f"group_vars/{group}.yml"
            )
            said = re.split(r"\.(\s|$)", str(option["description"]))[0]
            where = f" for '{hosts[0]}'" if name in set_names else ""
            yield Problem(f"{self._folder}/{place}", name, f"is missing{where}; set it: {said[0].lower()}{said[1:]}")

    @property
    def _folder(self) -> str:
        return self.inventories[0].name if self.inventories else ""

    # Hosts, secrets, services

    def _topology(self) -> Iterator[Problem]:
        addresses = {}
        for host in self.hosts:
            try:
                addresses[host] = str(self.hostvars[host]["topology_address"] or "")
            except (AnsibleError, TemplateError):
                continue
        optional = ("backup",) if self._get("backup_repository") else ()
        for text in topology.topology_problems(self.groups, addresses, optional):
            yield Problem(self.inventories[0].hosts_file if self.inventories else "hosts.yml", "", text)
        for host in self.groups.get("edge", []):
            origins = self.hostvars[host].get("edge_origins")
            if origins is not None and not finding(origins, contract("environment")["edge_origins"], ""):
                file, key = self._where("edge_origins", "group_vars/edge.yml")
                yield from (Problem(file, key, text) for text in topology.origin_problems(_plain(origins)))
        virtual = self._get("loadbalancer_virtual_address")
        if virtual and isinstance(virtual, str):
            file, key = self._where("loadbalancer_virtual_address", "group_vars/all/main.yml")
            for text in topology.virtual_address_problems(virtual, self.groups, addresses):
                yield Problem(file, key, text)

    def _protection(self) -> Iterator[Problem]:
        """Tell of trusted proxies that are none, and of an origin that is closed to everybody."""
        file, key = self._where("trusted_proxies", "group_vars/all/main.yml")
        trusted = self._get("trusted_proxies") or []
        if isinstance(trusted, list):
            for number, text in topology.trusted_problems(trusted):
                yield Problem(file, f"{key}[{number}]", text)
        if self._get("origin_closed") is True and not trusted and not self.groups.get("edge"):
            file, key = self._where("origin_closed", "group_vars/all/main.yml")
            yield Problem(
                file, key, "is true, and nobody is trusted, so nobody would be answered; give trusted_proxies"
            )

    def _get(self, name: str, default: Any = None) -> Any:
        """Return a variable of the first host; the default where there is none, or it cannot be evaluated."""
        try:
            return _plain(self.first[name]) if name in self.first else default
        except (AnsibleError, TemplateError):
            return default

    def _secrets(self) -> Iterator[Problem]:
        """Tell of secrets that are none, without telling them."""
        file, key = self._where("vault_key", "group_vars/all/vault.yml")
        value = self._get("vault_key")
        if isinstance(value, str):
            if len(value) < KEY_LENGTH:
                yield Problem(file, key, f"has {len(value)} characters; make one of at least {KEY_LENGTH}, at random")
            elif weak(value) or len(set(value)) < 10:
                yield Problem(file, key, "is a placeholder; make one at random")
        file, key = self._where("vault_services", "group_vars/all/vault.yml")
        given = self._get("vault_services") or {}
        for service, secrets in given.items() if isinstance(given, Mapping) else ():
            if not isinstance(secrets or {}, Mapping):
                yield Problem(file, f"{key}.{service}", "has to be a mapping of the service's secrets by name")
                continue
            for name, secret in (secrets or {}).items():
                if not isinstance(secret, (str, int, float)) or isinstance(secret, bool):
                    yield Problem(file, f"{key}.{service}.{name}", "has to be text")
                elif str(secret) and weak(str(secret)):
                    yield Problem(file, f"{key}.{service}.{name}", "is a placeholder; put the secret there")

    def _rotation(self) -> Iterator[Problem]:
        """Tell of generations of secrets that cannot be: passwords would be other ones than hosts have."""
        file = Path(self._get("topology_rotation_file", ""))
        if not file.is_file():
            return
        content, problems = rotation.read(file)
        yield from problems
        if not problems:
            yield from (Problem(shown(file), key, text) for key, text in rotation.findings(content))

    def _where(self, name: str, default: str) -> tuple[str, str]:
        for setting in self.settings:
            if setting.name == name:
                return setting.file, setting.key
        return f"{self._folder}/{default}", name

    def _services(self) -> Iterator[Problem]:
        file, key = self._where("services", "group_vars/all/services.yml")
        overrides = self._get("services", {})
        directory = Path(self._get("topology_services_directory"))
        declared, problems, wrong = services.read(overrides, directory)
        yield from problems
        yield from (Problem(file, key + place.removeprefix("services"), text) for place, text in wrong)
        secrets = self._get("vault_services")
        checked = services.Services(
            declared,
            self._get("topology_ports"),
            self.groups,
            secrets if isinstance(secrets, Mapping) else None,
            list(overrides or []),
        )

        for name, its in checked.findings.items():
            yield from (self._told(name, place, text) for place, text in its)
        self.services = checked.whole()
        for service in self.services:
            keys = ["version", "source", *(f"source.{kind}" for kind in declared[service["name"]]["source"])]
            self.places[service["name"]] = {place: str(self._told(service["name"], place, "")) for place in keys}
            nodes = len(self.groups.get(service["on"], []))
            for place, text in databases.limit_findings(service, nodes):
                yield self._told(service["name"], f"database.{place}", text)
            for number, limit in enumerate(service["limits"]):
                if self._get("loadbalancer_engine") == "nginx" and limit["requests"] * 60 < limit["seconds"]:
                    text = (
                        "is less than one a minute, which nginx cannot count; allow more, or let HAProxy be the engine"
                    )
                    yield self._told(service["name"], f"limits[{number}]", text)

    def _told(self, name: str, place: str, text: str) -> Problem:
        """Return what is wrong with a service, where it stands: in the service's file, or in the environment's."""
        overrides = self._get("services", {})
        if _overrides((overrides or {}).get(name), place):
            file, key = self._where("services", "group_vars/all/services.yml")
            return Problem(file, f"{key}.{name}" + (f".{place}" if place else ""), text)
        return Problem(shown(Path(self._get("topology_services_directory")) / f"{name}.yml"), place, text)

    def _tls(self) -> Iterator[Problem]:
        """Tell of a certificate for clients that cannot be; wrong types are told with the other variables."""
        given = self._get("tls") or {}
        if finding(given, contract("environment")["tls"], "tls"):
            return
        file, key = self._where("tls", "group_vars/all/main.yml")
        routes = [
            (service["name"], f"routes[{number}].host", route["host"])
            for service in self.services
            for number, route in enumerate(service["routes"])
            if route["host"]
        ]
        folder = str(self.first["inventory_dir"])
        found, wrong = certificates.findings(given, routes, folder, self.text)
        yield from (Problem(file, f"{key}.{place}", text) for place, text in found)
        yield from (self._told(name, place, text) for name, place, text in wrong)

    def _databases(self) -> Iterator[Problem]:
        """Tell of databases of no service; what is of the wrong type is told with the other variables."""
        self.databases: list[dict] = []
        declared = self._get("databases") or {}
        if finding(declared, contract("environment")["databases"], "databases"):
            return
        file, key = self._where("databases", "group_vars/all/main.yml")
        of_services = {its["database"]["name"]: its["name"] for its in self.services if its["database"]}
        found = list(databases.databases_findings(declared, of_services, services.RESERVED))
        if not found:
            self.databases = databases.listed(declared)
        for its in self.databases:
            nodes = len(self.groups.get("app", []))
            found += [
                (f"databases.{its['name']}.{place}", text) for place, text in databases.limit_findings(its, nodes)
            ]
        yield from (Problem(file, key + place.removeprefix("databases"), text) for place, text in found)

    def _connections(self) -> Iterator[Problem]:
        database = next(iter(self.groups.get("database", [])), None)
        if database is None:
            return
        try:
            allowed = _plain(self.hostvars[database].get("patroni_max_connections", 0))
        except (AnsibleError, TemplateError):
            return
        if not isinstance(allowed, int) or isinstance(allowed, bool):
            return
        nodes = {service["name"]: len(self.groups.get(service["on"], [])) for service in self.services}
        nodes |= {its["name"]: len(self.groups.get("app", [])) for its in self.databases}
        file, _ = self._where("patroni_max_connections", "group_vars/database.yml")
        for key, text in connection_findings([*self.services, *self.databases], nodes, allowed or None):
            yield Problem(file, key, text)


def _overrides(difference: Any, place: str) -> bool:
    """Say whether what is wrong stands in what an environment says of a service, rather than in the service's file."""
    for part in re.split(r"[.\[]", place):
        if not isinstance(difference, Mapping) or not part:
            return False
        difference = {"on" if key is True else str(key): value for key, value in difference.items()}
        if part not in difference:
            return False
        difference = difference[part]
        if not isinstance(difference, Mapping):
            return True
    return True


def weak(secret: str) -> bool:
    """Say whether a secret is one that people put where the real one is still to come."""
    if PLACEHOLDERS.search(secret) or len(set(secret)) <= 2:
        return True
    rest = BEGINNINGS.sub("", secret)
    return rest != secret and len(re.sub(r"[\W_]", "", rest)) < 8


def _named(settings: list[Setting]) -> set[str]:
    """Return the variables that values in the inventory name."""
    found: set[str] = set()
    for setting in settings:
        found |= _names_in(setting.value) - {setting.name}
    return found


def _names_in(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {name for part in value.values() for name in _names_in(part)}
    if isinstance(value, list):
        return {name for part in value for name in _names_in(part)}
    if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
        return set()
    try:
        return jinja2.meta.find_undeclared_variables(JINJA.parse(value))
    except TemplateError:
        return set(re.findall(r"\w+", value))


def _plain(value: Any) -> Any:
    """Return a value of Ansible as plain data, everything lazy in it evaluated."""
    if isinstance(value, Mapping):
        return {(key if isinstance(key, bool) else str(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _said(error: Exception) -> str:
    """Return the last of what an error says, in one line."""
    return " ".join(str(error).split()).rstrip(".").rpartition(": ")[2]
