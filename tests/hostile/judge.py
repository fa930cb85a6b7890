"""What a service may be sent: requests that every reader understands alike, and that tell the truth of the client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/1\.[01]")
# RFC 9110, 5.5: no control characters but the tab, no space at either end.
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*")
HOST = re.compile(rb"([a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE)
# Fields that WSGI reads under the same name when they are written with `_` (PEP 3333, environ variables).
FRAMING = (b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade", b"expect", b"te", b"trailer")
# Said by the balancers and the node proxies alone.
OURS = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-request-id"}
ALSO_OURS = {b"x-forwarded-prefix", b"x-terrace-node"}


@dataclass
class Request:
    """What a strict reader makes of a request, and all that is wrong with it."""

    method: bytes = b""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    raw: bytes = b""
    wrong: list[str] = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header, by its name in small letters."""
        return [value for known, value in self.headers if known.lower() == name]


def connections(log: Path | str) -> dict[tuple[str, int], bytes]:
    """Return all that each connection brought, from a recorder's log or its text."""
    text = log.read_text() if isinstance(log, Path) else log
    found: dict[tuple[str, int], bytes] = {}
    for entry in map(json.loads, text.splitlines()):
        key = (entry["place"], entry["connection"])
        found[key] = found.get(key, b"") + entry["data"].encode("latin-1")
    return found


def requests(stream: bytes) -> Iterator[Request]:
    """Return the requests of a connection, read as strictly as RFC 9112 allows.

    After one that has no certain end, the rest of the stream is one more, and wrong.
    """
    while stream:
        request, size = read(stream)
        request.raw, stream = stream[:size], stream[size:]
        yield request


def read(stream: bytes) -> tuple[Request, int]:
    """Return the first request of a stream, and how long it is."""
    request = Request()
    text, ended, _ = stream.partition(b"\r\n\r\n")
    if not ended:
        request.wrong.append("is no whole request")
        return request, len(stream)
    first, *lines = text.split(b"\r\n")
    if said := LINE.fullmatch(first):
        request.method, request.target = said[1], said[2]
    else:
        request.wrong.append(f"has the first line {first!r}")
    for line in lines:
        if said := FIELD.fullmatch(line):
            request.headers.append((said[1], said[2]))
        else:
            request.wrong.append(f"has the header line {line!r}")
    size, wrong = body(request, stream[len(text) + 4 :])
    request.wrong += wrong
    return request, len(text) + 4 + size


def body(request: Request, rest: bytes) -> tuple[int, list[str]]:
    """Return how long the body is, and what is wrong with it."""
    lengths, codings = request.all(b"content-length"), request.all(b"transfer-encoding")
    if lengths and codings:
        return len(rest), ["has both Content-Length and Transfer-Encoding"]
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            return len(rest), [f"has Transfer-Encoding {codings}"]
        return chunks(rest)
    if not lengths:
        return 0, []
    if len(lengths) > 1 or not re.fullmatch(rb"\d{1,18}", lengths[0]):
        return len(rest), [f"has Content-Length {lengths}"]
    # One that was cut off harms nobody: its connection ends there.
    return int(lengths[0]), []


def chunks(rest: bytes) -> tuple[int, list[str]]:
    """Return how long a chunked body is, and what is wrong with it."""
    place = 0
    while line := re.compile(rb"([0-9A-Fa-f]{1,16})\r\n").match(rest, place):
        size = int(line[1], 16)
        place = line.end() + size
        if size and rest[place : place + 2] != b"\r\n" and len(rest) > place:
            return len(rest), [f"has a chunk that does not end with its size: {rest[place - 10 : place + 10]!r}"]
        place += 2
        if not size:
            break
    else:
        cut = len(rest) <= place or re.fullmatch(rb"[0-9A-Fa-f]{0,16}\r?", rest[place:])
        return len(rest), [] if cut else [f"has the chunk line {rest[place : place + 40]!r}"]
    end = place - 2
    found = []
    while (line := re.compile(rb"([^\r\n]*)\r\n").match(rest, end)) and line[1]:
        found.append(f"has the trailer {line[1]!r}")
        end = line.end()
    return (line.end() if line else len(rest)), [*found, *([] if line or len(rest) <= end else ["has no end"])]


def harm(request: Request, client: str) -> list[str]:
    """Return what is wrong with a request that reached a service.

    Parameters:
        client: the address that sent it.
    """
    found = list(request.wrong)
    if not (request.target.startswith(b"/") or (request.target, request.method) == (b"*", b"OPTIONS")):
        found.append(f"asks for {request.target!r}")
    if re.search(rb"(^|/|\\|%2f|%5c)(\.|%2e){1,2}(/|\\|%2f|%5c|$)", request.target.partition(b"?")[0], re.IGNORECASE):
        found.append(f"has a dot segment in {request.target!r}")
    if re.search(rb"%00|[#\x80-\xff]", request.target):
        found.append(f"has a character that no path has in {request.target!r}")
    if re.search(rb"%(?![0-9a-f]{2})", request.target.partition(b"?")[0], re.IGNORECASE):
        found.append(f"has a % that codes nothing in {request.target!r}")
    if b"/smuggled/" in request.target:
        found.append("was hidden in another one")
    if request.method in (b"TRACE", b"CONNECT", b"PRI"):
        found.append(f"is a {request.method.decode()}")
    hosts = request.all(b"host")
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]) or len(hosts[0]) > 261:
        found.append(f"has the hosts {hosts!r}")
    for name, _ in request.headers:
        plain = name.lower().replace(b"_", b"-")
        if name.lower() != plain and plain in {*FRAMING, *OURS, *ALSO_OURS}:
            found.append(f"has {name!r}, which WSGI takes for {plain!r}")
        if re.match(rb"x-(forwarded|terrace|real)-|(forwarded|proxy)$", plain) and plain not in OURS | ALSO_OURS:
            found.append(f"has {name!r}")
    found += [f"has {len(request.all(name))} of {name!r}" for name in OURS if len(request.all(name)) != 1]
    if request.all(b"x-forwarded-for") != [client.encode()]:
        found.append(f"is said to be from {request.all(b'x-forwarded-for')!r}")
    if request.all(b"x-forwarded-proto") not in ([b"https"], [b"http"]):
        found.append(f"is said to have come by {request.all(b'x-forwarded-proto')!r}")
    if hosts and request.all(b"x-forwarded-host") != hosts:
        found.append(f"is said to be for {request.all(b'x-forwarded-host')!r} and for {hosts!r}")
    if any(value.lower() != b"websocket" for value in request.all(b"upgrade")) or request.all(b"http2-settings"):
        found.append("asks for another protocol")
    length = request.all(b"content-length") or request.all(b"transfer-encoding")
    expected = [value.lower() for value in request.all(b"expect")]
    if expected and (expected != [b"100-continue"] or not length):
        found.append(f"expects {expected!r}")
    if any(value.lower() != b"trailers" for value in request.all(b"te")):
        found.append(f"has TE {request.all(b'te')!r}")
    named = b",".join(request.all(b"connection")).lower().split(b",")
    if strange := {each.strip() for each in named} - {b"", b"close", b"keep-alive", b"upgrade"}:
        found.append(f"has a Connection that names {strange!r}")
    return found
