"""Which release a node is to run: the one that its peers run, or, where a service lives nowhere, a new one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def releases_of(nodes: Mapping[str, list[Mapping]], host: str) -> list[str]:
    """Return the services that run on a host, given by service the nodes that run it."""
    return [name for name, where in nodes.items() if any(node["name"] == host for node in where)]


def releases_source(source: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return a service's source with its path, if it has one, starting from a directory of the controller."""
    if "path" in source:
        return {"path": str((Path(directory) / source["path"]).resolve())}
    return dict(source)


def releases_asked(declared: Mapping[str, Mapping], directory: str) -> list[dict]:
    """Return what to ask of services' sources: name, source and version of each whose declaration is sound so far.

    Parameters:
        declared: what `services_declared` returned, unchecked.
        directory: where a relative path starts.
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
            asked.append({"name": name, "source": releases_source(source, directory), "version": version})
    return asked


def releases_digest(archive: str) -> str:
    """Return the SHA-256 of an archive on the controller, in hexadecimal digits."""
    with open(archive, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def releases_plan(services: list[Mapping], facts: list[Mapping], built: list[Mapping]) -> dict[str, dict]:
    """Return by service the release that a node without one gets.

    Parameters:
        services: the declared services.
        facts: the results of `release_facts`, looped over the nodes.
        built: the results of `release_build`, looped over the services that are live nowhere.
    Returns:
        By service: `id`; `new`, whether it was live on no node; `node`, one that has it (empty where it is new).
        Where nodes disagree, the release that most of them run counts.
    """
    new = {result["item"]["name"]: result["id"] for result in built if "id" in result}
    plan = {}
    for service in services:
        name = service["name"]
        live = {node: answer[name]["live"] for node, answer in _answers(facts).items() if answer[name]["live"]}
        if live:
            chosen = Counter(live.values()).most_common(1)[0][0]
            plan[name] = {"id": chosen, "new": False, "node": next(n for n, i in live.items() if i == chosen)}
        else:
            plan[name] = {"id": new.get(name, ""), "new": True, "node": ""}
    return plan


def releases_missing(
    plan: Mapping[str, Mapping], names: list[str], facts: list[Mapping], host: str
) -> list[dict[str, str]]:
    """Return the releases that a node has to install, with name, id, and the node that has it.

    Parameters:
        plan: what `releases_plan` returned.
        names: the services that run on this node.
        facts: the results of `release_facts`, looped over the nodes.
        host: this node.
    """
    mine = _answers(facts).get(host, {})
    return [
        {"name": name, "id": plan[name]["id"], "node": plan[name]["node"]}
        for name in names
        # In check mode a release that has yet to be resolved has no id.
        if plan[name]["id"]
        and not mine.get(name, {}).get("live")
        and plan[name]["id"] not in mine.get(name, {}).get("installed", [])
    ]


def releases_first_on(
    plan: Mapping[str, Mapping], nodes: Mapping[str, list[Mapping]], host: str, hosts: list[str]
) -> list[str]:
    """Return the new services for which a host is the first of those that take part in a run.

    Parameters:
        plan: what `releases_plan` returned.
        nodes: by service, the nodes that run it.
        host: this node.
        hosts: the nodes that take part in the run.
    """
    return [
        name
        for name, release in plan.items()
        if release["new"] and next((n["name"] for n in nodes[name] if n["name"] in hosts), "") == host
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
            releases_first_on,
        )
        return {function.__name__: function for function in functions}
