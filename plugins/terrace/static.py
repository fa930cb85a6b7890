"""What is wrong with the static files that a service declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from terrace.contracts import Finding, contract, filled, shown

# What stands in configurations and in addresses without any escape.
URL = re.compile(r"(/[A-Za-z0-9._~-]+)+/")


def _static(service: Mapping) -> dict[str, str] | None:
    """Return what a service declares of its static files, filled in; None where there are none."""
    if service.get("static") is None:
        return None
    return filled(service["static"], contract("service")["static"]["options"])


def _within(url: str, path: str) -> bool:
    """Say whether a path below `url` is always one below `path`, in whole segments."""
    return url.startswith(path.rstrip("/") + "/")


def static_findings(service: Mapping, routed: bool = True) -> Iterator[Finding]:
    """Yield what is wrong with a service's own `static`, each as key and text.

    Parameters:
        service: what of it has the right type.
        routed: whether that is so of its routes.
    """
    static = _static(service)
    if static is None:
        return
    url, directory = static["url"], PurePosixPath(static["directory"])
    if directory.is_absolute() or ".." in directory.parts or not directory.parts:
        text = "has to be a directory of the source, such as static or web/dist"
        yield "static.directory", f"is {shown(static['directory'])}; {text}"
    if url == "/":
        yield "static.url", "is '/', which would leave no address to the service; give them a prefix, such as /static/"
        return
    if not URL.fullmatch(url) or re.search(r"/\.", url):
        text = "has to begin and end with /, with letters, digits, ., _, ~ and - between, and no dot after a /"
        yield "static.url", f"is {shown(url)}; {text}"
        return
    for key in ("live", "ready"):
        path = (service.get("health") or {}).get(key)
        if path and _within(path, url):
            yield f"health.{key}", f"is below static.url {url}, where no service answers; give it another path"
    routes = service.get("routes", [])
    paths = [str(route.get("path") or "").rstrip("/") for route in routes]
    both = list(zip(routes, paths, strict=True))
    if not routed or any(_within(url, path) for route, path in both if not route.get("strip")):
        return
    for number, (route, path) in enumerate(both):
        if route.get("strip") and path and _within(url, path):
            mend = url.removeprefix(path)
            sees = f"what the service sees, {mend}" if mend != "/" else "what the service sees"
            yield "static.url", f"begins with {path}, which routes[{number}] takes off; write {sees}"
            return
    if not any(route.get("strip") for route in routes):
        text = f"put them below {' or '.join(paths)}, or add a route" if any(paths) else "add a route"
        yield "static.url", f"is {shown(url)}, to which no route leads; {text}"


def hidden_findings(name: str, services: Mapping[str, Mapping]) -> Iterator[Finding]:
    """Yield each route of another service that takes the addresses of a service's static files, or some of them.

    Parameters:
        name: the service.
        services: all services, by name.
    """
    static = _static(services[name])
    if static is None:
        return
    for route in services[name].get("routes", []):
        host, path = (route.get("host") or "").lower(), str(route.get("path") or "").rstrip("/")
        url = f"{path}{static['url']}" if route.get("strip") else static["url"]
        if not _within(url, path):
            continue
        for other, its in services.items():
            for number, theirs in enumerate(its.get("routes", []) if other != name else []):
                prefix = str(theirs.get("path") or "").rstrip("/")
                if (theirs.get("host") or "").lower() != host or len(prefix) <= len(path):
                    continue
                if _within(url, prefix) or _within(f"{prefix}/", url):
                    text = f"routes[{number}] of '{other}' ({prefix}) takes addresses below {url}; change one of them"
                    yield "static.url", text
