"""The load balancers: routing, headers, compression, limits, TLS, logs, and reloads that nobody notices."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import ssl
import subprocess
import time
import uuid

import pytest
import websocket

import lab

# Every test runs with each engine; those that ask a daemon by name take it as an argument.
pytestmark = pytest.mark.usefixtures("engine")
HTTPBIN = {"Host": "httpbin.lab"}
both = pytest.mark.parametrize("balancer", lab.BALANCERS)


@both
def test_routes_by_path_and_by_host(balancer):
    assert "users" in lab.ask(balancer, "/users?limit=1").json()
    assert "orders" in lab.ask(balancer, "/orders?limit=1").json()
    assert lab.ask(balancer, "/get", headers=HTTPBIN).json()["url"] == "https://httpbin.lab/get"
    assert lab.ask(balancer, "/get", headers={"Host": "HTTPBIN.LAB:443"}).status == 200


@both
@pytest.mark.parametrize("path", ["/", "/usersx", "/user", "/get", "/%75sersx", "/healthz"])
def test_an_unknown_route_is_a_clear_404(balancer, path):
    answer = lab.ask(balancer, path)
    assert answer.status == 404
    assert answer.json() == {"error": "no service answers here"}


@both
def test_plain_http_is_redirected(balancer):
    answer = lab.ask(balancer, "/users/1?a=b", "POST", {}, port=lab.PORTS["http"])
    assert answer.status == 308
    assert answer.headers["location"] == f"https://{lab.ADDRESSES[balancer]}/users/1?a=b"


@both
def test_a_client_cannot_forge_what_services_trust(balancer):
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "Forwarded": "for=203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "X-Terrace-Node": "nowhere",
        "X_Forwarded_For": "203.0.113.9",
        "X-Forwarded_Proto": "203.0.113.9",
        "X-Forwarded-Server": "203.0.113.9",
        "X-Terrace-Other": "203.0.113.9",
        "X_Real_IP": "203.0.113.9",
    }
    answer = lab.ask(balancer, "/get?show_env=1", headers=HTTPBIN | forged).json()
    assert "203.0.113.9" not in json.dumps(answer)
    headers = {name.lower(): value for name, value in answer["headers"].items()}
    assert headers["x-forwarded-for"] == lab.GATEWAY
    assert headers["x-forwarded-proto"] == "https"
    assert headers["x-forwarded-host"] == "httpbin.lab"
    assert headers["x-forwarded-port"] == "443"
    assert "forwarded" not in headers
    assert "x-real-ip" not in headers
    assert headers["x-terrace-node"] in lab.NODES


@both
def test_request_ids_are_kept_passed_on_and_logged(balancer, hosts, engine):
    mine = f"test-{uuid.uuid4()}"
    kept = lab.ask(balancer, "/anything?show_env=1", headers=HTTPBIN | {"X-Request-ID": mine})
    assert kept.headers["x-request-id"] == mine
    assert kept.json()["headers"]["X-Request-Id"] == mine
    for bad in ("a b", "x" * 65, "<script>"):
        made = lab.ask(balancer, "/anything", headers=HTTPBIN | {"X-Request-ID": bad})
        assert made.headers["x-request-id"] != bad
        assert uuid.UUID(made.headers["x-request-id"])

    def logged() -> dict | None:
        shown = hosts[balancer].run(f"journalctl --unit={engine.unit} --lines=200 --output=cat --no-pager")
        return next((json.loads(line) for line in shown.splitlines() if mine in line), None)

    lab.wait(logged, 10, "the request is in the access log")
    entry = logged()
    assert (entry["id"], entry["method"], entry["path"], entry["status"]) == (mine, "GET", "/anything", 200)
    assert entry["host"] == "httpbin.lab"
    assert entry["client"] == lab.GATEWAY
    assert entry["server"] in lab.NODES


@both
def test_compressible_answers_are_compressed_once_and_vary(balancer):
    plain = lab.ask(balancer, "/html", headers=HTTPBIN)
    assert "content-encoding" not in plain.headers
    assert "accept-encoding" in plain.headers["vary"].lower()
    small = lab.ask(balancer, "/html", headers=HTTPBIN | {"Accept-Encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in small.headers["vary"].lower()
    assert gzip.decompress(small.body) == plain.body
    assert len(small.body) < len(plain.body)
    # httpbin compresses this one itself.
    own = lab.ask(balancer, "/gzip", headers=HTTPBIN | {"Accept-Encoding": "gzip"})
    assert own.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(own.body))["gzipped"] is True
    image = lab.ask(balancer, "/image/png", headers=HTTPBIN | {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in image.headers
    api = lab.ask(balancer, "/users?limit=50", headers={"Accept-Encoding": "gzip"})
    assert api.headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(api.body))["users"]) == 50


@both
def test_oversized_bodies_are_refused(balancer):
    limit = 16 * 1024 * 1024
    connection = lab.connect(balancer)
    connection.putrequest("POST", "/post", skip_host=True)
    connection.putheader("Host", "httpbin.lab")
    connection.putheader("Content-Length", str(limit + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert lab.ask(balancer, "/status/200", headers=HTTPBIN).status == 200


@both
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_an_oversized_chunked_body_is_refused_whatever_the_method(balancer, method):
    """Nothing but `Transfer-Encoding` tells that there is one."""
    chunk = os.urandom(1024 * 1024)
    connection = lab.connect(balancer)
    try:
        connection.request(method, "/anything", body=(chunk for _ in range(18)), headers=HTTPBIN, encode_chunked=True)
        status = connection.getresponse().status
    except (ConnectionError, ssl.SSLError):
        # The answer may be lost when the connection is closed with the client still sending.
        status = 413
    assert status == 413
    small = lab.connect(balancer)
    small.request(method, "/anything", body=iter([b"a", b"b"]), headers=HTTPBIN, encode_chunked=True)
    assert small.getresponse().status == 200
    small.close()


def curl(balancer: str, *arguments: str, body: bytes = b"", silent: float = 0) -> int:
    """Return the status that curl gets over HTTP/2; 0 where the connection or stream is closed before there is one.

    Parameters:
        balancer: a host of the lab.
        arguments: of curl, the path of the URL last.
        body: what it sends.
        silent: seconds before the first byte of it.
    Errors:
        AssertionError, where nothing ends it within 40 s, or it is not HTTP/2.
    """
    *options, path = arguments
    command = [
        *["curl", "--silent", "--http2", "--cacert", str(lab.AUTHORITY), "--max-time", "40", "--output", "/dev/null"],
        *["--write-out", "%{http_version} %{http_code}", "--header", f"Host: {HTTPBIN['Host']}", *options],
        f"https://{lab.ADDRESSES[balancer]}{path}",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        time.sleep(silent)
        with contextlib.suppress(BrokenPipeError):
            running.stdin.write(body)
        with contextlib.suppress(BrokenPipeError):
            running.stdin.close()
        version, status = running.stdout.read().decode().split()
    assert running.returncode != 28, "curl waited in vain"
    assert version in ("2", "0"), f"curl spoke HTTP/{version}"
    return int(status)


# A body without a length.
UNANNOUNCED = ("--upload-file", "-", "--header", "Expect:")


@both
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_an_oversized_body_is_refused_over_http2(balancer, method):
    """Over HTTP/2 nothing announces a body."""
    sent = (*UNANNOUNCED, "--request", method, "/anything")
    assert curl(balancer, *sent, body=os.urandom(18 * 1024 * 1024)) in (413, 0)
    assert curl(balancer, *sent, body=b"small") == 200
    assert curl(balancer, "/get") == 200


@both
def test_a_body_that_comes_late_arrives(balancer):
    assert curl(balancer, *UNANNOUNCED, "--request", "GET", "/anything", body=b"late", silent=3) == 200


def test_a_body_that_does_not_come_is_told_from_none(engine):
    """HAProxy decides by the first byte what watches the request, and waits for it as long as for headers."""
    status = curl(lab.BALANCERS[0], *UNANNOUNCED, "--request", "GET", "/anything", silent=12)
    assert status == {"haproxy": 408, "nginx": 200}[engine.name]


def test_a_slow_client_is_cut_off():
    start = time.monotonic()
    # Both at once: it takes ten seconds.
    opened = [
        socket.create_connection((lab.ADDRESSES[balancer], lab.PORTS["http"]), timeout=20) for balancer in lab.BALANCERS
    ]
    for raw in opened:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: httpbin.lab\r\n")
    for raw in opened:
        answer = raw.recv(4096)
        assert answer == b"" or b" 408 " in answer.split(b"\r\n")[0]
        assert 8 < time.monotonic() - start < 15
        raw.close()


@both
def test_oversized_headers_are_refused(balancer):
    try:
        status = lab.ask(balancer, "/get", headers=HTTPBIN | {"X-Large": "x" * 40_000}).status
    except OSError:
        # The answer may be lost when the connection is closed with the client still sending.
        status = 400
    assert status in (400, 431)
    assert lab.ask(balancer, "/get", headers=HTTPBIN).status == 200


@both
def test_connections_are_kept(balancer):
    connection = lab.connect(balancer)
    for _ in range(5):
        connection.request("GET", "/status/200", headers=HTTPBIN)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    local = connection.sock.getsockname()
    connection.request("GET", "/status/200", headers=HTTPBIN)
    connection.getresponse().read()
    assert connection.sock.getsockname() == local
    connection.close()


@both
def test_server_sent_events_arrive_as_they_happen(balancer):
    user = lab.ask(balancer, "/users", "POST", {"email": f"{uuid.uuid4().hex}@example.com", "name": "S"}).json()["id"]
    connection = lab.connect(balancer, timeout=30)
    connection.request("GET", f"/orders/events?user_id={user}", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert "Content-Encoding" not in answer.headers
    start = time.monotonic()
    order = {"user_id": user, "items": [{"sku": "tea", "quantity": 1, "price_cents": 100}]}
    made = lab.ask(balancer, "/orders", "POST", order).json()
    while True:
        line = answer.readline().decode().strip()
        assert time.monotonic() - start < 20
        if line.startswith("data:") and json.loads(line[5:])["id"] == made["id"]:
            break
    connection.close()


@both
def test_websockets_pass(balancer):
    upgraded = websocket.create_connection(
        f"wss://{lab.ADDRESSES[balancer]}/orders/live", sslopt={"ca_certs": str(lab.AUTHORITY)}, timeout=20
    )
    try:
        for _ in range(3):
            upgraded.send(json.dumps({"type": "ping"}))
            while True:
                message = json.loads(upgraded.recv())
                if message["type"] == "pong":
                    break
            assert message["served_by"] in lab.NODES
    finally:
        upgraded.close()


@both
def test_streams_are_not_held_back(balancer):
    connection = lab.connect(balancer)
    connection.request("GET", "/drip?duration=3&numbytes=4&delay=0", headers=HTTPBIN)
    answer = connection.getresponse()
    arrivals = []
    while answer.read(1):
        arrivals.append(time.monotonic())
    assert len(arrivals) == 4
    assert arrivals[-1] - arrivals[0] > 1.5
    connection.close()


def test_nothing_left_is_a_clear_503(hosts, everything_ready):
    units = {node: f"svc-httpbin@{hosts[node].live_slot('httpbin')}" for node in lab.NODES}
    for node, name in units.items():
        hosts[node].run(f"systemctl stop {name}")
    try:
        for balancer in lab.BALANCERS:
            lab.wait(lambda: lab.ask(balancer, "/get", headers=HTTPBIN).status == 503, 15, "503")
            answer = lab.ask(balancer, "/get", headers=HTTPBIN)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "error" in answer.json()
            assert lab.ask(balancer, "/users?limit=1").status == 200
    finally:
        for node, name in units.items():
            hosts[node].run(f"systemctl start {name}")


@pytest.mark.parametrize("instance", ["lb", "node"])
def test_a_reload_under_load_drops_nothing(hosts, engine, instance):
    name, unit = (lab.BALANCERS[0], engine.unit) if instance == "lb" else ("app1", "haproxy@node")
    port = None if instance == "lb" else lab.SERVICES["users"]["port"]
    # Short, and a reload takes milliseconds: more requests than loads have that run beside a playbook.
    with lab.Load(name, "/users?limit=1", port=port, clients=6, pause=0.05) as load:
        for _ in range(4):
            hosts[name].run(f"systemctl reload {unit}")
            time.sleep(0.7)
    assert load.good > 100
    assert not load.failed, load


@pytest.mark.parametrize(("instance", "name"), [("lb", lab.BALANCERS[0]), ("node", "app2")])
def test_a_proxy_comes_back(hosts, engine, instance, name, everything_ready):
    host, unit = hosts[name], engine.unit if instance == "lb" else "haproxy@node"
    before = host.show(unit, "MainPID")
    host.run(f"systemctl kill --signal=KILL {unit}")
    lab.wait(lambda: host.show(unit, "MainPID") not in ("0", before), 20, "it runs again")
    lab.wait_until_ready(30)
    if instance == "node":
        # It takes every database for one to read from until its checks say otherwise, twice, and then ends what it led
        # to the wrong one: a query of the next test would fail with it.
        time.sleep(4)


def test_an_invalid_configuration_never_reaches_the_daemon(hosts, playbook, engine):
    """Nor any balancer after the first: the second is not even asked."""
    units = {name: hosts[name].show(engine.unit, "MainPID") for name in lab.BALANCERS}
    before = {name: hosts[name].run(f"sha256sum {engine.configuration}") for name in lab.BALANCERS}
    wrong = {f"{engine.input}_ciphers": ["NO-SUCH-CIPHER"], "loadbalancer_engine": engine.name}
    with lab.Load(lab.BALANCERS[0], "/users?limit=1", clients=3) as load:
        done = playbook("playbooks/loadbalancer.yml", "--extra-vars", json.dumps(wrong))
        assert done.returncode != 0
        assert "NO-SUCH-CIPHER" in done.stdout or "no cipher match" in done.stdout, done.stdout
        assert f"[{lab.BALANCERS[1]}]" not in done.stdout
    assert not load.failed, load
    assert {name: hosts[name].run(f"sha256sum {engine.configuration}") for name in lab.BALANCERS} == before
    assert {name: hosts[name].show(engine.unit, "MainPID") for name in lab.BALANCERS} == units


def test_a_reload_that_a_cut_off_run_left_out_is_made_up_for(hosts, playbook, engine):
    """A change whose run ended before the reload is loaded by the next run, which has nothing else to change."""
    name, host = lab.BALANCERS[0], hosts[lab.BALANCERS[0]]
    words = ("playbooks/loadbalancer.yml", "--limit", name, "--extra-vars", f"loadbalancer_engine={engine.name}")
    host.run(f"echo '# left by a run that was cut off' >>{engine.configuration}")
    done = playbook(*words)
    assert done.returncode == 0, done.stdout
    host.run(f"touch {engine.configuration}; rm -f /var/lib/terrace/units/{engine.unit}.service.json")
    again = playbook(*words)
    assert "changed=1 " in again.stdout, "the file is as it should be, and the daemon is made to load it"
    third = playbook(*words)
    assert "changed=0 " in third.stdout


def test_client_credentials_are_not_logged(hosts, engine):
    secret = base64.b64encode(os.urandom(12)).decode()
    marker = uuid.uuid4().hex
    lab.ask("lb1", f"/anything/{marker}?token={secret}", headers=HTTPBIN | {"Authorization": f"Bearer {secret}"})
    lab.wait(
        lambda: marker in hosts["lb1"].run(f"journalctl --unit={engine.unit} --lines=50 --output=cat"),
        10,
        "it is logged",
    )
    for host in hosts.values():
        assert secret not in host.run("journalctl --since=-2min --output=cat --no-pager | tail -n 2000")
