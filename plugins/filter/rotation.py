"""What a change of a secret says and decides: what can be changed, how far it has come, and whom it concerns."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import rotation as rotations

HEAD = """\
# Which generation of its secrets this environment is at (make rotate-secret). No secret is in it: commit it, beside the
# vault, before anybody else runs anything.
"""
# The variables of services that have passwords in them.
VARIABLES = {
    "database": ["DATABASE_URL", "DATABASE_READ_URL", "DATABASE_SESSION_URL"],
    "redis": ["REDIS_URL", "QUEUE_URL"],
}
STEPS = {
    "database": [
        "PostgreSQL and every pooler accept the other login, with a new password",
        "the slots, processes and schedules of {service} change to it, the first node alone and watched",
        "once no process uses the old login, it, owner and reader get new passwords, and its sessions are ended",
        "the new password is tried, and the old one, which has to be refused",
    ],
    "redis": [
        "all instances of Redis accept a new password of {service} beside the old one",
        "the slots, processes and schedules of {service} change to it, the first node alone and watched",
        "once no process uses the old one, it is not accepted any more",
        "the new password is tried, and the old one, which has to be refused",
    ],
    "secret": [
        "the slots, processes and schedules of {service} change to the vault's {variable}, the first node watched",
        "no process is left that has another one",
    ],
    "certificates": [
        "every host gets a new key and a new certificate, both at once, of the same authority",
        "PostgreSQL, Patroni and the load balancers take theirs over, without a restart",
        "every port shows the new one",
    ],
    "authority": [
        "a new authority is made, and every host trusts both",
        "every host gets a key and a certificate of the new one",
        "every host trusts the new one alone",
        "every port shows a certificate that it vouches for",
    ],
}


def rotation_read(path: str) -> dict:
    """Return the generations of secrets that an environment's file has; none where there is no file.

    Errors:
        AnsibleFilterError, where it says what cannot be: passwords would be other ones than hosts have.
    """
    content, problems = rotations.read(Path(path))
    told = [str(problem) for problem in problems]
    told = told or [f"{path}: {key}: {text}" for key, text in rotations.findings(content)]
    if told:
        raise AnsibleFilterError("\n".join(told))
    return {str(name): dict(entry) for name, entry in content.items()}


def rotation_noted(rotation: Mapping, name: str, generation: int, stage: str = "") -> str:
    """Return the text of an environment's file, with one change noted.

    Parameters:
        rotation: what it says now.
        name: of what is changed.
        generation: which one it is at.
        stage: one of STAGES, or nothing where the change is over.
    """
    entries = {str(key): dict(entry) for key, entry in rotation.items()}
    entries[str(name)] = {"generation": int(generation)} | ({"stage": str(stage)} if stage else {})
    return HEAD + yaml.safe_dump(entries, default_flow_style=None)


def rotation_kind(name: str) -> str:
    """Return what a name is of, by its form alone: database, redis, secret, certificates or authority."""
    if name in rotations.WHOLE:
        return str(name)
    last = str(name).rpartition("/")[2]
    return last if last in ("database", "redis") else "secret"


def rotation_names(services: list[Mapping]) -> list[str]:
    """Return everything that can be changed in an environment.

    Parameters:
        services: of `services_list`.
    """
    found = []
    for service in services:
        parts = ["database"] * bool(service["database"]) + ["redis"] * bool(service["cache"] or service["queue"])
        found += [f"{service['name']}/{part}" for part in dict.fromkeys([*parts, *service["secrets"]])]
    return [*found, *rotations.WHOLE]


def rotation_refused(name: str, services: list[Mapping]) -> str:
    """Return why there is nothing of this name to change, and what there is; nothing where there is.

    Parameters:
        name: what is to be changed.
        services: of `services_list`.
    """
    known = rotation_names(services)
    if name in known:
        return ""
    close = difflib.get_close_matches(name, known, 1)
    mend = f" Did you mean {close[0]}?" if close else ""
    return f"There is no secret '{name}' to change.{mend} NAME is one of {', '.join(known)}."


def rotation_stage(rotation: Mapping, name: str) -> str:
    """Return how far a change has come: one of STAGES, or nothing where none is under way."""
    return rotations.stage(rotation, name)


def rotation_generation(rotation: Mapping, name: str) -> int:
    """Return the generation that something is at."""
    return rotations.generation(rotation, name)


def rotation_told(name: str, rotation: Mapping) -> list[str]:
    """Return what a change does, in lines.

    Parameters:
        name: what is changed.
        rotation: how far changes have come.
    """
    service, _, variable = name.partition("/")
    stage = rotations.stage(rotation, name)
    begun = f", which was begun and never ended (it is at `{stage}`)" if stage else ""
    steps = [step.format(service=service, variable=variable) for step in STEPS[rotation_kind(name)]]
    return [f"change of {name}{begun}", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))]


def rotation_variables(services: list[Mapping], name: str) -> dict[str, str]:
    """Return the variables of a service that have what is changed in them, as its processes are to have them.

    Parameters:
        services: the services of a node, as `services_run` returns them.
        name: what is changed.
    """
    service, _, variable = name.partition("/")
    names = VARIABLES.get(rotation_kind(name), [variable])
    own = next((each["environment"] for each in services if each["name"] == service), {})
    return {each: own[each] for each in names if each in own}


def rotation_pair(rotation: Mapping, name: str) -> dict[str, int]:
    """Return the generations before (`old`) and after (`new`) the change that is under way."""
    number = rotations.generation(rotation, name)
    first = number - 1 if rotations.stage(rotation, name) == "retire" else number
    return {"old": first, "new": first + 1}


def rotation_login(name: str, generation: int) -> dict[str, str]:
    """Return who logs in by a generation of a service's password, and of which purpose that password is.

    Parameters:
        name: what is changed, a database's or a Redis user's.
        generation: of its password.
    """
    service = name.partition("/")[0]
    if rotation_kind(name) == "redis":
        return {"user": service, "purpose": f"redis/{service}"}
    database, letter = service.replace("-", "_"), rotations.letter(int(generation))
    return {"user": f"{database}_app_{letter}", "purpose": f"postgresql/{database}/app_{letter}"}


def rotation_hosts(name: str) -> list[str]:
    """Return the groups whose hosts take part in a change, and all have to be there.

    Parameters:
        name: what is changed.
    """
    tiers = {"database": ["app", "database"], "redis": ["app", "cache"], "secret": ["app"]}
    return tiers.get(rotation_kind(name), ["all"])


def rotation_plan(services: list[Mapping], facts: Mapping[str, Mapping]) -> dict[str, dict]:
    """Return what a node is switched to, as a plan of a deploy: the release that lives there. None where nothing does.

    Parameters:
        services: of `services_list`.
        facts: what `release_facts` says of the service on this node.
    """
    plan = {}
    for service in services:
        its = facts.get(service["name"], {})
        if live := its.get("live"):
            built = its["releases"].get(live, {})
            plan[service["name"]] = {"id": live, "new": False, "node": ""}
            plan[service["name"]] |= {key: built.get(key) or service[key] for key in ("server", "interface")}
    return plan


def rotation_places(name: str, ports: Mapping[str, int]) -> list[dict]:
    """Return where a node logs in to a service's database: its pooler's aliases, and the primary and a replica past it.

    Parameters:
        name: what is changed.
        ports: the table of ports.
    """
    database = name.partition("/")[0].replace("-", "_")
    pooler = [{"port": ports["pgbouncer"], "database": alias, "tls": False} for alias in (database, f"{database}_read")]
    return pooler + [{"port": ports[at], "database": database, "tls": True} for at in ("node_primary", "node_replica")]


def rotation_ports(tiers: list[str], ports: Mapping[str, int], mode: str = "internal", sharing: int = 1) -> list[dict]:
    """Return the ports of a host that show its certificate.

    Parameters:
        tiers: what the host is.
        ports: the table of ports.
        mode: where the certificate comes from that clients see, which is the host's own with `internal` alone.
        sharing: how many hosts share it.
    """
    public = {"internal": ["https"], "acme": ["certificates"] if sharing > 1 else []}.get(mode, [])
    names = {"loadbalancer": public, "edge": public}
    names |= {"database": ["patroni", "postgresql"], "etcd": ["etcd_client", "etcd_peer"]}
    return [
        {"name": name, "port": ports[name], "postgresql": name == "postgresql"}
        for tier in tiers
        for name in names.get(tier, [])
    ]


def rotation_ended(name: str, rotation: Mapping, file: str) -> list[str]:
    """Return what is to be done after a change, in lines.

    Parameters:
        name: what was changed.
        rotation: how far changes have come.
        file: where that stands.
    """
    if rotations.stage(rotation, name) == "accept":
        return [
            f"{name} waits where both are trusted. Give clients outside the new ca.crt, which has both, and repeat the"
            f" command without PAUSE. Commit {file} and the authority's folder.",
        ]
    kind = rotation_kind(name)
    lines = [f"{name} was changed."]
    if kind in ("database", "redis"):
        lines.append(f"Commit {file} before anybody else runs anything: with the one before, passwords would go back.")
    if kind == "database":
        lines.append("Who uses the reader's login outside of Terrace needs its new password.")
    if kind == "authority":
        lines.append(f"Commit {file} and the authority's folder, and give clients outside the new ca.crt.")
    return lines


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        functions = (
            rotation_read,
            rotation_noted,
            rotation_kind,
            rotation_names,
            rotation_refused,
            rotation_stage,
            rotation_generation,
            rotation_told,
            rotation_variables,
            rotation_pair,
            rotation_login,
            rotation_hosts,
            rotation_plan,
            rotation_places,
            rotation_ports,
            rotation_ended,
        )
        return {function.__name__: function for function in functions}
