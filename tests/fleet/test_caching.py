"""Answers that are kept for all visitors, by load balancers and at the edge: services/httpbin.yml says which."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import brotli
import pytest

import lab

EDGE = lab.GROUPS["edge"]
PLACES = [*lab.BALANCERS, *EDGE]
each = pytest.mark.parametrize("place", PLACES)


def ask(place: str, path: str, method: str = "GET", **headers: str) -> lab.Answer:
    return lab.ask(place, path, method, headers={"Host": "httpbin.lab"} | headers)


def state(answer: lab.Answer) -> str:
    """Return what an answer says of where it is from."""
    assert answer.status == 200, answer
    return answer.headers.get("x-cache", "")


# Prints how many requests of a service the node proxy has got. Lines of access logs are lost where they come too fast.
ARRIVED = """
import csv, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("/run/haproxy-node/admin.sock")
    connection.sendall(b"show stat -1 1 -1\\n")
    rows = csv.DictReader(connection.makefile())
    print(next(row["req_tot"] for row in rows if row["# pxname"] == sys.argv[1]))
"""


def arrived(hosts) -> int:
    return sum(int(hosts[node].run("python3 - httpbin", stdin=ARRIVED)) for node in lab.NODES)


def flood(place: str, path: str) -> str:
    """Ask a place 1,000 times at once, by 20 connections of HTTP/2 with 50 streams each; return what h2load says."""
    words = ["h2load", "--clients=20", "--max-concurrent-streams=50", "--requests=1000"]
    words += [f"--connect-to={lab.ADDRESSES[place]}:{lab.PORTS['https']}", f"https://httpbin.lab{path}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def test_one_request_is_made_for_all_who_ask_at_once(hosts):
    """Each load balancer makes one for its own thousand, and the edge hosts are answered by that, too."""
    path, before = f"/delay/3?cold={time.time()}", arrived(hosts)
    with ThreadPoolExecutor(len(PLACES)) as pool:
        said = dict(zip(PLACES, pool.map(lambda place: flood(place, path), PLACES), strict=True))
    assert [place for place in PLACES if "status codes: 1000 2xx," not in said[place]] == [], said
    assert arrived(hosts) - before == len(lab.BALANCERS)


@each
@pytest.mark.parametrize(
    "said",
    ["Set-Cookie: a=b", "Cache-Control: private", "Cache-Control: no-store", "Cache-Control: max-age=0", "Vary: *",
     "Vary: User-Agent"],
)  # fmt: skip
def test_what_is_private_is_not_kept(place, said):
    name, value = said.split(": ")
    path = f"/response-headers?{name}={quote(value)}"
    assert [state(ask(place, path)) for _ in range(2)] == ["MISS", "MISS"]


@each
def test_a_visitor_with_a_session_gets_an_answer_of_their_own(engine, place):
    ask(place, "/uuid")
    kept = ask(place, "/uuid", Cookie="_tracking=1")
    assert state(kept) in ("HIT", "STALE", "UPDATING")
    for own in ({"Cookie": "a=1; session=2"}, {"Authorization": "Basic eA=="}, {"Origin": "https://other.example"}):
        answer = ask(place, "/uuid", **own)
        assert (state(answer), answer.body != kept.body) == ("BYPASS", True), own
    # Below what is kept, or spelt in another way, is another path; and a head is not the answer of another method.
    for path in ("/uuid/x.css", "/uuid;x.css", "/uuid%2fx.css", "//uuid", "/./uuid"):
        assert ask(place, path).headers.get("x-cache", "BYPASS") == "BYPASS", path
    assert ask(place, "/uuid", "POST").headers.get("x-cache", "BYPASS") == "BYPASS"
    assert state(ask(place, "/uuid", "HEAD")) != "BYPASS"


@each
def test_nothing_that_a_client_says_is_kept_for_others(engine, place):
    """What is kept is what the service tells of the request that it got, all headers among it."""
    path = f"/anything/kept?show_env=1&place={place}-{time.time()}"
    forged = {
        f"X-{name}": "evil" for name in ("Forwarded-Host", "Original-URL", "HTTP-Method-Override", "Terrace-Rule")
    }
    answer = ask(place, path, **forged, Accept="evil", **{"User-Agent": "evil", "Range": "bytes=0-3"})
    assert state(answer) == "MISS"
    again = ask(place, path)
    assert state(again) == "HIT"
    assert again.body == answer.body
    assert b"evil" not in again.body
    assert again.json()["url"] == f"https://httpbin.lab{path}"
    assert again.json()["headers"]["X-Forwarded-Host"] == "httpbin.lab"


@each
def test_answers_are_compressed_once_for_all(place):
    plain, small = (ask(place, f"/response-headers?long={'x' * 600}", **{"Accept-Encoding": how}) for how in ("", "br"))
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "br"
    assert brotli.decompress(small.body) == plain.body
    assert {"accept-encoding"} <= {word.strip().lower() for word in small.headers["vary"].split(",")}


def test_kept_pages_outlive_the_service_and_are_purged(hosts, playbook, everything_ready):
    """The service dies, then the load balancers' engine: what is kept is answered, marked stale."""
    for place in PLACES:
        ask(place, "/uuid")
    units = {node: f"svc-httpbin@{hosts[node].live_slot('httpbin')}" for node in lab.NODES}
    engine = lab.running_engine(hosts).unit
    try:
        for node, name in units.items():
            hosts[node].run(f"systemctl stop {name}")
        lab.wait(lambda: ask(lab.BALANCERS[0], "/get").status == 503, 15, "the service is dead")
        for place in PLACES:
            assert state(ask(place, "/uuid")) in ("STALE", "UPDATING"), place
            assert ask(place, "/get").status == 503
        for balancer in lab.BALANCERS:
            hosts[balancer].run(f"systemctl stop {engine}")
        for place in EDGE:
            assert state(ask(place, "/uuid")) in ("STALE", "UPDATING"), place
            assert ask(place, "/get").status == 503
    finally:
        for balancer in lab.BALANCERS:
            hosts[balancer].run(f"systemctl start {engine}")
        for node, name in units.items():
            hosts[node].run(f"systemctl start {name}")
    lab.wait_until_ready(60)
    lab.wait(lambda: {ask(place, "/get").status for place in EDGE} == {200}, 10, "the edge tries its origins again")
    path = "/response-headers?purged=1"
    for place in PLACES:
        ask(place, path)
        assert state(ask(place, path)) == "HIT"
    done = playbook("playbooks/purge.yml", "--extra-vars=purge_url=https://httpbin.lab/response-headers")
    assert done.returncode == 0, done.stdout
    # The edge last: a balancer that it asks has it again then.
    assert [state(ask(place, path)) for place in PLACES] == ["MISS"] * len(PLACES)


def test_the_engine_goes_around_a_cache_that_dies(hosts, engine):
    balancer = lab.BALANCERS[0]
    with lab.Load(balancer, "/uuid", headers={"Host": "httpbin.lab"}, pause=0.02) as load:
        for how in ("kill --signal=KILL", "kill --signal=KILL", "restart", "reload"):
            hosts[balancer].run(f"systemctl {how} nginx@cache")
            time.sleep(1.5)
    assert not load.failed, load
    assert hosts[balancer].show("nginx@cache.service", "ActiveState") == "active"
