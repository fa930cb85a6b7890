"""A service that is not ours, through both load balancers, compared byte for byte with itself asked on its node."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import brotli
import pytest

import lab

pytestmark = pytest.mark.usefixtures("engine")

# What a proxy may add or change: hop-by-hop fields, the time, and what Terrace says it adds.
NOT_COMPARED = {
    "date",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "vary",
    "x-request-id",
    "x-cache",
}

# Asks httpbin on its own unix socket, as the node proxy would; runs on the app node.
DIRECT = """
import base64, http.client, json, socket, sys
class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(sys.argv[1])
answers = []
for method, path, headers, body in json.load(sys.stdin):
    connection = Local("httpbin.lab")
    connection.request(method, path, body=base64.b64decode(body) if body is not None else None, headers=headers)
    answer = connection.getresponse()
    answers.append([answer.status, answer.getheaders(), base64.b64encode(answer.read()).decode()])
    connection.close()
print(json.dumps(answers))
"""

PLAIN = [
    "/html", "/json", "/xml", "/robots.txt", "/deny", "/encoding/utf8", "/image/png", "/image/jpeg", "/image/svg",
    "/image/webp", "/gzip", "/deflate", "/brotli", "/stream-bytes/200000?seed=7",
    "/stream/20", "/range/26000", "/links/5/0", "/base64/VGVycmFjZQ==", "/cookies", "/cookies/set?a=1&b=2",
    "/cookies/delete?a=", "/redirect/3", "/relative-redirect/2", "/absolute-redirect/2", "/redirect-to?url=%2Fget",
    "/response-headers?X-One=1&X-Two=2", "/cache/60", "/etag/abc", "/get?a=1&a=2&b=%C3%A9", "/headers", "/ip",
    "/user-agent", "/basic-auth/u/p", "/hidden-basic-auth/u/p", "/bearer", "/anything/a%20b;c?x=%2F",
    "/drip?duration=1&numbytes=20&delay=0", "/delay/1", "/forms/post", "/",
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
STATUSES = [200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405,
            406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429,
            431, 451, 500, 501, 502, 503, 504, 505]  # fmt: skip


def cases() -> list[tuple[str, str, dict, bytes | None]]:
    """Return the requests to compare: method, path, headers and body."""
    requests: list[tuple[str, str, dict, bytes | None]] = [("GET", path, {}, None) for path in PLAIN]
    requests += [
        ("GET", "/range/1000", {"Range": "bytes=10-99"}, None),
        ("GET", "/etag/abc", {"If-None-Match": "abc"}, None),
        ("GET", "/cache", {"If-Modified-Since": "Mon, 23 Nov 2026 00:00:00 GMT"}, None),
        ("GET", "/basic-auth/u/p", {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}, None),
        ("GET", "/cookies", {"Cookie": "a=1; b=2"}, None),
        ("GET", "/image", {"Accept": "image/webp"}, None),
    ]
    large = hashlib.shake_256(b"terrace").digest(3_000_000)
    for method in METHODS:
        body = b'{"a": [1, 2, 3], "b": "\xc3\xa9"}' if method in ("POST", "PUT", "PATCH", "DELETE") else None
        kind = {"Content-Type": "application/json"} if body else {}
        requests.append((method, "/anything/method?x=1", kind, body))
    requests += [
        ("POST", "/post", {"Content-Type": "application/octet-stream"}, large),
        ("POST", "/post", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=1&b=2&b=3"),
        ("PUT", "/put", {"Content-Type": "text/plain"}, b""),
    ]
    requests += [(method, f"/status/{code}", {}, None) for code in STATUSES for method in ("GET", "POST")]
    return requests


def shared(number: int) -> dict[str, str]:
    """Return the headers with which the node proxy would hand over a request that came through a balancer."""
    return {
        "Host": "httpbin.lab",
        "User-Agent": "terrace-test",
        "Accept-Encoding": "identity",
        "X-Forwarded-For": lab.GATEWAY,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "httpbin.lab",
        "X-Forwarded-Port": "443",
        "X-Request-ID": f"compare-{number}",
    }


@pytest.fixture(scope="module")
def direct(hosts) -> list[lab.Answer]:
    """Return httpbin's own answers to all cases."""
    host = hosts["app1"]
    socket_path = f"/run/terrace/httpbin/{host.live_slot('httpbin')}.sock"
    asked = [
        [method, path, shared(number) | headers, base64.b64encode(body).decode() if body is not None else None]
        for number, (method, path, headers, body) in enumerate(cases())
    ]
    host.run("cat >/run/terrace-compare.py", stdin=DIRECT)
    shown = host.run(f"python3 /run/terrace-compare.py {socket_path}", stdin=json.dumps(asked))
    return [
        lab.Answer(status, {name.lower(): value for name, value in headers}, base64.b64decode(body), headers)
        for status, headers, body in json.loads(shown)
    ]


def opened(answer: lab.Answer) -> bytes:
    """Return an answer's body without the compression that httpbin itself gave it, whose bytes tell the time."""
    opener = {"gzip": gzip.decompress, "deflate": zlib.decompress, "br": brotli.decompress}
    return opener.get(answer.headers.get("content-encoding", ""), bytes)(answer.body)


def compared(answer: lab.Answer) -> tuple:
    """Return what of an answer has to be equal: status, fields in order of name, and the body.

    Where the body tells which fields arrived, the one that the node proxy adds is taken out of it. Their order means
    nothing, and only /stream tells it, a JSON document a line.
    """
    fields = sorted(
        # Flask lists methods in no order.
        (name.lower(), sorted(value.split(", ")) if name.lower() == "allow" else value)
        for name, value in answer.raw_headers
        if name.lower() not in NOT_COMPARED
    )
    body = re.sub(rb',\s*"X-Terrace-Node": ?"app[0-9]"', b"", opened(answer))
    lines = body.splitlines()
    if len(lines) > 1 and all(line.startswith(b'{"url": ') for line in lines):
        return answer.status, fields, [json.loads(line) for line in lines]
    return answer.status, fields, body


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_answers_are_the_same_byte_for_byte(balancer, direct):
    def through(number: int) -> lab.Answer:
        method, path, headers, body = asked[number]
        return lab.ask(balancer, path, method, body, shared(number) | headers)

    different, asked = [], cases()
    # A few at a time, since some of them take their time.
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(through, range(len(asked)))
    for (method, path, _, _), its, own in zip(asked, answers, direct, strict=True):
        if compared(its) != compared(own):
            different.append((method, path, compared(its), compared(own)))
    assert not different, [(method, path) for method, path, *_ in different] + different[:2]
    assert len(direct) > 150


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_a_large_chunked_body_arrives_whole(balancer):
    blocks = [hashlib.shake_256(bytes([number])).digest(65_536) for number in range(64)]
    connection = lab.connect(balancer)
    connection.request("POST", "/post", body=iter(blocks), headers={"Host": "httpbin.lab"}, encode_chunked=True)
    answer = lab.Answer.of(connection.getresponse())
    connection.close()
    assert answer.status == 200
    sent = b"".join(blocks)
    data = answer.json()["data"]
    assert base64.b64decode(data.partition("base64,")[2]) == sent


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_compressed_by_httpbin_itself_arrives_as_sent(balancer):
    answer = lab.ask(balancer, "/deflate", headers={"Host": "httpbin.lab", "Accept-Encoding": "deflate"})
    assert answer.headers["content-encoding"] == "deflate"
    assert json.loads(zlib.decompress(answer.body))["deflated"] is True


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_redirects_lead_back_to_the_balancer(balancer):
    answer = lab.ask(balancer, "/absolute-redirect/1", headers={"Host": "httpbin.lab"})
    assert (answer.status, answer.headers["location"]) == (302, "https://httpbin.lab/get")


def test_an_unknown_method_gets_the_services_own_answer():
    connection: HTTPConnection = lab.connect("lb1")
    connection.request("PROPFIND", "/get", headers={"Host": "httpbin.lab"})
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_trace_is_refused_since_it_would_tell_what_proxies_add(balancer):
    assert lab.ask(balancer, "/anything", "TRACE", headers={"Host": "httpbin.lab"}).status == 405
