"""The hostile requests: what is held against them finds harm, and nothing else; and what balancers refuse of them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landscape import ROOT, Landscape
from test_nginx import block, configuration, first

HOSTILE = ROOT / "tests/hostile"
sys.path.insert(0, str(HOSTILE))

import cases  # noqa: E402
import judge  # noqa: E402
import trial  # noqa: E402
import wire  # noqa: E402

CLIENT = "192.0.2.9"
SAID = {
    "Host": "httpbin.lab",
    "X-Request-ID": "a",
    "X-Forwarded-For": CLIENT,
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "httpbin.lab",
    "X-Forwarded-Port": "443",
}


def request(first: str = "GET / HTTP/1.1", rest: str = "", **instead: str | None) -> bytes:
    """Return a request as it may reach a service, with other headers, or without some."""
    headers = SAID | {name.replace("_", "-") if name != "x_real_ip" else name: value for name, value in instead.items()}
    lines = [first, *(f"{name}: {value}" for name, value in headers.items() if value is not None), "", rest]
    return "\r\n".join(lines).encode("latin-1")


def harm(stream: bytes) -> list[str]:
    """Return what is wrong with all requests of a connection."""
    return [each for one in judge.requests(stream) for each in judge.harm(one, CLIENT)]


def test_there_are_enough_and_each_says_why():
    names = [case.name for case in cases.ALL]
    assert len(names) == len(set(names)) >= 200
    assert all(case.why and (case.parts or case.frames) for case in cases.ALL)
    assert {case.protocol for case in cases.ALL} == {"http/1.1", "h2"}


@pytest.mark.parametrize(
    "stream",
    [
        request(),
        request(Content_Length="5", rest="hello") + request("HEAD /a%2Fb?q=../x HTTP/1.1"),
        request("POST / HTTP/1.1", Transfer_Encoding="chunked", rest="5\r\nhello\r\n0\r\n\r\n") + request(),
        request(X_Forwarded_Prefix="/a", X_Terrace_Node="app1", Connection="close"),
        request(Host="httpbin.lab:8443", **{"X-Forwarded-Host": "httpbin.lab:8443"}),
        request(Upgrade="websocket", Connection="upgrade"),
    ],
)
def test_what_is_right_is_no_harm(stream):
    assert harm(stream) == []


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (request(Content_Length="5", Transfer_Encoding="chunked", rest="0\r\n\r\n"), "both Content-Length and"),
        (request(Content_Length="5\r\nContent-Length: 5", rest="hello"), "Content-Length [b'5', b'5']"),
        (request(Content_Length="+5", rest="hello"), "Content-Length [b'+5']"),
        (request(Content_Length="0", rest="GET /smuggled/x HTTP/1.1\r\n\r\n"), "was hidden in another one"),
        (request(Transfer_Encoding="xchunked", rest="0\r\n\r\n"), "Transfer-Encoding [b'xchunked']"),
        (request(Transfer_Encoding="chunked", rest="5;\nx\r\nhello\r\n0\r\n\r\n"), "the chunk line"),
        (request(Transfer_Encoding="chunked", rest="5\r\nhelloX0\r\n\r\n"), "does not end with its size"),
        (request(Transfer_Encoding="chunked", rest="0\r\nX-A: b\r\n\r\n"), "the trailer"),
        (request(X_A="b\nX-B: c"), "the header line"),
        (request(X_A="b\x00"), "the header line"),
        (request(X_A="b\r\n c"), "the header line"),
        (request("GET / HTTP/1.1 HTTP/1.1"), "the first line"),
        (request("GET http://a/ HTTP/1.1"), "asks for"),
        (request("GET /a/%2e%2E/b HTTP/1.1"), "a dot segment"),
        (request("GET /a%00 HTTP/1.1"), "no path has"),
        (request("TRACE / HTTP/1.1"), "is a TRACE"),
        (request(Host=None), "the hosts []"),
        (request(Host="httpbin.lab\r\nHost: b"), "the hosts"),
        (request(Host="a@httpbin.lab"), "the hosts"),
        (request(Host="b.lab"), "is said to be for"),
        (request(X_Forwarded_For="203.0.113.9"), "is said to be from"),
        (request(X_Forwarded_For=f"203.0.113.9, {CLIENT}"), "is said to be from"),
        (request(X_Forwarded_For=f"{CLIENT}\r\nx_forwarded_for: 203.0.113.9"), "which WSGI takes for"),
        (request(x_real_ip="203.0.113.9"), "has b'x_real_ip'"),
        (request(Upgrade="h2c"), "another protocol"),
        (request(TE="chunked"), "TE"),
        (request(Expect="100-continue"), "expects"),
        (request(Connection="close, X-Forwarded-For"), "a Connection that names"),
        (b"GET / HT", "no whole request"),
    ],
)
def test_what_is_harmful_is_found(stream, what):
    assert any(what in each for each in harm(stream)), harm(stream)


def test_without_a_balancer_they_do_harm(tmp_path):
    """A service that is asked straight gets them as they are: so those that are sent can do harm, and it is found."""
    log, place = tmp_path / "log", ("127.0.0.1", 8470)
    log.touch()
    command = [sys.executable, HOSTILE / "recorder.py", log, f"{place[0]}:{place[1]}"]
    with subprocess.Popen(command) as recorder:
        target = wire.Target(*place, "httpbin.lab")
        for _ in range(100):
            with contextlib.suppress(OSError):
                target.connect().close()
                break
            time.sleep(0.1)
        wanted = ["lengths that differ", "length and coding", "a host with credentials", "a step up", "TRACE"]
        results = trial.send(target, [case for case in cases.ALL if case.name in wanted])
        recorder.terminate()
    assert trial.told(results, judge.connections(log), "127.0.0.1") == []
    assert {result.case.name for result in results if result.harm} == set(wanted)


def test_headers_of_http2_are_packed_as_they_are():
    """RFC 7541, C.2.1 and C.2.2 have the first two, C.1.2 the integer."""
    assert wire.packed([(b"custom-key", b"custom-header")], indexed=True) == b"\x40\x0acustom-key\x0dcustom-header"
    assert wire.packed([(b":path", b"/sample/path")])[:7] == b"\x00\x05:path"
    assert wire.integer(1337, 5) == b"\x1f\x9a\x0a"
    assert wire.statuses(wire.frame(wire.HEADERS, 4, 1, b"\x88") + wire.frame(wire.RST_STREAM, 0, 1), "h2") == [
        "200",
        "reset",
    ]
    # RFC 7541, C.6.1: 302 in Huffman's code.
    assert wire.status(b"\x48\x82\x64\x02") == "302"


def whom(nginx: Landscape) -> list[str]:
    """Return the rules by which nginx tells who a request is for, as Python has such expressions."""
    rules = block(configuration(nginx), 'map "$host:$http_host')
    return [rule.replace('"~*', '"~(?i)').replace(r"\\", "\\") for rule in rules]


CROOKED = [
    ("shop.example.com", "/a/../b", True),
    ("shop.example.com", "/a/%2E%2e", True),
    ("shop.example.com", "/a%2f..%5cb", True),
    ("shop.example.com", "/./a", True),
    ("shop.example.com", "/a/..;/b", True),
    ("shop.example.com", "/.well-known/x..y/...", False),
    ("shop.example.com", "/a?b=/../c", False),
    ("shop.example.com:443", "/", False),
    ("[2001:db8::1]:443", "/", False),
    ("192.0.2.10", "/", False),
    ("shop.example.com:x", "/", True),
    ("shop.example.com.", "/", True),
    ("a@shop.example.com", "/", True),
    ("", "/", True),
    ("a" * 260, "/", True),
]


@pytest.mark.parametrize(("host", "path", "crooked"), CROOKED)
def test_what_readers_understand_differently_is_refused(ha, nginx, host, path, crooked):
    """By the same words on both engines, as far as they have such words."""
    file = next(f for f in ha.files if f.path == "/etc/haproxy/lb.cfg")
    [good] = re.findall(r"req\.fhdr\(host\) -m reg -i (\S+) }", file.text)
    [bad] = re.findall(r"path -m reg -i (\S+) }", file.text)
    good, bad = (re.compile(text.replace(r"\\", "\\"), re.IGNORECASE) for text in (good, bad))
    assert bool(not good.search(host) or bad.search(path.partition("?")[0])) == crooked
    parsed = re.sub(r":[^\]]*$", "", host)
    assert bool(first(whom(nginx), f"{parsed}:{host} {path}")) == crooked


def test_a_host_is_that_of_the_target(nginx):
    """nginx chooses the route by the one, and used to pass on the other."""
    assert first(whom(nginx), "shop.example.com:SHOP.example.com:443 /") == ""
    assert first(whom(nginx), "shop.example.com:evil.example /") == "1"


def test_recorders_stand_alone():
    """A host runs it without any of the rest."""
    words = re.findall(r"(?m)^(?:from|import) (\w+)", (HOSTILE / "recorder.py").read_text())
    assert {*words} <= set(sys.stdlib_module_names)
    assert Path(HOSTILE / "recorder.py").read_text().startswith('"""')
