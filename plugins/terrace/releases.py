"""Which releases nodes have, what lives, and what was deployed when by whom; and what of it is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrace.status import table

RECENT = 10


def report(services: list[Mapping], nodes: Mapping[str, list[str]], answers: Mapping[str, Mapping | None]) -> dict:
    """Return what `make releases` tells, as data.

    Parameters:
        services: those to tell of, as declared.
        nodes: by service, the names of its nodes.
        answers: by node, what `release_facts` returned there with histories; None where it was not reached.
    Returns:
        `services`, by name their `nodes` (each with `node`, `live`, `version`, `commit`, `slot`, `others` and
        `reached`), `deploys` (newest first) and `problems`, in words; and `lock`, who holds it, or an empty mapping.
    """
    told = {service["name"]: _service(service, sorted(nodes[service["name"]]), answers) for service in services}
    locks = [answer["lock"] for answer in answers.values() if answer and answer.get("lock")]
    return {"services": told, "lock": locks[0] if locks else {}}


def _service(service: Mapping, nodes: list[str], answers: Mapping[str, Mapping | None]) -> dict[str, Any]:
    name = service["name"]
    facts = {node: answers[node]["services"][name] for node in nodes if answers.get(node)}
    rows = [_node(node, facts.get(node)) for node in nodes]
    deploys: dict[tuple, dict] = {}
    for node, its in facts.items():
        for record in its.get("history", []):
            key = (record.get("id", ""), record.get("outcome", ""))
            deploys.setdefault(key, {**record, "nodes": []})["nodes"].append(node)
    newest = sorted(deploys.values(), key=lambda record: record.get("ended") or record.get("begun") or "", reverse=True)
    return {"nodes": rows, "deploys": newest, "problems": _problems(service, rows, facts)}


def _node(node: str, facts: Mapping | None) -> dict[str, Any]:
    if facts is None:
        return {"node": node, "reached": False, "live": "", "version": "", "commit": "", "slot": "", "others": []}
    live = facts["releases"].get(facts["live"], {})
    others = [release for release in reversed(facts["installed"]) if release != facts["live"]]
    return {
        "node": node,
        "reached": True,
        "live": facts["live"],
        "version": live.get("version", ""),
        "commit": live.get("commit", "")[:12],
        "slot": facts["live_slot"],
        "others": others,
    }


def _problems(service: Mapping, rows: list[Mapping], facts: Mapping[str, Mapping]) -> list[str]:
    name = service["name"]
    found = [f"{name}: {row['node']} cannot be reached" for row in rows if not row["reached"]]
    live = {row["node"]: row["live"] for row in rows if row["reached"]}
    if len(set(live.values())) > 1:
        said = ", ".join(f"{node} {release or 'nothing'}" for node, release in live.items())
        found.append(f"{name}: nodes disagree on what lives: {said}; `make deploy` or `make rollback` of it ends that")
    begun = {its["under_way"]["id"]: its["under_way"] for its in facts.values() if its.get("under_way")}
    found += [
        f"{name}: the {its.get('kind', 'deploy')} {number} of {its.get('who') or 'somebody'} from {its.get('begun')}"
        " has not ended; if nobody is at it any more, `make deploy` or `make rollback` finishes it"
        for number, its in begun.items()
    ]
    versions = {row["version"] or "none" for row in rows if row["live"]}
    if service.get("version") and versions - {service["version"]}:
        has = " and ".join(sorted(versions))
        found.append(f"{name}: version {has} lives, {service['version']} is declared; declare what lives, or deploy")
    return found


def lines(data: Mapping[str, Any]) -> list[str]:
    """Return a report in lines, without its problems."""
    rows = [["SERVICE", "NODE", "LIVE", "VERSION", "COMMIT", "SLOT", "INSTALLED BESIDE IT"]]
    for name, its in data["services"].items():
        for row in its["nodes"]:
            live = row["live"] or ("nothing" if row["reached"] else "not reached")
            cells = [name, row["node"], live, row["version"] or "-", row["commit"] or "-", row["slot"] or "-"]
            rows.append([*cells, ", ".join(row["others"]) or "-"])
    told = table(rows)
    rows = [["SERVICE", "BEGUN", "WHAT", "FROM", "TO", "VERSION", "WHO", "TOOK", "OUTCOME"]]
    reasons = []
    for name, its in data["services"].items():
        for record in its["deploys"][:RECENT]:
            who = "@".join(filter(None, (record.get("who"), record.get("origin"))))
            outcome = record.get("outcome", "")
            if record.get("reason"):
                reasons.append(f"{name} {record.get('begun')} {outcome}: {record['reason']}")
                outcome = f"{outcome} [{len(reasons)}]"
            cells = [name, record.get("begun") or "-", record.get("kind", ""), record.get("from") or "-"]
            cells += [record.get("to") or "-", record.get("version") or "-", who or "-"]
            rows.append([*cells, f"{record.get('seconds', 0)} s", outcome])
    if len(rows) > 1:
        told += ["", *table(rows)]
    told += [line for number, text in enumerate(reasons, 1) for line in ("", f"[{number}] {text}")]
    if lock := data["lock"]:
        told += [
            "",
            f"locked by {lock.get('who')} on {lock.get('origin')} since {lock.get('since')} for: {lock.get('what')}",
        ]
    return told
