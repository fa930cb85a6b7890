"""What the user declares of services: read, merged, filled in, and everything that is wrong with it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from terrace import caching, queries, yaml_files
from terrace.contracts import Finding, contract, filled, findings, guess, shown
from terrace.databases import database_findings
from terrace.static import hidden_findings, static_findings
from terrace.yaml_files import Problem

NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MEMORY = re.compile(r"[1-9][0-9]*[KMGT]")
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
PATH = re.compile(r"/[^\s#]*")
# What a limit's path may have: what is the same for both engines, in any spelling of a client's.
LIMITED = re.compile(r"(/[A-Za-z0-9._~@:+-]+)+/?|/")
METHOD = re.compile(r"[A-Z]{1,20}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
GIT = re.compile(r"(https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+|/\S+")
PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?")

# Names that daemons keep for themselves: a service so called would get their user or their database.
RESERVED = {
    **dict.fromkeys(("admin", "backup", "default", "monitor", "replica", "sentinel"), "Redis"),
    **dict.fromkeys(("pgbouncer", "postgres", "template0", "template1"), "PostgreSQL"),
}

# HAProxy counts them in as many counters of a request.
MOST_LIMITS = 8
MOST_REQUESTS = 1_000_000

# systemd.time(7): words, or weekdays, date, time and time zone, of which most may be left out.
DAY = r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*"
DAYS = rf"{DAY}((\.\.|,|-){DAY})*,?"
DATE = r"[\d*,./]+([-~][\d*,./]+){1,2}"
HOUR, MINUTE = (rf"(\*|{n}(\.\.{n})?)(/\d+)?(,{n}(\.\.{n})?(/\d+)?)*" for n in (r"([01]?\d|2[0-3])", r"[0-5]?\d"))
TIME = rf"{HOUR}:{MINUTE}(:[\d*,./]+)?"
CALENDAR = re.compile(
    r"minutely|hourly|daily|monthly|weekly|yearly|annually|quarterly|semi-?annually"
    rf"|({DAYS}|({DAYS} +)?({DATE}|({DATE} +)?{TIME}))( +[A-Za-z]\w*(/[\w+-]+)*)?",
    re.IGNORECASE,
)


def read(overrides: Mapping | None, directory: Path) -> tuple[dict[str, dict], list[Problem], list[tuple[str, str]]]:
    """Return what is declared of each service of an environment, merged, by name; and what cannot be read.

    Parameters:
        overrides: the environment's `services:`; it names the services that live there.
        directory: where `<name>.yml` stands for each.
    Returns:
        the services; problems of their files; problems of `services:` itself, each as key and text.
    """
    declared, problems, wrong = {}, [], []
    if not isinstance(overrides or {}, Mapping):
        return {}, [], [("services", "has to be a mapping, with each service's name as a key")]
    for name, difference in (overrides or {}).items():
        key = f"services.{name}"
        if not isinstance(difference or {}, Mapping):
            wrong.append((key, f"is {shown(difference)}; has to be a mapping of what differs here"))
            continue
        path = directory / f"{name}.yml"
        if not path.is_file():
            known = sorted(file.stem for file in directory.glob("*.yml"))
            close = guess(str(name), known)
            mend = (
                f"did you mean '{close}'?"
                if close
                else ", or name one of ".join(filter(None, ("write it", ", ".join(known))))
            )
            wrong.append((key, f"there is no {yaml_files.shown(path)}; {mend}"))
            continue
        content, found = yaml_files.read(path, yaml_files.shown(path))
        problems += found
        if isinstance(content, Mapping):
            # YAML 1.1 reads a bare `on` as true.
            both = merged(_named(content), _named(difference or {}))
            declared[str(name)] = both
        elif content is not None or not found:
            problems.append(Problem(yaml_files.shown(path), "", "has to be a mapping of a service's keys"))
    return declared, problems, wrong


def _named(service: Mapping) -> dict:
    return {"on" if key is True else key: value for key, value in service.items()}


def merged(base: Any, over: Any) -> Any:
    """Return base with over's values on top; mappings are merged, anything else is replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return over


def listed(declared: Mapping[str, Mapping]) -> list[dict]:
    """Return the services with every default filled in, ordered by name.

    Beside the declared keys each has `name`, and with a database `database.name`.
    """
    result = []
    for name in sorted(declared):
        service = filled(declared[name], contract("service")) | {"name": name}
        if service["database"] is not None:
            service["database"]["name"] = name.replace("-", "_")
        result.append(service)
    return result


def given_variables(service: Mapping) -> dict[str, str]:
    """Return the environment variables that Terrace gives a service of itself, with what each is of.

    Those of `needs` are left out.
    """
    found = dict.fromkeys(("NODE_NAME", "SERVICE_NAME"), "every service")
    if service.get("database") is not None:
        found |= dict.fromkeys(("DATABASE_URL", "DATABASE_READ_URL", "DATABASE_SESSION_URL"), "its database")
    if service.get("cache"):
        found["REDIS_URL"] = "its cache"
    if service.get("queue"):
        found["QUEUE_URL"] = "its queue"
    if service.get("static") is not None:
        found |= dict.fromkeys(("STATIC_URL", "STATIC_ROOT", "STATIC_MANIFEST"), "its static files")
    return found


def need_variable(need: str) -> str:
    """Return the environment variable that a need gives."""
    return f"{need.upper().replace('-', '_')}_URL"


class Services:
    """The services of an environment, and what is wrong with them.

    Parameters:
        declared: by name, what is declared of each.
        ports: the table of ports that the stack itself uses, by name.
        groups: the inventory's groups, to see that `on:` names one.
        secrets: the vault's secrets of services: a mapping by service, then by variable.
        names: of services whose own declaration cannot be read.

    `findings` has what is wrong, by service.
    """

    def __init__(
        self,
        declared: Mapping[str, Mapping],
        ports: Mapping[str, int],
        groups: Mapping[str, list[str]],
        secrets: Mapping | None = None,
        names: Iterable[str] = (),
    ) -> None:
        self.declared, self.ports, self.groups, self.secrets = declared, ports, groups, secrets or {}
        self.names = dict.fromkeys([*declared, *names])
        self.findings: dict[str, list[Finding]] = {name: [] for name in declared}
        # What of each has the right type: only that is looked at further.
        self.sound: dict[str, dict] = {}
        for name, service in declared.items():
            typed = findings(service, contract("service"))
            wrong = {re.split(r"[.\[]", key)[0] for key, _ in typed}
            self.sound[name] = {
                key: value for key, value in service.items() if key in contract("service") and key not in wrong
            }
            if not NAME.fullmatch(name):
                self._tell(name, "", "a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter")
            if name in RESERVED:
                self._tell(name, "", f"{RESERVED[name]} keeps this name for itself; choose another")
            self.findings[name] += typed
        for name, service in self.sound.items():
            self.findings[name] += [*_source(service, "version" in declared[name]), *_sizes(service)]
            self.findings[name] += _limits(service)
            self.findings[name] += database_findings(service.get("database") or {}, "database.")
            self._commands(name, service)
            self.findings[name] += static_findings(service, "routes" in service or "routes" not in declared[name])
            self.findings[name] += caching.findings(service)
            self.findings[name] += queries.findings((service.get("database") or {}).get("queries") or {})
            self._variables(name, service)
            self._nodes(name, service.get("on", "app"))
        self._ports()
        self._routes()
        for name in self.sound:
            self.findings[name] += hidden_findings(name, self.sound)
        self._needs()
        self._aliases()

    def whole(self) -> list[dict]:
        """Return the services with which nothing is wrong, every default filled in."""
        return listed({name: service for name, service in self.declared.items() if not self.findings[name]})

    def _tell(self, name: str, key: str, text: str) -> None:
        self.findings[name].append((key, text))

    def _commands(self, name: str, service: Mapping) -> None:
        commands = {}
        for key in ("migrate", "migrate_after"):
            if command := (service.get("database") or {}).get(key):
                commands[f"database.{key}"] = command
        if command := (service.get("static") or {}).get("command"):
            commands["static.command"] = command
        for key in ("processes", "schedule"):
            for part, value in service.get(key, {}).items():
                if not NAME.fullmatch(str(part)):
                    text = "a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter"
                    self._tell(name, f"{key}.{part}", text)
                commands[f"{key}.{part}.command"] = value["command"]
        if "\n" in str((service.get("database") or {}).get("check", "")).strip():
            self._tell(name, "database.check", "has more than one line; give one statement in one")
        for key, command in commands.items():
            if not command.strip():
                self._tell(name, key, "is empty; give a program and its arguments")
            elif "\n" in command.strip():
                self._tell(name, key, "has more than one line; give one program and its arguments")
            elif not _closed(command):
                self._tell(name, key, "has a quote that is not closed; close it")
        for part, value in service.get("processes", {}).items():
            other = f"{name}-{part}"
            if value.get("count", 1) < 0:
                self._tell(name, f"processes.{part}.count", f"is {value['count']}; has to be 0 or more")
            if other in self.declared:
                text = f"its unit svc-{other}@ is that of the service '{other}'; choose another name"
                self._tell(name, f"processes.{part}", text)
        for part, value in service.get("schedule", {}).items():
            if not CALENDAR.fullmatch(value["at"].strip()):
                text = "has to be a time of systemd's OnCalendar, such as daily or *-*-* 04:00:00"
                self._tell(name, f"schedule.{part}.at", f"is {shown(value['at'])}; {text}")

    def _variables(self, name: str, service: Mapping) -> None:
        environment, secrets = service.get("environment", {}), service.get("secrets", [])
        ours = given_variables(service)
        for need in dict.fromkeys(service.get("needs", [])):
            variable = need_variable(need)
            if variable in ours:
                text = f"'{need}' would give {variable}, which is that of {ours[variable]}; rename that service"
                self._tell(name, "needs", text)
            ours.setdefault(variable, f"the need '{need}'")
        for variable, value in environment.items():
            key = f"environment.{variable}"
            if not isinstance(value, (str, int, float)):
                self._tell(name, key, f"is {shown(value)}; has to be text, a number, true or false")
            elif isinstance(value, str) and CONTROL.search(value):
                self._tell(name, key, "has a control character, which systemd would not pass on; take it out")
            if variable in secrets:
                self._tell(name, key, "is also among secrets; keep one")
        for variable, count in Counter(secrets).items():
            given = self.secrets.get(name) or {}
            if count > 1:
                self._tell(name, "secrets", f"{variable} is there twice; keep one")
            if isinstance(given, Mapping) and given.get(variable) in (None, ""):
                self._tell(name, "secrets", f"{variable} is not in the vault; add vault_services.{name}.{variable}")
        for key, variable in [("environment", each) for each in environment] + [("secrets", each) for each in secrets]:
            if not VARIABLE.fullmatch(str(variable)):
                self._tell(name, key, f"{variable!r} cannot be the name of an environment variable")
            elif variable in ours:
                place = f"{key}.{variable}" if key == "environment" else key
                self._tell(name, place, f"Terrace sets {variable} itself, for {ours[variable]}; choose another name")

    def _nodes(self, name: str, on: str) -> None:
        groups = self.groups
        if on not in groups:
            close = guess(on, groups)
            mend = f"did you mean '{close}'?" if close else "add it to hosts.yml"
            self._tell(name, "on", f"there is no group '{on}' in the inventory; {mend}")
        elif strangers := sorted(set(groups[on]) - set(groups.get("app", []))):
            text = (
                f"the group '{on}' has hosts that are not in 'app': {', '.join(strangers)}; services run on app hosts"
            )
            self._tell(name, "on", text)
        elif not groups[on] and on != "app":
            self._tell(name, "on", f"the group '{on}' has no host; add one")

    def _ports(self) -> None:
        taken = {number: f"the stack's '{name}'" for name, number in self.ports.items()}
        for name, service in self.sound.items():
            if (port := service.get("port")) is None:
                continue
            if not 1024 <= port <= 65535:
                self._tell(name, "port", f"is {port}; has to be between 1024 and 65535")
            elif port in taken:
                self._tell(name, "port", f"{port} is taken by {taken[port]}; choose another")
            taken.setdefault(port, f"the service '{name}'")

    def _routes(self) -> None:
        """Tell of routes that are no routes, and of those that are never chosen.

        The longest prefix wins, and a host before none, so a route is hidden by one that is the same, and by nothing
        else. Two routes of one service that lie within each other are the same to it, unless one strips its prefix.
        """
        taken: dict[tuple[str, str], str] = {}
        for name, service in self.sound.items():
            routes = service.get("routes", [])
            for number, route in enumerate(routes):
                place = f"routes[{number}]"
                if wrong := list(_route(route, place)):
                    self.findings[name] += wrong
                    continue
                if other := taken.get(prefix(route)):
                    self._tell(name, place, f"the same route belongs to '{other}'; remove one")
                taken.setdefault(prefix(route), name)
                for outer, around in enumerate(routes):
                    if _hides(route, around):
                        text = (
                            f"lies within routes[{outer}] and hides a part of it, since one of them strips its prefix"
                        )
                        self._tell(name, place, f"{text}; let both keep theirs, or give it another path")

    def _needs(self) -> None:
        needs = {name: service.get("needs", []) for name, service in self.sound.items()}
        for name, wanted in needs.items():
            for need, count in Counter(wanted).items():
                if count > 1:
                    self._tell(name, "needs", f"names '{need}' twice; keep one")
                if need == name:
                    self._tell(name, "needs", f"'{name}' needs itself; take it out")
                elif need not in self.names:
                    close = guess(need, self.names)
                    mend = f"did you mean '{close}'?" if close else f"known are {', '.join(self.names)}"
                    self._tell(name, "needs", f"there is no service '{need}' here; {mend}")
        for circle in circles(needs):
            text = f"go in a circle, {' -> '.join(circle)}, of which none can be first; take one out"
            self._tell(circle[0], "needs", text)

    def _aliases(self) -> None:
        databases = {name for name, service in self.sound.items() if service.get("database") is not None}
        for name in databases:
            for alias in ("read", "session"):
                other = name.removesuffix(f"-{alias}")
                if other != name and other in databases:
                    theirs = f"{other.replace('-', '_')}_{alias}"
                    text = f"the database of '{other}' has an alias {theirs}, which is this service's database"
                    self._tell(name, "database", f"{text}; choose another name")


def _closed(command: str) -> bool:
    """Say whether each quote of a command is closed."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _source(service: Mapping, versioned: bool) -> Iterator[Finding]:
    source = service.get("source", {})
    given = {kind: place for kind, place in source.items() if place is not None}
    kind, place = next(iter(given.items()), ("", ""))
    if "source" in service and len(given) != 1:
        yield "source", "give exactly one of path, git or pypi"
    elif given and not place.strip():
        yield f"source.{kind}", "is empty; say where the code is"
    elif kind == "git" and re.match(r"[a-z]+://[^/@\s]*:[^/@\s]*@", place):
        yield "source.git", "has a password; take it out, and let git ask a credential helper or use SSH"
    elif kind == "git" and not GIT.fullmatch(place):
        yield "source.git", f"is {shown(place)}; has to be https://..., ssh://..., user@host:path or a path from /"
    elif kind == "pypi" and not PACKAGE.fullmatch(place):
        yield "source.pypi", f"is {shown(place)}; has to be a package's name alone, its version goes into version"
    version = service.get("version", "")
    if kind in ("git", "pypi") and (not versioned or ("version" in service and not version)):
        wanted = "a tag, branch or commit" if kind == "git" else "the package's version, in quotes"
        yield "version", f"is missing; a source of {kind} needs {wanted}"
    elif version.startswith("-") or re.search(r"\s", version):
        yield "version", f"is {shown(version)}; cannot begin with - or have spaces"
    if "app" in service and not CALLABLE.fullmatch(service["app"]):
        yield "app", f"is {service['app']!r}; has to be package.module:callable"


def _sizes(service: Mapping) -> Iterator[Finding]:
    for key in ("memory", "body"):
        if not MEMORY.fullmatch(service.get(key, "1M")):
            yield key, f"is {service[key]!r}; has to be a size such as 512M"
    for key in ("live", "ready"):
        path = service.get("health", {}).get(key, "/")
        if not PATH.fullmatch(path):
            yield f"health.{key}", f"is {path!r}; has to be a path, starting with /"
    for key, value in (
        ("workers", service.get("workers", 1)),
        ("threads", service.get("threads", 1)),
        ("timeout.request", service.get("timeout", {}).get("request", 1)),
        ("timeout.stop", service.get("timeout", {}).get("stop", 1)),
        ("database.pool", (service.get("database") or {}).get("pool", 1)),
    ):
        if value != "auto" and value < 1:
            yield key, f"is {value}; has to be 1 or more"
    if (writes := service.get("writes", 0)) != "auto" and writes < 0:
        yield "writes", f"is {writes}; has to be 0 or more"


def _route(route: Mapping, place: str) -> Iterator[Finding]:
    host, path = route.get("host") or "", route.get("path") or ""
    if not host and not path:
        yield place, "give a host, a path, or both"
    if host and not HOST.fullmatch(host):
        yield f"{place}.host", f"is {host!r}; has to be a host name alone, without port or path"
    if not path:
        return
    if not path.startswith("/"):
        yield f"{place}.path", f"is {path!r}; has to start with /"
    elif re.search(r"[\s#?]", path):
        yield f"{place}.path", f"is {path!r}; cannot contain spaces, # or ?"
    elif "%" in path:
        yield f"{place}.path", f"is {path!r}; write the character itself instead of its % code"
    elif re.search(r"//|/\.\.?(/|$)", path):
        yield f"{place}.path", f"is {path!r}; no request has a path with //, /. or /.. in it, so take that out"


def _limits(service: Mapping) -> Iterator[Finding]:
    """Tell of limits that are none, and of those that no request of the service ever meets."""
    limits, routes = service.get("limits", []), service.get("routes", [])
    if limits and not routes:
        yield "limits", "the service has no route, so no load balancer counts its requests; add one, or take them out"
        return
    if len(limits) > MOST_LIMITS:
        yield "limits", f"has {len(limits)}; give at most {MOST_LIMITS}, since a request may meet each of them"
    for number, limit in enumerate(limits):
        place, path = f"limits[{number}]", limit.get("path") or ""
        if path and (not LIMITED.fullmatch(path) or re.search(r"/\.\.?(/|$)", path)):
            yield f"{place}.path", f"is {path!r}; has to start with /, with letters, digits and ._~@:+- between slashes"
        elif path and not any(_meets(path.rstrip("/").lower(), prefix(route)[1].lower()) for route in routes):
            text = "no route of the service leads there; give the path as clients ask for it"
            yield f"{place}.path", f"is {path!r}; {text}"
        for key, most in (("requests", MOST_REQUESTS), ("seconds", 86400)):
            if not 1 <= limit.get(key, 1) <= most:
                yield f"{place}.{key}", f"is {limit[key]}; has to be between 1 and {most}"
        for method in limit.get("methods", []):
            if not METHOD.fullmatch(method):
                yield f"{place}.methods", f"{method!r} is no method; write it in capitals, such as POST"


def _meets(path: str, route: str) -> bool:
    """Say whether one of two prefixes lies within the other."""
    return f"{path}/".startswith(f"{route}/") or f"{route}/".startswith(f"{path}/")


def prefix(route: Mapping) -> tuple[str, str]:
    """Return a route's host and path as the load balancers compare them."""
    return (route.get("host") or "").lower(), (route.get("path") or "").rstrip("/")


def _hides(inner: Mapping, outer: Mapping) -> bool:
    """Say whether a route of a service hides a part of another one, for which the service would see other paths."""
    (host, path), (inner_host, inner_path) = prefix(outer), prefix(inner)
    within = host == inner_host and path != "" and inner_path.startswith(f"{path}/")
    return within and bool(outer.get("strip") or inner.get("strip"))


def circles(needs: Mapping[str, list[str]]) -> list[list[str]]:
    """Return each circle of services that need each other, from its first name back to it.

    Tarjan's algorithm in the simple form of a depth-first search; every service is visited once.
    """
    found, done = [], set()
    for start in sorted(needs):
        path: list[str] = []
        stack = [(start, iter(needs[start]))] if start not in done else []
        while stack:
            name, rest = stack[-1]
            if name not in path:
                path.append(name)
            need = next(rest, None)
            if need is None:
                stack.pop()
                done.add(path.pop())
            elif need in path and need != name:
                found.append([*path[path.index(need) :], need])
            elif need in needs and need not in done and need != name:
                stack.append((need, iter(needs[need])))
    return found
