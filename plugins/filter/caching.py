"""Answers that are kept for all visitors, as the configurations of nginx and HAProxy want them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import caching


def services_keep(backends: list[dict], engine: str) -> bool:
    """Return whether balancers need the nginx that keeps answers, or compresses what their engine cannot.

    Parameters:
        backends: what `services_backends` returned.
        engine: what balances the load.
    """
    return any(its.get("cached", []) or (its.get("brotli_asked") and engine == "haproxy") for its in backends)


def services_edge(backends: list[dict], services: list[dict], origins: list[str], port: int) -> list[dict]:
    """Return what an edge host has to know of services: what a load balancer has, whose nodes are the load balancers.

    Static files are kept at the edge, of whatever service.

    Parameters:
        backends: what `services_backends` returned.
        services: what `services_list` returned.
        origins: the addresses where the load balancers are reached.
        port: their port for TLS.
    """
    by_name = {service["name"]: service for service in services}
    nodes = [{"name": f"origin{number}", "address": address} for number, address in enumerate(origins, 1)]
    return [
        {
            **its,
            "nodes": nodes,
            "port": port,
            "routes": [route | {"strip": False} for route in its["routes"]],
            "cached": its["cached"] or caching.static_rules(by_name[its["name"]]),
        }
        for its in backends
    ]


def cached_rules(backends: list[dict]) -> list[dict[str, Any]]:
    """Return each rule by which answers of services are kept, with the expressions by which it is told.

    Parameters:
        backends: services as `services_backends` returned them.
    Returns:
        Rules as `terrace.caching.rules` has them, each with `service` and `timeout`; `id`, such as `orders:0`, and
        `word`, the same where a name may have no colon; `asked`, an expression for service, space and path; `prefix`,
        what service, path and `?` begin with; `cookie`, one for the Cookie header of a request that goes to the
        service, empty where none does; `around`, the headers
        whose presence does the same; `again`, one for a query that gives one of the parameters twice; `kept`, one for
        the Vary header of an answer that may be kept.
    """
    return [
        rule
        | {
            "service": its["name"],
            "timeout": its["timeout_request"],
            "compression": its.get("compression", ["brotli", "gzip"]),
            "id": f"{its['name']}:{number}",
            "word": f"{its['name'].replace('-', '_')}_{number}",
            "asked": f"^{its['name']} {_escaped(rule['path'])}{'/' if rule['below'] else '/?$'}",
            "prefix": f"{its['name']}{rule['path'].rstrip('/')}/{'' if rule['below'] else '?'}",
            "cookie": _cookie(rule["cookies"]),
            # A page of another origin is answered by what names that one, which is kept only where the rule says so.
            "around": [*rule["headers"], *([] if "origin" in rule["vary"] else ["origin"])],
            "again": rf"(?:^|&)({_either(rule['query'])})=.*&\1=" if rule["query"] else "",
            "kept": rf"^{re.escape(its['name'])}:{number} (?:\s*(?:{_either(_named(rule))})\s*(?:,|$))*$",
        }
        for its in backends
        for number, rule in enumerate(its.get("cached", []))
    ]


def cached_seconds(backends: list[dict]) -> int:
    """Return for how many seconds at most an answer is of use, of all rules; one that nobody asks for goes after that.

    Parameters:
        backends: services as `services_backends` returned them.
    """
    return max(
        [
            rule["seconds"] + max(rule["stale_while_revalidate"], rule["stale_if_error"])
            for its in backends
            for rule in its.get("cached", [])
        ],
        default=0,
    )


def _escaped(path: str) -> str:
    return re.escape(path.rstrip("/"))


def _either(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _cookie(names: list[str] | None) -> str:
    if names is None:
        return "."
    return rf"(?:^|[;,\s])\s*(?:{_either(names)})\s*=" if names else ""


def _named(rule: dict) -> list[str]:
    """Return the headers that an answer may depend on: what counts for its key, and what is never asked for by one."""
    return ["accept-encoding", "authorization", *([] if rule["cookies"] == [] else ["cookie"]), *rule["vary"]]


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        names = (cached_rules, cached_seconds, services_edge, services_keep)
        return {function.__name__: function for function in names}
