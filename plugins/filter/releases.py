"""Which release a node is to run: the one that its peers run, or, where a service lives nowhere, a new one."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def releases_of(nodes: Mapping[str, list[str]], host: str) -> list[str]:
    """Return the services that run on a host, given by service the names of the nodes that run it."""
    return [name for name, where in nodes.items() if host in where]


def releases_source(source: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return a service's source with its path, if it has one, starting from a directory of the controller."""
    if "path" in source:
        return {"path": str((Path(directory) / source["path"]).resolve())}
    return dict(source)


def releases_asked(
    declared: Mapping[str, Mapping], directory: str, places: Mapping[str, Mapping[str, str]] | None = None
) -> list[dict]:
    """Return what to ask of services' sources: name, source and version of each whose declaration is sound so far.

    Parameters:
        declared: what `services_declared` returned, unchecked.
        directory: where a relative path starts.
        places: where the keys of each service stand, for what is said of them.
    """
    asked = []
    for name, service in declared.items():
        source, version = service.get("source"), service.get("version", "")
        if (
            isinstance(source, Mapping)
            and len(source) == 1
            and set(source) <= {"path", "git", "pypi"}
            and all(isinstance(text, str) and text for text in (name, *source.values()))
            and isinstance(version, str)
        ):
            service = {"name": name, "source": releases_source(source, directory), "version": version}
            asked.append(service | ({"places": places[name]} if places else {}))
    return asked


def releases_digest(archive: str) -> str:
    """Return the SHA-256 of an archive on the controller, in hexadecimal digits; nothing where there is none."""
    try:
        with open(archive, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _answers(facts: list[Mapping]) -> dict[str, Mapping]:
    """Return what each node answered to `release_facts`, by node; one that could not be reached is left out."""
    return {answer["item"]: answer["services"] for answer in facts if "services" in answer}


def releases_unborn(services: list[Mapping], facts: list[Mapping]) -> list[Mapping]:
    """Return those services that are live on no node.

    Parameters:
        services: the declared services.
        facts: the results of `release_facts`, looped over the nodes.
    """
    live = {name for answer in _answers(facts).values() for name, state in answer.items() if state["live"]}
    return [service for service in services if service["name"] not in live]


def _live(name: str, facts: list[Mapping], nodes: list[str]) -> dict[str, Mapping]:
    """Return what a service's live releases are, by node: what those nodes say that run it, or else all others."""
    found = {
        node: {"id": answer[name]["live"]} | answer[name].get("releases", {}).get(answer[name]["live"], {})
        for node, answer in _answers(facts).items()
        if answer[name]["live"]
    }
    # Ansible renders each name that is looked at: of a service that is live nowhere, none is.
    names = set(nodes) if found else set()
    return {node: release for node, release in found.items() if node in names} or found


def releases_plan(
    services: list[Mapping], nodes: Mapping[str, list[str]], facts: list[Mapping], built: list[Mapping]
) -> dict[str, dict]:
    """Return by service the release that a node without one gets.

    Parameters:
        services: the declared services.
        nodes: by service, the names of the nodes that run it.
        facts: the results of `release_facts`, looped over the nodes.
        built: the results of `release_build`, looped over the services that are live nowhere.
    Returns:
        By service: `id`; `sha256`, its archive's digest; `new`, whether it was live on no node; `node`, one that has it
        (empty where it is new); `server` and `interface`, what it was built for (as declared, where it is new). Where
        nodes disagree, the release that most of them run counts.
    """
    new = {result["item"]["name"]: result for result in built if "id" in result}
    plan = {}
    for service in services:
        name = service["name"]
        live = _live(name, facts, nodes[name])
        if live:
            chosen = Counter(release["id"] for release in live.values()).most_common(1)[0][0]
            node = next(node for node, release in live.items() if release["id"] == chosen)
            release = live[node] | {"new": False, "node": node}
        else:
            release = new.get(name, {}) | {"new": True, "node": ""}
        plan[name] = {key: release.get(key, "") for key in ("id", "sha256", "new", "node")}
        plan[name] |= {key: release.get(key) or service[key] for key in ("server", "interface")}
    return plan


def releases_missing(
    plan: Mapping[str, Mapping], names: list[str], facts: list[Mapping], host: str
) -> list[dict[str, str]]:
    """Return the releases that a node has to install: name, id, digest of the archive, and the node that has it.

    Parameters:
        plan: what `releases_plan` returned.
        names: the services that run on this node.
        facts: the results of `release_facts`, looped over the nodes.
        host: this node.
    """
    mine = _answers(facts).get(host, {})
    return [
        {"name": name} | {key: plan[name][key] for key in ("id", "sha256", "node")}
        for name in names
        # In check mode a release that has yet to be resolved has no id.
        if plan[name]["id"]
        and not mine.get(name, {}).get("live")
        and plan[name]["id"] not in mine.get(name, {}).get("installed", [])
    ]


def releases_other(services: list[Mapping], nodes: Mapping[str, list[str]], facts: list[Mapping]) -> list[str]:
    """Return a line for each service whose declaration is not that of the release which is live.

    What a path holds is not compared: only building it would tell.

    Parameters:
        services: the declared services.
        nodes: by service, the names of the nodes that run it.
        facts: the results of `release_facts`, looped over the nodes.
    """
    lines = []
    for service in services:
        name = service["name"]
        live = _live(name, facts, nodes[name])
        differences = sorted({text for release in live.values() for text in _differences(service, release)})
        if differences:
            lines.append(f"{name}: {'; '.join(differences)}")
    return lines


def _differences(service: Mapping, release: Mapping) -> list[str]:
    """Return how what is declared of a service differs from a release, which may not say all of it."""
    declared = {key: str(service[key]) for key in ("version", "server", "interface")}
    kind, origin = next(iter(service["source"].items()))
    has = {key: release.get(key) or "" for key in declared}
    source = release.get("source") or {}
    found = [
        f"{key} {declared[key]} is declared, {has[key] or 'none'} is live"
        for key in declared
        if declared[key] and (has[key] if key != "version" else source) and declared[key] != has[key]
    ]
    was = _public(source.get("origin", ""))
    if source and (source["kind"] != kind or (kind != "path" and was != _public(origin))):
        found.append(f"source {kind} {_public(origin)} is declared, {source['kind']} {was} is live".replace("  ", " "))
    return found


def _public(address: str) -> str:
    """Return an address without user and password."""
    return re.sub(r"//[^/@]*@", "//", address)


def releases_first_on(
    plan: Mapping[str, Mapping], nodes: Mapping[str, list[str]], host: str, hosts: list[str]
) -> list[str]:
    """Return the new services for which a host is the first of those that take part in a run.

    Parameters:
        plan: what `releases_plan` returned.
        nodes: by service, the names of the nodes that run it.
        host: this node.
        hosts: the nodes that take part in the run.
    """
    # As a set: Ansible renders every name of a list that something is looked for in.
    hosts = set(hosts)
    return [
        name
        for name, release in plan.items()
        if release["new"] and next((node for node in nodes[name] if node in hosts), "") == host
    ]


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        functions = (
            releases_of,
            releases_source,
            releases_asked,
            releases_digest,
            releases_unborn,
            releases_plan,
            releases_missing,
            releases_other,
            releases_first_on,
        )
        return {function.__name__: function for function in functions}
