"""The hostile requests: each by name, what it is to bring about, and what of it may reach a service.

`{host}` stands for the name of the service, `{mark}` for what tells the request from all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wire import (
    ACK,
    BEGIN,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Target,
    asked,
    frame,
    head,
    integer,
    packed,
)

Frames = Callable[[Target, bytes], bytes]


@dataclass(frozen=True)
class Hostile:
    """A hostile request.

    Parameters:
        name: what it is.
        why: what would follow if it got through as it is.
        parts: the bytes that are sent, over HTTP/1; numbers are pauses in seconds.
        frames: what is sent over HTTP/2 instead, after the beginning.
        most: how many requests it may have reach a service, each without harm; 0 for none.
        wait: seconds that an answer may take.
    """

    name: str
    why: str
    parts: tuple[bytes | float, ...] = ()
    frames: Frames | None = None
    most: int = 1
    wait: float = 1.0

    @property
    def protocol(self) -> str:
        """By what it is sent."""
        return "h2" if self.frames else "http/1.1"

    def sent(self, target: Target, mark: bytes) -> tuple[bytes | float, ...]:
        """Return what is sent to a target."""
        if self.frames:
            return (BEGIN + frame(SETTINGS, ACK, 0) + self.frames(target, mark),)
        return tuple(filled(part, target, mark) if isinstance(part, bytes) else part for part in self.parts)


def filled(part: bytes, target: Target, mark: bytes) -> bytes:
    """Return bytes with what their placeholders stand for; `{hidden}` is the length of the hidden request."""
    known = {b"{host}": target.host.encode(), b"{mark}": mark}
    size = len(HIDDEN) + sum(len(value) - len(name) for name, value in known.items())
    known |= {b"{hidden}": b"%d" % size, b"{chunk}": b"%x" % size, b"{over}": b"%x" % (size + 5)}
    for name, value in known.items():
        part = part.replace(name, value)
    return part


HIDDEN = b"GET /smuggled/{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n"
# One that a balancer may see as well as the service does: it is looked at, and sent on, by itself.
APART = HIDDEN.replace(b"/smuggled/", b"/anything/2-")
HOST = b"Host: {host}"
CHUNKED = b"Transfer-Encoding: chunked"


def get(*fields: bytes, path: bytes = b"/anything/{mark}", host: bytes = HOST, rest: bytes = b"") -> tuple[bytes]:
    """Return a GET with these header lines."""
    return raw(b"GET " + path + b" HTTP/1.1", *([host] if host else []), *fields, rest=rest)


def post(*fields: bytes, rest: bytes = b"") -> tuple[bytes]:
    """Return a POST with these header lines, and what follows them."""
    return raw(b"POST /anything/{mark} HTTP/1.1", HOST, *fields, rest=rest)


def raw(*lines: bytes, rest: bytes = b"") -> tuple[bytes]:
    """Return lines with their ends, and what follows them."""
    return (b"\r\n".join([*lines, b"", b""]) + rest,)


def chunked(rest: bytes, *fields: bytes) -> tuple[bytes]:
    """Return a POST whose body comes in chunks."""
    return post(CHUNKED, *fields, rest=rest)


def length(value: bytes, rest: bytes = b"hello") -> tuple[bytes]:
    """Return a POST with this Content-Length."""
    return post(b"Content-Length: " + value, rest=rest)


def coding(line: bytes) -> tuple[bytes]:
    """Return a POST whose length is six to who does not understand the coding, and zero to who does."""
    return post(b"Content-Length: 6", line, rest=b"0\r\n\r\nX" + HIDDEN)


# Tables: a line for each request.
# fmt: off
SPLIT = "two readers see two requests where the other sees one"
LENGTHS = [
    Hostile("lengths that differ", SPLIT, post(b"Content-Length: 5", b"Content-Length: 0", rest=HIDDEN), most=0),
    Hostile("lengths that differ, the hidden first", SPLIT, post(b"Content-Length: 0", b"Content-Length: 5", rest=HIDDEN), most=0),
    Hostile("a length twice", "one of two readers takes the other one", post(b"Content-Length: 5", b"Content-Length: 5", rest=b"hello")),
    Hostile("a list of lengths", SPLIT, length(b"5, 0"), most=0),
    Hostile("a list of one length", "not every reader knows lists", length(b"5, 5")),
    Hostile("a length with a sign", "atoi() takes it, a strict reader does not", length(b"+5"), most=0),
    Hostile("a negative length", "becomes a huge one", length(b"-5"), most=0),
    Hostile("a hexadecimal length", "0 to one, 5 to the other", length(b"0x5"), most=0),
    Hostile("a length with a space in it", SPLIT, length(b"1 0"), most=0),
    Hostile("an empty length", "0 to one, until the end to the other", length(b"", HIDDEN), most=0),
    Hostile("a length of more than 64 bits", "5 to who counts round", length(b"18446744073709551621"), most=0),
    Hostile("a length with a comma", SPLIT, length(b"5,"), most=0),
    Hostile("a length with a form feed", "isspace() to one", length(b"\x0c5"), most=0),
    Hostile("a length by another name", "WSGI has one name for both", post(b"Content_Length: 5", b"Content-Length: 0")),
    Hostile("a body of a GET", "one that expects none takes it for the next request", get(b"Content-Length: 5", rest=b"hello")),
]

CODINGS = [
    Hostile("length and coding", "CL.TE", coding(CHUNKED)),
    Hostile("coding and length", "TE.CL", post(CHUNKED, b"Content-Length: 4", rest=b"{chunk}\r\n" + HIDDEN + b"\r\n0\r\n\r\n")),
    Hostile("coding twice, the second unknown", "TE.TE", post(CHUNKED, b"Transfer-Encoding: x", b"Content-Length: 6", rest=b"0\r\n\r\nX" + HIDDEN), most=0),
    Hostile("coding twice", "TE.TE", chunked(b"0\r\n\r\n", CHUNKED), most=0),
    Hostile("an unknown coding", "one goes on by the length", coding(b"Transfer-Encoding: xchunked"), most=0),
    Hostile("coding with a space before the colon", "one ignores the line", coding(b"Transfer-Encoding : chunked"), most=0),
    Hostile("coding after a vertical tab", "isspace() to one", coding(b"Transfer-Encoding: \x0bchunked"), most=0),
    Hostile("coding after a tab", "OWS that not every reader skips", post(b"Transfer-Encoding:\tchunked", rest=b"5\r\nhello\r\n0\r\n\r\n")),
    Hostile("coding on a folded line", "one sees no coding", coding(b"Transfer-Encoding:\r\n chunked")),
    Hostile("coding behind another", "only the last one counts, to some", coding(b"Transfer-Encoding: identity, chunked"), most=0),
    Hostile("chunked is not the last coding", "the end is not certain", coding(b"Transfer-Encoding: chunked, identity"), most=0),
    Hostile("coding in quotes", "one ignores it", coding(b'Transfer-Encoding: "chunked"'), most=0),
    Hostile("coding with a NUL", "a string of C ends there", coding(b"Transfer-Encoding: chunked\x00"), most=0),
    Hostile("coding with a semicolon", "one knows no parameters", coding(b"Transfer-Encoding: chunked;q=0"), most=0),
    Hostile("coding behind a bare line feed", "one sees a line of its own there", coding(b"X-A: b\nTransfer-Encoding: chunked")),
    Hostile("coding behind a bare carriage return", "one sees a line of its own there", coding(b"X-A: b\rTransfer-Encoding: chunked"), most=0),
    Hostile("coding by another name", "WSGI has one name for both", post(b"Transfer_Encoding: chunked", b"Content-Length: 5", rest=b"0\r\n\r\n")),
    Hostile("coding with a letter that is none", "one folds it to a K", coding("Transfer-Encoding: chun\u212aed".encode()), most=0),
    Hostile("coding in HTTP/1.0", "which has none", raw(b"POST /anything/{mark} HTTP/1.0", HOST, b"Connection: keep-alive", CHUNKED, b"Content-Length: 6", rest=b"0\r\n\r\nX" + HIDDEN)),
    Hostile("an empty coding", "none to one, an unknown to the other", coding(b"Transfer-Encoding:"), most=0),
]

CHUNKS = [
    Hostile("a chunk of more than 64 bits", "5 to who counts round", chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    Hostile("a negative chunk", "becomes a huge one", chunked(b"-1\r\nhello\r\n0\r\n\r\n")),
    Hostile("a chunk with a sign", "strtol() takes it", chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    Hostile("a chunk with 0x", "0 to one, 5 to the other", chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    Hostile("a chunk after a space", "no size to one", chunked(b" 5\r\nhello\r\n0\r\n\r\n")),
    Hostile("a chunk before a space", "trailing garbage", chunked(b"5 x\r\nhello\r\n0\r\n\r\n")),
    Hostile("a chunk with an extension", "not every reader knows them", chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n")),
    Hostile("a bare line feed in an extension", "TERM.EXT", chunked(b"2;\nxx\r\n{over}\r\n0\r\n\r\n" + HIDDEN + b"\r\n0\r\n\r\n")),
    Hostile("a bare carriage return in an extension", "TERM.EXT", chunked(b"2;\rxx\r\n{over}\r\n0\r\n\r\n" + HIDDEN + b"\r\n0\r\n\r\n")),
    Hostile("a chunk that ends with a bare line feed", "one counts the line differently", chunked(b"5\nhello\n0\n\n" + APART), most=2),
    Hostile("a chunk longer than it says", "one skips what it does not expect", chunked(b"5\r\nhelloXX0\r\n\r\n" + HIDDEN)),
    Hostile("a chunk line without an end", "one waits for ever", chunked(b"5;" + b"x" * 40000 + b"\r\nhello\r\n0\r\n\r\n")),
    Hostile("a last chunk without its empty line", "the next request becomes a trailer", chunked(b"0\r\n" + HIDDEN), most=2),
    Hostile("trailers that say who the client is", "a service takes them for headers", chunked(b"5\r\nhello\r\n0\r\nX-Forwarded-For: 203.0.113.9\r\nContent-Length: 9\r\n\r\n")),
    Hostile("trailers of a GET", "a service takes them for headers", get(CHUNKED, rest=b"0\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")),
    Hostile("a chunk of many zeros", "0 to who reads a few digits", chunked(b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n")),
]

LINES = [
    Hostile("lines that end with bare line feeds", "one sees no end", (b"GET /anything/{mark} HTTP/1.1\nHost: {host}\n\n",)),
    Hostile("a bare carriage return in a value", "a line of its own to one", get(b"X-A: b\rX-Forwarded-For: 203.0.113.9"), most=0),
    Hostile("a bare line feed in a value", "a line of its own to one", get(b"X-A: b\nX-Forwarded-For: 203.0.113.9")),
    Hostile("a NUL in a value", "a string of C ends there", get(b"X-A: b\x00c"), most=0),
    Hostile("a NUL in a name", "a string of C ends there", get(b"X-\x00A: b"), most=0),
    Hostile("a folded line", "a line of its own to one", get(b"X-A: b\r\n X-Forwarded-For: 203.0.113.9")),
    Hostile("a folded first line", "belongs to the request line, to one", raw(b"GET /anything/{mark} HTTP/1.1", b" X-A: b", HOST), most=0),
    Hostile("a space before a colon", "another name to one", get(b"X-Forwarded-For : 203.0.113.9"), most=0),
    Hostile("a line without a colon", "ends the headers, to one", get(b"X-A", b"X-B: c")),
    Hostile("a header without a name", "is skipped by one", get(b": b"), most=0),
    Hostile("a name with letters above ASCII", "another name to one", get(b"X-A\xc3\xa4: b")),
    Hostile("a name with a parenthesis", "no token", get(b"X(A): b")),
    Hostile("empty lines before the request", "the first one is empty, to one", (b"\r\n\r\nGET /anything/{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n",)),
    Hostile("two spaces in the request line", "another target to one", raw(b"GET  /anything/{mark} HTTP/1.1", HOST)),
    Hostile("a tab in the request line", "no separator to one", raw(b"GET\t/anything/{mark}\tHTTP/1.1", HOST)),
    Hostile("two versions in the request line", "a target with a space, to one", raw(b"GET /anything/{mark} HTTP/1.1 HTTP/1.1", HOST), most=0),
    Hostile("a bare carriage return in the request line", "its end to one", (b"GET /anything/{mark} HTTP/1.1\rHost: {host}\r\n\r\n",), most=0),
    Hostile("HTTP/0.9", "without headers nothing is checked", (b"GET /anything/{mark}\r\n\r\n",), most=0),
    Hostile("HTTP/1.0 that is to be kept", "the next request is another one's", raw(b"GET /anything/{mark} HTTP/1.0", HOST, b"Connection: keep-alive")),
    Hostile("HTTP/1.0 without a host", "every route's", raw(b"GET /anything/{mark} HTTP/1.0"), most=0),
    Hostile("HTTP/1.2", "no such version", raw(b"GET /anything/{mark} HTTP/1.2", HOST)),
    Hostile("HTTP/2.0 in text", "another protocol, by its name", raw(b"GET /anything/{mark} HTTP/2.0", HOST)),
    Hostile("HTTP/11.1", "no such version", raw(b"GET /anything/{mark} HTTP/11.1", HOST), most=0),
    Hostile("a method with a slash", "no token", raw(b"GE/T /anything/{mark} HTTP/1.1", HOST), most=0),
    Hostile("two requests at once", "the second one's is the first one's answer", (b"GET /anything/{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n" * 2,), most=2),
    Hostile("TRACE", "shows headers that nobody else sees", raw(b"TRACE /anything/{mark} HTTP/1.1", HOST), most=0),
    Hostile("CONNECT", "makes a tunnel", raw(b"CONNECT {host}:443 HTTP/1.1", HOST), most=0),
    Hostile("PRI", "is the preface of HTTP/2", raw(b"PRI * HTTP/2.0", HOST), most=0),
    Hostile("a request in pieces", "checks see a part only", (b"GET /anyth", 0.1, b"ing/{mark} HTTP/1.1\r\nHo", 0.1, b"st: {host}\r\nContent-Le", 0.1, b"ngth: 0\r\n\r\n")),
]

HOPS = [
    Hostile("a connection that names what we say", "the next proxy takes it out", get(b"Connection: close, X-Forwarded-For, X-Forwarded-Proto, X-Request-ID, X-Terrace-Node, Host")),
    Hostile("a connection that names the length", "the next proxy takes it out", post(b"Connection: Content-Length", b"Content-Length: {hidden}", rest=HIDDEN)),
    Hostile("a connection that names the coding", "the next proxy takes it out", chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Connection: Transfer-Encoding")),
    Hostile("an upgrade to h2c", "what follows is checked by nobody", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", rest=BEGIN)),
    Hostile("an upgrade to another TLS", "what follows is checked by nobody", get(b"Connection: Upgrade", b"Upgrade: TLS/1.0")),
    Hostile("a WebSocket that does not come about", "what follows is a tunnel to the proxy, a request to the service", (*get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 0.2, APART), most=2),
    Hostile("a WebSocket with a body", "what follows is a tunnel to the proxy, a request to the service", post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5", rest=b"hello")),
    Hostile("TE", "is between two hops", get(b"TE: trailers, chunked", b"Connection: TE")),
    Hostile("expecting to continue", "one waits, the other does not", post(b"Expect: 100-continue", b"Content-Length: 5", rest=b"hello")),
    Hostile("expecting to continue a GET without a body", "the next request is its body, to one", get(b"Expect: 100-continue")),
    Hostile("expecting something else", "nobody knows what", post(b"Expect: 200-ok", b"Content-Length: 5", rest=b"hello")),
    Hostile("Proxy", "becomes HTTP_PROXY", get(b"Proxy: http://203.0.113.9:3128", b"Proxy-Connection: keep-alive")),
    Hostile("forged X-Forwarded-*", "the service believes it", get(
        b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-For: 203.0.113.8", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Port: 1", b"X-Forwarded-Prefix: /evil", b"X-Forwarded-Server: evil", b"Forwarded: for=203.0.113.9", b"X-Real-IP: 203.0.113.9",
        b"X-Terrace-Node: evil", b"X-Forwarded: x",
    )),
    Hostile("forged X_Forwarded_*", "WSGI has one name for both", get(b"X_Forwarded_For: 203.0.113.9", b"X-Forwarded_Proto: http", b"X_FORWARDED-HOST: evil", b"X_Real_IP: 203.0.113.9", b"X_Terrace_Node: e", b"X_Request_ID: e")),
    Hostile("two request ids", "the log has another one than the service", get(b"X-Request-ID: a", b"X-Request-ID: b")),
    Hostile("a request id with a line in it", "the log gets a line of the client's", get(b"X-Request-ID: a%0d%0ab")),
]

HOSTS = [
    Hostile("two hosts", "routes by one, answers for the other", get(b"Host: evil.example"), most=0),
    Hostile("two hosts, alike", "one of two readers takes the other one", get(HOST)),
    Hostile("no host", "every route's", get(host=b""), most=0),
    Hostile("an empty host", "every route's", get(host=b"Host:"), most=0),
    Hostile("a host with credentials", "links of a service lead elsewhere", get(host=b"Host: {host}@evil.example"), most=0),
    Hostile("a host behind credentials", "links of a service lead elsewhere", get(host=b"Host: evil.example@{host}"), most=0),
    Hostile("a host with a port that is none", "links of a service lead elsewhere", get(host=b"Host: {host}:evil.example"), most=0),
    Hostile("a host with two ports", "links of a service lead elsewhere", get(host=b"Host: {host}:443:80"), most=0),
    Hostile("a host with a port of six digits", "no such port", get(host=b"Host: {host}:443443"), most=0),
    Hostile("a host with a path", "links of a service lead elsewhere", get(host=b"Host: {host}/evil"), most=0),
    Hostile("a host with a query", "links of a service lead elsewhere", get(host=b"Host: {host}?evil"), most=0),
    Hostile("a host with a quote", "pages of a service get a script", get(host=b'Host: {host}"><script>'), most=0),
    Hostile("a host with a space", "another one to one", get(host=b"Host: {host} evil.example"), most=0),
    Hostile("a host with a comma", "a list to one", get(host=b"Host: {host},evil.example"), most=0),
    Hostile("a host with a backslash", "another one to a browser", get(host=b"Host: {host}\\evil"), most=0),
    Hostile("a host with letters above ASCII", "another one to one", get(host="Host: {host}\u3002evil".encode()), most=0),
    Hostile("a host with a % code", "another one when it is decoded", get(host=b"Host: %68ttpbin.lab"), most=0),
    Hostile("a host with a dot at its end", "the same one to DNS", get(host=b"Host: {host}.")),
    Hostile("a host with dots alone", "none", get(host=b"Host: .."), most=0),
    Hostile("an address as host", "links of a service lead to the balancer", get(host=b"Host: 203.0.113.9"), most=0),
    Hostile("a host of 9,000 characters", "a buffer is full", get(host=b"Host: " + b"a." * 4500 + b"{host}"), most=0),
    Hostile("a target that is whole, with another host", "routes by one, answers for the other", get(path=b"http://evil.example/anything/{mark}"), most=0),
    Hostile("a target that is whole, for another host", "routes by one, answers for the other", get(path=b"https://{host}/anything/{mark}", host=b"Host: evil.example"), most=0),
    Hostile("a target that is whole, and no host", "has none behind a proxy that drops it", get(path=b"https://{host}/anything/{mark}", host=b"", rest=b""), most=0),
    Hostile("a target of another scheme", "a proxy to one", get(path=b"ftp://{host}/anything/{mark}")),
    Hostile("a target with credentials", "links of a service lead elsewhere", get(path=b"https://evil.example@{host}/anything/{mark}")),
    Hostile("a target that is whole", "a proxy to one", get(path=b"https://{host}/anything/{mark}")),
    Hostile("a target without a slash", "becomes a part of the host", get(path=b"anything/{mark}"), most=0),
    Hostile("a target that begins with @", "becomes a part of the host", get(path=b"@evil.example/{mark}"), most=0),
    Hostile("a star", "asks for the server itself", get(path=b"*"), most=0),
]

PATHS = [
    Hostile("a step up", "the route is one, what is answered another", get(path=b"/anything/{mark}/../x"), most=0),
    Hostile("a coded step up", "the route is one, what is answered another", get(path=b"/anything/{mark}/%2e%2e/x"), most=0),
    Hostile("a step up with a coded slash", "the route is one, what is answered another", get(path=b"/anything/{mark}%2f..%2fx"), most=0),
    Hostile("a step up with a backslash", "a slash to one", get(path=b"/anything/{mark}\\..\\x"), most=0),
    Hostile("steps above the root", "files of the host", get(path=b"/../../anything/{mark}"), most=0),
    Hostile("a single dot", "a path by another spelling", get(path=b"/anything/./{mark}"), most=0),
    Hostile("a step up at the end", "the route is one, what is answered another", get(path=b"/anything/{mark}/.."), most=0),
    Hostile("a coded NUL", "a string of C ends there", get(path=b"/anything/{mark}%00.css"), most=0),
    Hostile("a % that codes nothing", "each reader's own", get(path=b"/anything/{mark}%zz"), most=0),
    Hostile("a fragment", "no part of a request", get(path=b"/anything/{mark}#x"), most=0),
    Hostile("letters above ASCII in a path", "have to be coded", get(path="/anything/{mark}/\u00e4".encode()), most=0),
    Hostile("a control character in a path", "has to be coded", get(path=b"/anything/{mark}/\x01"), most=0),
    Hostile("two slashes", "becomes a host to some", get(path=b"//evil.example/anything/{mark}")),
    Hostile("a coded line end in a path", "a service answers with it in a header", get(path=b"/anything/{mark}%0d%0aX-A:b")),
    Hostile("a path of 20,000 characters", "a buffer is full", get(path=b"/anything/{mark}/" + b"x" * 20000), most=0),
    Hostile("2,000 headers", "work for each of them", get(*(b"X-%d: x" % number for number in range(2000))), most=0),
    Hostile("a header of 40,000 characters", "a buffer is full", get(b"X-A: " + b"x" * 40000), most=0),
]
# fmt: on


def fields(*more: tuple[bytes, bytes], body: bytes | None = None, without: bytes = b"", **instead: bytes) -> Frames:
    """Return a request over HTTP/2 with further headers, without a pseudo header, or with others than are right."""

    def made(target: Target, mark: bytes) -> bytes:
        known = {name[1:].decode(): value for name, value in head(target, b"/anything/" + mark)}
        known |= {name: value.replace(b"{host}", target.host.encode()) for name, value in instead.items()}
        pseudo = [(b":" + name.encode(), value.replace(b"{mark}", mark)) for name, value in known.items()]
        fits = [pair for pair in pseudo if pair[0] != without]
        said = [(name, value.replace(b"{host}", target.host.encode()).replace(b"{mark}", mark)) for name, value in more]
        return asked([*fits, *said], body=body)

    return made


def whole(*headers: tuple[bytes, bytes], body: bytes | None = None) -> Frames:
    """Return a request over HTTP/2 with exactly these headers."""

    def made(target: Target, mark: bytes) -> bytes:
        said = [
            (name, value.replace(b"{host}", target.host.encode()).replace(b"{mark}", mark)) for name, value in headers
        ]
        return asked(said, body=body)

    return made


def bodies(*datas: tuple[int, bytes]) -> Callable[..., Frames]:
    """Return what makes a POST over HTTP/2 of headers; its body comes in frames, each with its flags."""

    def with_headers(*more: tuple[bytes, bytes], trailers: tuple[tuple[bytes, bytes], ...] = ()) -> Frames:
        def made(target: Target, mark: bytes) -> bytes:
            said = [*head(target, b"/anything/" + mark, b"POST"), *more]
            sent = frame(HEADERS, END_HEADERS, 1, packed(said))
            sent += b"".join(frame(DATA, flags, 1, data) for flags, data in datas)
            return sent + (frame(HEADERS, END_HEADERS | END_STREAM, 1, packed(trailers)) if trailers else b"")

        return made

    return with_headers


def bomb(target: Target, mark: bytes) -> bytes:
    """Return one header of 3,000 characters that is named 4,000 times by its place in the table."""
    block = packed([*head(target, b"/anything/" + mark)]) + packed([(b"x-a", b"x" * 3000)], indexed=True)
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, block + b"\xbe" * 4000)


def endless(target: Target, mark: bytes) -> bytes:
    """Return headers that go on in 3,000 frames, and do not end."""
    first = frame(HEADERS, END_STREAM, 1, packed(head(target, b"/anything/" + mark)))
    return first + b"".join(frame(CONTINUATION, 0, 1, packed([(b"x-%d" % n, b"x" * 100)])) for n in range(3000))


def reset(target: Target, mark: bytes) -> bytes:
    """Return 3,000 requests, each of them taken back at once."""
    block = packed(head(target, b"/anything/" + mark))
    return b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 6001, 2)
    )


def flood(each: bytes, times: int) -> Frames:
    """Return a frame many times."""
    return lambda _target, _mark: each * times


def straight(each: Callable[[Target, bytes], list[bytes]]) -> Frames:
    """Return frames as they are made."""
    return lambda target, mark: b"".join(each(target, mark))


# fmt: off
END = (END_STREAM, b"hello")
DOWN = "becomes a line of HTTP/1 behind the balancer"
HTTP2 = [
    Hostile("h2: more body than its length", "H2.CL", frames=bodies((0, b"hello"), (END_STREAM, b"GET /smuggled/x HTTP/1.1\r\n\r\n"))((b"content-length", b"5"))),
    Hostile("h2: a length of zero with a body", "H2.CL", frames=bodies((END_STREAM, b"GET /smuggled/x HTTP/1.1\r\n\r\n"))((b"content-length", b"0"))),
    Hostile("h2: less body than its length", "H2.CL", frames=bodies(END)((b"content-length", b"50"))),
    Hostile("h2: two lengths", "H2.CL", frames=bodies(END)((b"content-length", b"5"), (b"content-length", b"0")), most=0),
    Hostile("h2: a length that is none", "H2.CL", frames=bodies(END)((b"content-length", b"5 0")), most=0),
    Hostile("h2: a coding", "H2.TE", frames=bodies((END_STREAM, b"0\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: x\r\n\r\n"))((b"transfer-encoding", b"chunked"))),
    Hostile("h2: a coding by another name", "WSGI has one name for both", frames=bodies(END)((b"transfer_encoding", b"chunked"))),
    Hostile("h2: a connection", "is between two hops", frames=fields((b"connection", b"x-forwarded-for"))),
    Hostile("h2: an upgrade", "is between two hops", frames=fields((b"upgrade", b"h2c"))),
    Hostile("h2: keep-alive", "is between two hops", frames=fields((b"keep-alive", b"timeout=5"))),
    Hostile("h2: TE", "only trailers may be there", frames=fields((b"te", b"gzip, chunked"))),
    Hostile("h2: a line end in a value", DOWN, frames=fields((b"x-a", b"b\r\nx-forwarded-for: 203.0.113.9")), most=0),
    Hostile("h2: a line feed in a value", DOWN, frames=fields((b"x-a", b"b\nx-forwarded-for: 203.0.113.9")), most=0),
    Hostile("h2: a NUL in a value", DOWN, frames=fields((b"x-a", b"b\x00c")), most=0),
    Hostile("h2: a line end in a name", DOWN, frames=fields((b"x-a: b\r\nx-c", b"d")), most=0),
    Hostile("h2: a colon in a name", DOWN, frames=fields((b"x-a:b", b"d"))),
    Hostile("h2: a space in a name", DOWN, frames=fields((b"transfer-encoding ", b"chunked")), most=0),
    Hostile("h2: an empty name", DOWN, frames=fields((b"", b"d")), most=0),
    Hostile("h2: a capital in a name", "another name to one", frames=fields((b"X-A", b"d")), most=0),
    Hostile("h2: a space around a value", "another value to one", frames=fields((b"content-length", b" 0 "))),
    Hostile("h2: a line end in the path", DOWN, frames=fields(path=b"/anything/{mark} HTTP/1.1\r\nX-A: b\r\n\r\n"), most=0),
    Hostile("h2: a space in the path", DOWN, frames=fields(path=b"/anything/{mark} HTTP/1.1"), most=0),
    Hostile("h2: a path without a slash", "becomes a part of the host", frames=fields(path=b"anything/{mark}"), most=0),
    Hostile("h2: a whole URL as path", "a proxy to one", frames=fields(path=b"http://evil.example/anything/{mark}"), most=0),
    Hostile("h2: a fragment", "no part of a request", frames=fields(path=b"/anything/{mark}#x"), most=0),
    Hostile("h2: a step up", "the route is one, what is answered another", frames=fields(path=b"/anything/{mark}/%2e%2E/x"), most=0),
    Hostile("h2: an empty path", "no target", frames=fields(path=b""), most=0),
    Hostile("h2: a line end in the method", DOWN, frames=fields(method=b"GET /smuggled/{mark} HTTP/1.1\r\nX: "), most=0),
    Hostile("h2: a space in the method", DOWN, frames=fields(method=b"GET /smuggled/x"), most=0),
    Hostile("h2: a line end in the authority", DOWN, frames=fields(authority=b"{host}\r\nX-Forwarded-For: 203.0.113.9"), most=0),
    Hostile("h2: credentials in the authority", "links of a service lead elsewhere", frames=fields(authority=b"evil.example@{host}"), most=0),
    Hostile("h2: a path in the authority", "links of a service lead elsewhere", frames=fields(authority=b"{host}/smuggled"), most=0),
    Hostile("h2: a line end in the scheme", DOWN, frames=fields(scheme=b"https://{host}/smuggled HTTP/1.1\r\nX: "), most=0),
    Hostile("h2: a scheme that is a URL", "a part of the target, to some", frames=fields(scheme=b"https://evil.example/?"), most=0),
    Hostile("h2: another scheme", "a service believes it", frames=fields(scheme=b"http")),
    Hostile("h2: two paths", "routes by one, asks for the other", frames=fields((b":path", b"/smuggled/{mark}")), most=0),
    Hostile("h2: two methods", "checks one, does the other", frames=fields((b":method", b"POST")), most=0),
    Hostile("h2: two authorities", "routes by one, answers for the other", frames=fields((b":authority", b"evil.example")), most=0),
    Hostile("h2: a host that is not the authority", "routes by one, answers for the other", frames=fields((b"host", b"evil.example"))),
    Hostile("h2: two hosts", "routes by one, answers for the other", frames=fields((b"host", b"{host}"), (b"host", b"evil.example"), without=b":authority")),
    Hostile("h2: a host alone", "is as good as an authority", frames=fields((b"host", b"{host}"), without=b":authority")),
    Hostile("h2: no host at all", "every route's", frames=fields(without=b":authority"), most=0),
    Hostile("h2: no path", "no target", frames=fields(without=b":path"), most=0),
    Hostile("h2: no method", "none to check", frames=fields(without=b":method"), most=0),
    Hostile("h2: no scheme", "no request", frames=fields(without=b":scheme"), most=0),
    Hostile("h2: a pseudo header that is none", "a header to some", frames=fields((b":x-forwarded-for", b"203.0.113.9")), most=0),
    Hostile("h2: a status", "belongs to answers", frames=fields((b":status", b"200")), most=0),
    Hostile("h2: a pseudo header after a header", "checks are over by then", frames=whole((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"{host}"), (b"x-a", b"b"), (b":path", b"/anything/{mark}"))),
    Hostile("h2: a protocol for CONNECT", "makes a tunnel", frames=fields((b":protocol", b"websocket"), method=b"CONNECT")),
    Hostile("h2: CONNECT", "makes a tunnel", frames=whole((b":method", b"CONNECT"), (b":authority", b"{host}:443")), most=0),
    Hostile("h2: a trailer that is a pseudo header", "another target to some", frames=bodies((0, b"hello"))(trailers=((b":path", b"/smuggled/x"),))),
    Hostile("h2: a trailer with a length", "a header to some", frames=bodies((0, b"hello"))(trailers=((b"content-length", b"0"), (b"x-forwarded-for", b"203.0.113.9")))),
    # An edge host, whose connections to balancers are open, may have passed on what comes before it; that is cut off then.
    Hostile("h2: a trailer without a body", "a header to some", frames=bodies()(trailers=((b"x-forwarded-for", b"203.0.113.9"),))),
    Hostile("h2: a GET with a trailer", "a header to some", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS, 1, packed(head(target, b"/anything/" + mark))), frame(HEADERS, END_HEADERS | END_STREAM, 1, packed([(b"x-forwarded-for", b"203.0.113.9")]))]), most=0),
    Hostile("h2: forged X-Forwarded-*", "the service believes it", frames=fields((b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"http"), (b"x_forwarded_for", b"203.0.113.9"), (b"forwarded", b"for=203.0.113.9"))),
    Hostile("h2: a request on stream 0", "is no stream", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS | END_STREAM, 0, packed(head(target, b"/anything/" + mark)))]), most=0),
    Hostile("h2: a request on an even stream", "is the server's", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS | END_STREAM, 2, packed(head(target, b"/anything/" + mark)))]), most=0),
    Hostile("h2: a frame within headers", "headers of another one", frames=straight(lambda target, mark: [frame(HEADERS, END_STREAM, 1, packed(head(target, b"/anything/" + mark))), frame(PING, 0, 0, b"12345678"), frame(CONTINUATION, END_HEADERS, 1)]), most=0),
    Hostile("h2: more padding than there is", "reads past the end", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\xff" + packed(head(target, b"/anything/" + mark)))]), most=0),
    Hostile("h2: a place in the table that is empty", "reads what is there", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS | END_STREAM, 1, packed(head(target, b"/anything/" + mark)) + integer(200, 7, 0x80))]), most=0),
    Hostile("h2: a header longer than its frame", "reads past the end", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS | END_STREAM, 1, packed(head(target, b"/anything/" + mark)) + b"\0\x7f\xff\xff\xff\xff\x0fx")]), most=0),
    Hostile("h2: a header named 4,000 times", "12 MB of 7 kB", frames=bomb, most=0),
    Hostile("h2: 2,000 headers", "work for each of them", frames=fields(*((b"x-%d" % number, b"x") for number in range(2000))), most=0),
    Hostile("h2: headers without an end", "memory until it is used up", frames=endless, most=0),
    Hostile("h2: 3,000 requests taken back", "work that nobody waits for (rapid reset)", frames=reset, most=3000),
    Hostile("h2: 20,000 settings", "an answer to each", frames=flood(frame(SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff"), 20000), most=0),
    Hostile("h2: 20,000 pings", "an answer to each", frames=flood(frame(PING, 0, 0, b"12345678"), 20000), most=0),
    Hostile("h2: 20,000 empty pieces of a body", "work without end", frames=straight(lambda target, mark: [frame(HEADERS, END_HEADERS, 1, packed(head(target, b"/anything/" + mark, b"POST"))), frame(DATA, 0, 1) * 20000])),
    Hostile("h2: a window that overflows", "becomes negative", frames=straight(lambda target, mark: [asked(head(target, b"/anything/" + mark)), frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")])),
]
# fmt: on

ALL = [*LENGTHS, *CODINGS, *CHUNKS, *LINES, *HOPS, *HOSTS, *PATHS, *HTTP2]
