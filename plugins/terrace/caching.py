"""What services declare of answers that are kept for all visitors, and of their compression: what is wrong with it, and
its shape for the roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from terrace.contracts import Finding, shown

# What stands in a path as it is: what has to be encoded there, and what servers read in several ways, is never kept.
PATH = re.compile(r"/[A-Za-z0-9/._~!&'()+,=:@-]*")
TOKEN = re.compile(r"[A-Za-z0-9!#$&'*+.^_`|~-]+")
# What makes an nginx variable of a request's header.
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
PARAMETER = re.compile(r"[A-Za-z0-9._~\[\]-]+")
ENCODINGS = ("brotli", "gzip")
# What cannot be looked at as a header that makes another answer, and why.
NEVER = {
    "accept-encoding": "is taken care of; take it out",
    "authorization": "makes an answer of one visitor, which is never kept; take it out",
    "cookie": "makes an answer of one visitor; name the cookies that matter in bypass.cookies",
    "host": "always counts; take it out",
    "range": "is taken care of; take it out",
}
MOST_SECONDS = 365 * 86400


def findings(service: Mapping) -> Iterator[Finding]:
    """Return what is wrong with a service's `cached`, `purge_on_deploy` and `compression`, as place and text.

    Parameters:
        service: what of it has the right type.
    """
    rules = service.get("cached", [])
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        place = f"cached[{number}]"
        path = str(rule.get("path", "/"))
        yield from ((f"{place}.path", text) for text in _path(path, service.get("routes", [])))
        if path in seen:
            yield f"{place}.path", f"is that of cached[{seen[path]}]; keep one"
        seen.setdefault(path, number)
        for key in ("seconds", "stale_while_revalidate", "stale_if_error"):
            if not 0 <= (value := rule.get(key, 0)) <= MOST_SECONDS:
                yield f"{place}.{key}", f"is {value}; has to be between 0 and {MOST_SECONDS}, which is a year"
        bypass = rule.get("bypass") or {}
        for key, names, form in (
            ("vary", rule.get("vary", []), HEADER),
            ("query", rule.get("query") or [], PARAMETER),
            ("bypass.cookies", bypass.get("cookies") or [], TOKEN),
            ("bypass.headers", bypass.get("headers", []), HEADER),
        ):
            for name in names:
                if not form.fullmatch(name):
                    what = {"vary": "a header", "query": "a parameter", "bypass.cookies": "a cookie"}.get(
                        key, "a header"
                    )
                    yield f"{place}.{key}", f"has {shown(name)}, which is not the name of {what}; mend it"
                elif key == "vary" and name.lower() in NEVER:
                    yield f"{place}.{key}", f"has {name}, which {NEVER[name.lower()]}"
    if service.get("purge_on_deploy") and not rules:
        yield "purge_on_deploy", "there is nothing to remove without cached; take it out, or say what is kept"
    for encoding in service.get("compression") or []:
        if encoding not in ENCODINGS:
            yield "compression", f"has {shown(encoding)}; has to be of {', '.join(ENCODINGS)}, or [] for none"


def _path(path: str, routes: list[Mapping]) -> Iterator[str]:
    """Return what is wrong with the path of a rule."""
    bare = path.removesuffix("/*")
    if not PATH.fullmatch(bare or "/"):
        mend = "write a path from / of letters, digits and ._~!&'()+,=:@-, with /* at its end for all below it"
        yield f"is {shown(path)}; {mend}"
    elif re.search(r"//|/\.|\.(/|$)", bare):
        yield f"is {shown(path)}; what has //, or a segment with a dot first or last, is never kept; take that out"
    elif not any(_within(bare, str(route.get("path") or "")) for route in routes):
        there = ", ".join(sorted({str(route.get("path") or "/") for route in routes})) or "none"
        yield f"is {shown(path)}, which is in no route of the service ({there}); give a path below one of them"


def _within(path: str, route: str) -> bool:
    """Say whether a path is a route's, or below it."""
    route = route.rstrip("/")
    return path == route or path.startswith(f"{route}/")


def rules(service: Mapping) -> list[dict[str, Any]]:
    """Return what of a service's answers is kept, as the roles take it: single paths first, then the longest.

    Parameters:
        service: one of `services_list`.
    """
    declared = [
        {
            "path": rule["path"].removesuffix("/*").rstrip("/") if rule["path"] != "/" else "/",
            "below": rule["path"].endswith("/*"),
            **{key: rule[key] for key in ("seconds", "stale_while_revalidate", "stale_if_error")},
            "vary": sorted({name.lower() for name in rule["vary"]}),
            "query": rule["query"],
            "cookies": rule["bypass"]["cookies"],
            "headers": sorted({name.lower() for name in rule["bypass"]["headers"]}),
            "logged": True,
        }
        for rule in service["cached"]
    ]
    return sorted(declared, key=lambda rule: (rule["below"], -len(rule["path"])))


def static_rules(service: Mapping) -> list[dict[str, Any]]:
    """Return rules for a service's static files, as `rules` does: by their own word, whatever cookies there are.

    Parameters:
        service: one of `services_list`.
    """
    if not (static := service.get("static")):
        return []
    prefixes = {route["path"].rstrip("/") if route["strip"] else "" for route in service["routes"]}
    return [
        {
            "path": f"{prefix}{static['url'].rstrip('/')}",
            "below": True,
            **{"seconds": 0, "stale_while_revalidate": 0, "stale_if_error": 86400},
            # A third of an edge host's time would go into lines that nobody reads.
            **{"vary": [], "query": None, "cookies": [], "headers": [], "logged": False},
        }
        for prefix in sorted(prefixes)
    ]


def compression(service: Mapping) -> list[str]:
    """Return how a service's answers may be compressed, out of ENCODINGS."""
    given = service["compression"]
    return sorted(ENCODINGS if given is None else set(given))
