"""Part `handshakes`: TLS handshakes a second with each engine and an edge host, full and resumed, and what they cost.

The client is OpenSSL's `s_time`, several at once, each with one connection after the other. Each connection also asks
for what the load balancer answers by itself: clients of TLS 1.3 have nothing to resume by until they read something.
"""

from __future__ import annotations

import re
import subprocess
import time

import load
import results
import ways
from stack import lab

# Answered by the balancer itself, before limits and routes, and not logged.
PATH = "/.well-known/terrace/balancer"
KINDS = {"full": "-new", "resumed": "-reuse"}
CLIENTS = 4


def places(engines: dict[str, str]) -> list[ways.Way]:
    """Return the places that clients agree on TLS with: each engine, and an edge host where there is one."""
    hosts = [(engine, host, f"{engine}@lb") for engine, host in engines.items()]
    hosts += [("edge", host, "nginx@edge") for host in lab.GROUPS.get("edge", [])[:1]]
    return [
        ways.Way(name, load.Place(f"https://{lab.ADDRESSES[host]}"), (("balancer", host, unit),))
        for name, host, unit in hosts
    ]


def authority(way: ways.Way) -> str:
    """Return address and port of a place, as openssl is given them."""
    return f"{way.place.url.removeprefix('https://')}:{lab.PORTS['https']}"


def counted(said: str, kind: str) -> int:
    """Return how many connections an `s_time` made, from what it printed.

    Parameters:
        said: its output, which has an r for each connection that was resumed and a * for each other one.
        kind: full or resumed.
    Errors:
        LoadError, where it made none, or one of the other kind.
    """
    # The first one of those that resume is not counted, and has nothing to resume.
    made = re.search(r"(?m)^(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", said)
    marks = set("".join(re.findall(r"(?m)^[*r]+$", said)))
    if not made or not int(made[1]) or not int(made[2]) or marks != {"r" if kind == "resumed" else "*"}:
        raise load.LoadError(f"not all handshakes were {kind}, or nothing was answered: {said[-300:]}")
    return int(made[1])


def agreed(said: str) -> str:
    """Return what client and server agreed on, in words, from what `openssl s_client` printed; LoadError otherwise."""
    found = [
        re.search(pattern, said)
        for pattern in (
            r"New, (TLSv1\.3), Cipher is (\S+)",
            r"(?:Server Temp Key|Negotiated TLS1\.3 group): ([^\s,]+)",
            r"Peer signature type: (\S+)",
            r"Server public key is (\d+ bit)",
        )
    ]
    if not all(found):
        raise load.LoadError(f"openssl s_client agreed on no TLS 1.3: {said[-300:]}")
    suite, group, signature, size = (" ".join(each.groups()) for each in found)
    return f"{suite}, {group}; the certificate's key: {size}, signing by {signature}"


def openssl(*words: str) -> str:
    """Return what a short command of OpenSSL's prints."""
    return subprocess.run(
        ["openssl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True
    ).stdout


def one(way: ways.Way, kind: str) -> dict:
    """Return connections a second of a kind at a place, and the balancer's microseconds of processor time for each."""
    seconds = round(ways.seconds())
    words = ["openssl", "s_time", "-connect", authority(way), "-tls1_3", KINDS[kind], "-www", PATH]
    before, start = ways.used(way)["balancer"], time.monotonic()
    running = [
        subprocess.Popen([*words, "-time", str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(CLIENTS)
    ]
    try:
        said = [process.communicate(timeout=seconds + 30)[0] for process in running]
    except subprocess.TimeoutExpired:
        raise load.LoadError(f"{way.name}: openssl s_time did not end") from None
    finally:
        for process in running:
            process.kill()
            process.wait()
    took = time.monotonic() - start
    made = sum(counted(each, kind) for each in said)
    spent = ways.used(way)["balancer"] - before
    results.say(f"{way.name}, {kind}: {made / took:.0f}/s, {spent / made * 1e6:.0f} µs of the balancer")
    return {"rate": made / took, "cpu": {"balancer": spent / made * 1e6}}


def measure(engines: dict[str, str]) -> dict:
    """Return the rate and the processor time of full and resumed handshakes at each place.

    Parameters:
        engines: the balancer host of each engine.
    Returns:
        `openssl`, the client's version; `agreed` by place, what it agreed on; `rows` of `way`, `kind` and `rounds`.
    Errors:
        LoadError, where a handshake is of the other kind, or fails.
    """
    listed = places(engines)
    said = {way.name: agreed(openssl("s_client", "-connect", authority(way), "-tls1_3")) for way in listed}
    rows = [{"way": way.name, "kind": kind, "rounds": []} for way in listed for kind in KINDS]
    for number in range(results.rounds()):
        start = number % len(listed)
        for way in listed[start:] + listed[:start]:
            for row in rows:
                if row["way"] == way.name:
                    row["rounds"].append(one(way, row["kind"]))
    return {
        "clients": CLIENTS,
        "seconds": ways.seconds(),
        "openssl": " ".join(openssl("version").split()[:2]),
        "agreed": said,
        "rows": rows,
    }
