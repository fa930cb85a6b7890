"""Which release a node is to run: that of its peers; a new one where a service lives nowhere, or is deployed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.services import given_variables, need_variable

# The digests of a release's files: its archive, and the bundle of its dependencies.
DIGESTS = ("sha256", "bundle_sha256")
# What stands for a secret, and for an address, where static files are collected: nothing has to be there for that.
PLACEHOLDER = "no-secret-is-there-when-static-files-are-collected-0123456789"
NOWHERE = {"DATABASE": "postgresql://build:build@127.0.0.1:1/build", "REDIS": "redis://127.0.0.1:1/0"}


def releases_of(nodes: Mapping[str, list[str]], host: str) -> list[str]:
    """Return the services that run on a host, given by service the names of the nodes that run it."""
    return [name for name, where in nodes.items() if host in where]


def releases_source(source: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return a service's source with its path, if it has one, starting from a directory of the controller."""
    if "path" in source:
        return {"path": str((Path(directory) / source["path"]).resolve())}
    return dict(source)


def releases_static(service: Mapping) -> dict | None:
    """Return what of a service's static files its build is told; nothing where it has none.

    Parameters:
        service: one of `services_list`.
    Returns:
        `url`, `directory`, `command` and `environment`: with a command the variables that the service has, those that
        are secret or lead to a daemon with placeholders, since settings are often read before anything else.
    """
    static = service.get("static")
    if static is None:
        return None
    environment: dict[str, str] = {}
    if static["command"]:
        # Its files are not there yet.
        given = given_variables({**service, "static": None})
        environment = {variable: _placeholder(variable) for variable in given}
        environment |= {need_variable(need): "http://127.0.0.1:1" for need in service["needs"]}
        environment |= dict.fromkeys(service["secrets"], PLACEHOLDER)
        for variable, value in service["environment"].items():
            environment[variable] = str(value).lower() if isinstance(value, bool) else str(value)
        environment["SERVICE_NAME"] = service["name"]
    return {**static, "environment": environment}


def _placeholder(variable: str) -> str:
    """Return what a variable of ours holds where nothing is that it could lead to."""
    kind = variable.partition("_")[0]
    return NOWHERE.get("REDIS" if kind == "QUEUE" else kind, "build")


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


def releases_versioned(services: list[Mapping], deployed: list[str], version: str) -> list[Mapping]:
    """Return the declared services; where some are deployed, only those, with the version that was asked for.

    Parameters:
        services: the declared services.
        deployed: the names of those that are deployed.
        version: the version; empty for the declared one.
    """
    if not deployed:
        return services
    chosen = [service for service in services if service["name"] in deployed]
    return [{**service, "version": version} if version else service for service in chosen]


def releases_reached(nodes: Mapping[str, list[str]], deployed: list[str], reached: list[str]) -> dict[str, list[str]]:
    """Return the nodes of services; where some are deployed, only those, and of their nodes those that were reached.

    Parameters:
        nodes: by service, the names of the nodes that run it.
        deployed: the names of services that are deployed.
        reached: the names of nodes that were reached.
    """
    if not deployed:
        return dict(nodes)
    return {name: [node for node in where if node in reached] for name, where in nodes.items() if name in deployed}


def releases_rollback(
    services: list[Mapping], nodes: Mapping[str, list[str]], facts: list[Mapping], asked: str = ""
) -> dict[str, dict]:
    """Return what `releases_plan` does, with the release that lived before, or the one that was asked for.

    Parameters:
        services: the services.
        nodes: by service, the names of the nodes that run it.
        facts: the results of `release_facts`, looped over the nodes, with histories.
        asked: the id of a release, or its beginning, or its version; empty for the one before.
    Errors:
        AnsibleFilterError where there is none, or where what was asked for is not there, or is not one.
    """
    plan = {}
    for service in services:
        name = service["name"]
        answers = {node: answer[name] for node, answer in _answers(facts).items() if node in nodes[name]}
        chosen = _asked(name, answers, asked) if asked else _before(name, answers)
        node = next(node for node, answer in answers.items() if chosen in answer["releases"])
        release = answers[node]["releases"][chosen]
        plan[name] = {"id": chosen, "new": False, "node": node, "settled": True}
        plan[name] |= {key: release.get(key, "") for key in DIGESTS}
        plan[name] |= {"serial": max(answer.get("serial", 0) for answer in answers.values()) + 1}
        plan[name] |= {key: release.get(key) or service[key] for key in ("server", "interface")}
    return plan


def _asked(name: str, answers: Mapping[str, Mapping], asked: str) -> str:
    """Return the release of a service that is meant by an id, its beginning, or a version."""
    known = {
        release: its.get("version", "") for answer in answers.values() for release, its in answer["releases"].items()
    }
    found = {release for release, version in known.items() if release.startswith(asked) or version == asked}
    if len(found) != 1:
        shown = ", ".join(f"{release} ({version})" if version else release for release, version in known.items())
        raise AnsibleFilterError(
            f"{name}: {asked} is {'more than one release' if found else 'no release'} of those that are installed; "
            f"choose one of {shown or 'none'}"
        )
    return found.pop()


def _before(name: str, answers: Mapping[str, Mapping]) -> str:
    """Return the release of a service to go back to: where a deploy was never ended, the one that it found."""
    installed = {release for answer in answers.values() for release in answer["releases"]}
    last = max(answers.values(), key=lambda answer: answer.get("serial", 0), default={})
    begun = [answer["under_way"]["from"] for answer in answers.values() if answer.get("under_way")]
    ended = [
        record["from"]
        for record in reversed(last.get("history", []))
        if record.get("outcome") == "done" and record.get("to") == (last.get("agreed") or last.get("live"))
    ]
    for release in (*begun, *ended):
        if release in installed:
            return release
    raise AnsibleFilterError(
        f"{name}: there is no release before the one that lives; see `make releases`, or say which: RELEASE=..."
    )


def releases_unborn(services: list[Mapping], facts: list[Mapping], deployed: list[str] | None = None) -> list[Mapping]:
    """Return those services of which a release has to be built: they are live on no node, or deployed.

    Parameters:
        services: the declared services.
        facts: the results of `release_facts`, looped over the nodes.
        deployed: the names of those that are deployed.
    """
    live = {name for answer in _answers(facts).values() for name, state in answer.items() if state["live"]}
    return [service for service in services if service["name"] not in live or service["name"] in (deployed or [])]


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


def _agreed(name: str, facts: list[Mapping]) -> dict:
    """Return what the nodes agreed on last of a service: `release`, `serial`, and whether a deploy is `under_way`."""
    states = [answer[name] for answer in _answers(facts).values()]
    last = max(states, key=lambda state: state.get("serial", 0), default={})
    return {
        "release": last.get("agreed", ""),
        "serial": last.get("serial", 0),
        "under_way": any(state.get("under_way") for state in states),
    }


def releases_plan(
    services: list[Mapping],
    nodes: Mapping[str, list[str]],
    facts: list[Mapping],
    built: list[Mapping],
    deployed: list[str] | None = None,
) -> dict[str, dict]:
    """Return by service the release that a node without one gets, and where it is deployed, every node.

    Parameters:
        services: the declared services.
        nodes: by service, the names of the nodes that run it.
        facts: the results of `release_facts`, looped over the nodes.
        built: the results of `release_build`, looped over what `releases_unborn` returned.
        deployed: the names of services that are deployed.
    Returns:
        By service: `id`; `sha256`, its archive's digest, and `bundle_sha256`, that of its dependencies' bundle; `new`,
        whether it was built for this run; `node`, one that has it (empty where it is new); `server` and `interface`,
        what it was built for (as declared, where it is new); `settled`, whether the fleet agreed on it, so that a node
        which runs another one gets it; `serial`, the number of that agreement. Where nodes disagree, and have not
        agreed on one, the release that most of them run counts.
    """
    new = {result["item"]["name"]: result for result in built if "id" in result}
    plan = {}
    for service in services:
        name = service["name"]
        live = _live(name, facts, nodes[name])
        agreed = _agreed(name, facts)
        if live and name not in (deployed or []):
            ids = Counter(release["id"] for release in live.values())
            settled = agreed["release"] in ids and not agreed["under_way"]
            chosen = agreed["release"] if settled else ids.most_common(1)[0][0]
            if not agreed["serial"] and len(ids) == 1 and not agreed["under_way"]:
                # They were set up before there were agreements.
                settled, agreed["serial"] = True, 1
            node = next(node for node, release in live.items() if release["id"] == chosen)
            release = live[node] | {"new": False, "node": node}
        else:
            release = new.get(name, {}) | {"new": True, "node": ""}
            # What is deployed is agreed on at the end, and by all.
            settled = not live
            agreed["serial"] += 1
        plan[name] = {key: release.get(key, "") for key in ("id", *DIGESTS, "new", "node")}
        plan[name] |= {"settled": settled, "serial": agreed["serial"] if settled or name in (deployed or []) else 0}
        plan[name] |= {key: release.get(key) or service[key] for key in ("server", "interface")}
    return plan


def releases_missing(
    plan: Mapping[str, Mapping], names: list[str], facts: list[Mapping], host: str
) -> list[dict[str, str]]:
    """Return the releases that a node has to install: name, id, digests of the files, and the node that has them.

    Parameters:
        plan: what `releases_plan` returned.
        names: the services that run on this node.
        facts: the results of `release_facts`, looped over the nodes.
        host: this node.
    """
    mine = _answers(facts).get(host, {})
    return [
        {"name": name} | {key: plan[name][key] for key in ("id", *DIGESTS, "node")}
        for name in names
        # In check mode a release that has yet to be resolved has no id.
        if plan[name]["id"]
        and (plan[name]["new"] or _lacks(plan[name], mine.get(name, {})))
        and plan[name]["id"] not in mine.get(name, {}).get("installed", [])
    ]


def releases_files(missing: list[Mapping], controller: str, cache: str) -> list[dict[str, str]]:
    """Return the files that releases are installed from: of each its archive, and the bundle of its dependencies.

    Parameters:
        missing: what `releases_missing` returned.
        controller: the directory on the controller that keeps what was built.
        cache: the directory of archives on a node.
    Returns:
        Of each file `here` and `there`, its paths on the controller and on a node; `sha256`, its digest; and `node`,
        one that has it (empty where it was built here).
    """
    return [
        {
            "here": f"{controller}/{release['name']}/{file}",
            "there": f"{cache}/{release['name']}-{file}",
            "sha256": sha256,
            "node": release["node"],
        }
        for release in missing
        for file, sha256 in (
            (f"{release['id']}.tar.gz", release["sha256"]),
            (f"wheels-{release['bundle_sha256'][:24]}.tar", release["bundle_sha256"]),
        )
    ]


def _lacks(release: Mapping, mine: Mapping) -> bool:
    """Return whether a release is to live on a node, on which another one lives, or none."""
    return not mine.get("live") or (release.get("settled", False) and mine["live"] != release["id"])


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
    files = (service.get("static") or {}).get("url", ""), (release.get("static") or {}).get("url", "")
    if source and files[0] != files[1]:
        declared_at, live_at = (f"at {url}" if url else "at no address" for url in files)
        found.append(f"static files {declared_at} are declared, {live_at} they are live")
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
    """Return the services with a new release for which a host is the first of those that take part in a run.

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
            releases_static,
            releases_asked,
            releases_digest,
            releases_versioned,
            releases_reached,
            releases_rollback,
            releases_unborn,
            releases_plan,
            releases_missing,
            releases_files,
            releases_other,
            releases_first_on,
        )
        return {function.__name__: function for function in functions}
