"""Part `balancer`: what a trivial request's processor time in HAProxy goes to, by leaving out one thing at a time."""

from __future__ import annotations

import re
import shlex

import load
import results
import ways
from stack import lab

CONFIGURATION = lab.Engine("haproxy").configuration
# What each variant of the configuration lacks: patterns of lines that are left out.
WITHOUT: dict[str, list[str]] = {
    "nothing": [],
    "the choice of a backend for bodies": [r"txn\.watch"],
    "compression": [r"filter compression", r"compression (algo|type)", r"add-header Vary"],
    "the access log": [r"log stdout"],
    "the pattern of headers that clients may not set": [r"del-header"],
    "the request id": [r"txn\.id"],
}
WITHOUT["all of these"] = [pattern for patterns in WITHOUT.values() for pattern in patterns]


def variant(text: str, patterns: list[str]) -> str:
    """Return a configuration without the lines that one of the patterns is found in."""
    return "".join(line for line in text.splitlines(keepends=True) if not any(re.search(p, line) for p in patterns))


def put(host: lab.Host, text: str) -> None:
    """Have the HAProxy of a balancer run with another configuration; what is not valid is refused."""
    file, new = shlex.quote(CONFIGURATION), shlex.quote(f"{CONFIGURATION}.bench")
    checked = f"cp -p {file} {new} && cat >{new} && haproxy -c -q -f {new}"
    host.run(f"{checked} && mv {new} {file} && systemctl reload haproxy@lb", stdin=text)


def measure(engines: dict[str, str], connections: int = 32) -> dict:
    """Return the processor time of HAProxy for a trivial request with each variant of its configuration.

    Parameters:
        engines: the balancer host of each engine; HAProxy has to be among them.
        connections: how many clients there are.
    Returns:
        `rows`: for each variant, what it is `without`, and the microseconds of each of its `rounds`.
    Errors:
        LoadError, where HAProxy is not measured or a variant does not answer.
    """
    if "haproxy" not in engines:
        raise load.LoadError("the part balancer measures HAProxy, which ENGINES does not name")
    host = lab.Host(engines["haproxy"])
    route = ways.routes()["trivial"]
    way = next(way for way in ways.ways(route.service, engines) if way.name == "haproxy")
    whole = host.run(f"cat {CONFIGURATION}") + "\n"
    names = list(WITHOUT)
    found: dict[str, list[float]] = {name: [] for name in names}
    try:
        for number in range(results.rounds()):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                put(host, variant(whole, WITHOUT[name]))
                # New clients meet the new process; the one before it ends with its clients.
                load.run(way.place, [route.paths], connections, 0.5)
                spent = ways.one(way, route, connections)["cpu"]["balancer"]
                results.say(f"without {name}: {spent:.0f} µs")
                found[name].append(spent)
    finally:
        put(host, whole)
    rows = [{"without": name, "rounds": spent} for name, spent in found.items()]
    return {"connections": connections, "seconds": ways.seconds(), "rows": rows}
