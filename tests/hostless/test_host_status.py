"""How `host_status` reads what daemons say, and that one which says nothing, or nonsense, is told and never fatal."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from landscape import load

module = load("plugins/modules/host_status.py", "host_status")


@pytest.fixture
def program(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """Return a function that puts a shell script of a name before what the machine has of that name."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def program(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return program


@pytest.fixture
def listen(tmp_path) -> Callable[[Callable[[socket.socket], None]], str]:
    """Return a function that has one connection to a unix socket served, and returns its path."""
    path = str(tmp_path / "socket")

    def listen(serve: Callable[[socket.socket], None]) -> str:
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)

        def accept() -> None:
            with server, server.accept()[0] as client:
                serve(client)

        threading.Thread(target=accept, daemon=True).start()
        return path

    return listen


@pytest.fixture
def web():
    """Return a function that has answers served over HTTP, by path as status and body, and returns the port.

    With a folder that has a key and a certificate it is HTTPS.
    """
    servers = []

    def web(answers: dict[str, tuple[int, str]], keys: Path | None = None) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *words: object) -> None:
                """Print nothing."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        if keys:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(keys / "host.crt", keys / "host.key")
            servers[-1].socket = context.wrap_socket(servers[-1].socket, server_side=True)
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield web
    for server in servers:
        server.shutdown()
        server.server_close()


# Commands


def test_a_command_that_fails_says_why(program):
    program("broken", "echo first; echo the reason >&2; exit 3")
    with pytest.raises(module.AnswerError, match=r"^the reason$"):
        module.run("broken")
    assert module.run("broken", codes=(0, 3)) == "first\n"


def test_a_command_that_hangs_is_killed_with_its_children(program, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SECONDS", 0.3)
    program("hangs", f"sleep 60 & echo $! >{tmp_path}/child; wait")
    start = time.monotonic()
    with pytest.raises(module.AnswerError, match=r"no answer within 0.3 s"):
        module.run("hangs")
    assert time.monotonic() - start < 5
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or "(sleep) Z" in state.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("what it started runs on")


# The host

UNITS = """\
Id=haproxy@lb.service
Names=haproxy@lb.service
LoadState=loaded
ActiveState=active
SubState=running
NRestarts=2
ActiveEnterTimestampMonotonic=40000000

NRestarts=0
Id=redis-sentinel.service
Names=redis-sentinel.service sentinel.service
LoadState=loaded
ActiveState=failed
SubState=failed
ActiveEnterTimestampMonotonic=0

Id=svc-orders-report.timer
Names=svc-orders-report.timer
LoadState=loaded
ActiveState=active
SubState=waiting
ActiveEnterTimestampMonotonic=1000000

Id=patroni.service
Names=patroni.service
LoadState=not-found
ActiveState=inactive
SubState=dead
NRestarts=0
ActiveEnterTimestampMonotonic=0
"""


def test_units():
    wanted = ["haproxy@lb", "sentinel", "svc-orders-report.timer", "patroni"]
    found = module.parse_units(UNITS, wanted, 100.0)
    assert list(found) == wanted
    assert found["haproxy@lb"] == {
        "active": "active",
        "sub": "running",
        "restarted": 2,
        "seconds": 60,
        "known": True,
        "wanted": True,
    }
    assert found["sentinel"]["active"] == "failed"
    assert (found["patroni"]["known"], found["patroni"]["active"]) == (False, "inactive")
    assert module.parse_units(UNITS, [], 100.0)["redis-sentinel"]["wanted"] is False


def test_versions():
    text = (
        "haproxy installed 3.0.11-1+deb13u1\nredis-server installed 5:8.0.2-3+deb13u1\nnginx not-installed \n"
        "patroni deinstall 4.0.6-1\n"
    )
    assert module.parse_versions(text) == {"haproxy": "3.0.11", "redis-server": "8.0.2"}


def test_days_of_a_certificate():
    now = 1_800_000_000
    assert module.days_until("notAfter=Jan 25 08:00:00 2027 GMT\n", now) == 10
    assert module.days_until("notAfter=Jan 14 08:00:00 2027 GMT\n", now) == -1


def test_disks(tmp_path):
    found = module.disks([str(tmp_path), str(tmp_path / "absent"), f"{tmp_path}/."])
    assert list(found) == [str(tmp_path)]
    assert 0 <= found[str(tmp_path)] <= 100


def test_who_holds_an_address(program):
    """Those that wait for it have it on their loopback interface, where nobody else reaches it."""
    loopback = '{"flags":["LOOPBACK","UP"],"addr_info":[{"local":"127.0.0.1"},{"local":"10.77.0.10"}]}'
    program("ip", f"""echo '[{loopback},{{"flags":["UP"],"addr_info":[{{"local":"10.77.0.11"}}]}},{{}}]'""")
    assert module.holds("10.77.0.11")
    assert not module.holds("10.77.0.10")


# HAProxy

STATISTICS = """\
# pxname,svname,qcur,status,check_status,
users,app1,0,UP,L7OK,
users,app2,0,DOWN,L4CON,
users,app1.any,0,UP,L4OK,
users.any,app1,0,UP,L4OK,
postgresql.primary,db1,0,DOWN,L7STS,
postgresql.primary,db2,0,UP 1/2,L7OK,
postgresql.replica,db1,0,UP,L7OK,
postgresql.replica,db2.primary,0,UP,L7OK,
redis.cache,cache1.example.com,0,UP,L7OK,
users.need,app1,0,UP,L7OK,
orders,blue,0,DRAIN,L7OK,
orders.local,blue,0,no check,,
"""


def statistics(client: socket.socket) -> None:
    """Answer as HAProxy does."""
    assert client.recv(100) == b"show stat -1 4 -1\n"
    client.sendall(STATISTICS.encode())


def test_a_load_balancers_servers(listen, monkeypatch):
    monkeypatch.setattr(module, "BALANCER_SOCKET", listen(statistics))
    assert module.balanced() == {"users": {"app1": True, "app2": False}, "orders": {"blue": False}}


def test_what_a_node_proxy_leads_to(listen, monkeypatch):
    monkeypatch.setattr(module, "NODE_SOCKET", listen(statistics))
    assert module.egress() == {
        "postgresql.primary": ["db2"],
        "postgresql.replica": ["db1"],
        "redis.cache": ["cache1.example.com"],
        "users.need": ["app1"],
    }


def test_what_a_load_balancer_answers(web):
    port = web({"/good": (200, "ok"), "/bad": (503, "")})
    assert module.balancer("127.0.0.1", port, "/good")
    with pytest.raises(module.AnswerError, match=r"^/bad answers with status 503$"):
        module.balancer("127.0.0.1", port, "/bad")


def test_readiness(web):
    port = web({"/a": (200, "ready"), "/b": (503, "not ready\n"), "/c": (404, "unknown"), "/d": (500, "")})
    assert module.readiness("127.0.0.1", port, ["a", "b", "c", "d"]) == {
        "a": "ready",
        "b": "not ready",
        "c": "unknown",
        "d": "status 500",
    }


# PgBouncer


def message(kind: bytes, content: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(content) + 4) + content


def table(*rows: dict[str, str]) -> bytes:
    """Return the messages by which rows are sent."""
    names = list(rows[0])
    head = struct.pack("!H", len(names)) + b"".join(name.encode() + b"\0" + b"\0" * 18 for name in names)
    body = b""
    for row in rows:
        values = [value.encode() for value in row.values()]
        cells = b"".join(struct.pack("!i", len(value)) + value for value in values)
        body += message(b"D", struct.pack("!H", len(values)) + cells)
    return message(b"T", head) + body + message(b"C", b"SHOW\0") + message(b"Z", b"I")


def console(state: str, databases: list[dict[str, str]]) -> Callable[[socket.socket], None]:
    answers = {
        b"SHOW STATE": table({"key": "active", "value": "yes"}, {"key": "paused", "value": state}),
        b"SHOW DATABASES": table(*databases),
        b"SHOW POOLS": table({"cl_waiting": "2", "maxwait": "1"}, {"cl_waiting": "3", "maxwait": "7"}),
    }

    def serve(client: socket.socket) -> None:
        assert b"user\0pgbouncer\0" in client.recv(1000)
        client.sendall(message(b"R", struct.pack("!I", 0)) + message(b"S", b"a\0b\0") + message(b"Z", b"I"))
        for _ in answers:
            client.sendall(answers[client.recv(1000)[5:-1]])

    return serve


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(path)
    return client


def test_a_pooler(listen):
    path = listen(console("no", [{"name": "orders", "paused": "0"}, {"name": "users", "paused": "1"}]))
    assert module.pooler(connect(path)) == {"paused": ["users"], "waiting": 5, "seconds": 7}


def test_a_pooler_that_is_paused_as_a_whole(listen):
    path = listen(console("yes", [{"name": "orders", "paused": "0"}]))
    assert module.pooler(connect(path))["paused"] == ["all"]


def test_a_pooler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POOLER_USER", getpass.getuser())
    told = module.enter(str(tmp_path), 6432)
    assert module.reason(told) == "No such file or directory"
    with pytest.raises(OSError, match="No such file"):
        module.pooler(told)
    monkeypatch.setattr(module, "POOLER_USER", "nobody-of-this-name")
    assert module.reason(module.enter(str(tmp_path), 6432)) == "there is no user nobody-of-this-name"


# Certificates, and what is asked over TLS


@pytest.fixture
def pki(tmp_path, monkeypatch) -> Path:
    """A host's certificate that signed itself and is good for ten days, where the module looks for it."""
    monkeypatch.setattr(module, "PKI", tmp_path)
    words = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "10",
        "-subj",
        "/CN=db1",
    ]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "host.key", "-out", "host.crt"]
    subprocess.run(["openssl", "req", *words], cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "host.crt", tmp_path / "ca.crt")
    return tmp_path


def test_the_days_that_a_certificate_has_left(pki, web):
    assert module.certificate(pki / "host.crt") == 9
    assert module.served("127.0.0.1", web({}, pki)) == 9
    with pytest.raises(module.AnswerError):
        module.certificate(pki / "absent.crt")


def test_what_is_known_of_the_certificate_that_clients_see(pki, web, monkeypatch):
    port = web({}, pki)
    shown = module.tls("127.0.0.1", port, "internal")
    assert shown["names"] == []
    assert re.fullmatch("[0-9a-f]{64}", shown["fingerprint"])
    monkeypatch.setattr(module, "PUBLIC", pki / "public.crt")
    monkeypatch.setattr(module, "CERTIFICATES", pki / "state.json")
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null", "-out", "public.crt"]
    names = ["-addext", "subjectAltName=DNS:a.example.com,DNS:b.example.com"]
    subprocess.run(["openssl", "req", *words, *names], cwd=pki, check=True, capture_output=True)
    found = module.tls("127.0.0.1", port, "files")
    assert found["fingerprint"] == shown["fingerprint"] != found["given"]
    assert abs(found["placed"] - time.time()) < 60
    (pki / "state.json").write_text('{"lacking": ["c.example.com"], "turn": 7, "failure": null, "asked": []}')
    found = module.tls("127.0.0.1", port, "acme")
    assert (found["lacking"], found["turn"], found["failure"], found["late"]) == (["c.example.com"], 7, None, None)
    text = (pki / "public.crt").read_text()
    wanted = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-ext", "subjectAltName"]
    printed = subprocess.run(wanted, input=text, capture_output=True, text=True, check=True).stdout
    assert module.parse_certificate(printed)["names"] == ["a.example.com", "b.example.com"]


def test_patroni_is_asked_with_its_certificate_verified(pki, web):
    port = web({"/patroni": (200, '{"a": 1}'), "/cluster": (502, "")}, pki)
    assert module.ask_patroni("127.0.0.1", port, "/patroni") == {"a": 1}
    with pytest.raises(module.AnswerError, match=r"^/cluster answers with status 502$"):
        module.ask_patroni("127.0.0.1", port, "/cluster")
    with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
        module.ask_patroni("localhost", port, "/patroni")


# PostgreSQL and etcd


def test_patroni(monkeypatch):
    said = {
        "state": "running", "role": "replica", "server_version": 170006, "dcs_last_seen": time.time() - 12,
        "failsafe_mode_is_active": True, "patroni": {"version": "4.0.6", "scope": "terrace", "name": "db1"},
        "xlog": {"received_location": 90, "replayed_location": 80, "paused": False},
    }  # fmt: skip
    monkeypatch.setattr(module, "ask_patroni", lambda *words: said)
    assert module.patroni("", 0) == {
        "role": "replica",
        "state": "running",
        "versions": {"patroni": "4.0.6", "postgresql": "17.6"},
        "failsafe": True,
        "unseen": 12,
        "location": 80,
    }
    said["xlog"] = {"location": 100}
    assert module.patroni("", 0)["location"] == 100
    said.clear()
    said |= {"state": "starting", "patroni": {"version": "4.0.6"}}
    starting = module.patroni("", 0)
    assert (starting["unseen"], starting["location"]) == (None, None)


def test_a_cluster(monkeypatch):
    said = {
        "members": [
            {"name": "db1", "role": "leader", "state": "running", "timeline": 4, "host": "10.77.0.41"},
            {
                "name": "db2", "role": "quorum_standby", "state": "streaming", "timeline": 4, "lag": 12,
                "pending_restart": True, "pending_restart_reason": {"wal_level": {}, "max_connections": {}},
            },
            {"name": "db3", "role": "replica", "state": "starting", "lag": "unknown", "pending_restart": True},
        ],
        "pause": True,
    }  # fmt: skip
    monkeypatch.setattr(module, "ask_patroni", lambda *words: said)
    found = module.cluster("", 0)
    assert found["paused"] is True
    assert found["members"] == [
        {"name": "db1", "role": "leader", "state": "running", "timeline": 4, "lag": None, "restart": []},
        {
            "name": "db2", "role": "quorum_standby", "state": "streaming", "timeline": 4, "lag": 12,
            "restart": ["max_connections", "wal_level"],
        },
        {
            "name": "db3", "role": "replica", "state": "starting", "timeline": None, "lag": "unknown",
            "restart": ["a setting"],
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "synchronous"), [({}, False), (False, False), ("off", False), (True, True), ("quorum", True), ("on", True)]
)
def test_whether_commits_wait(monkeypatch, mode, synchronous):
    monkeypatch.setattr(module, "ask_patroni", lambda *words: {"synchronous_mode": mode} if mode != {} else {})
    assert module.settings("", 0) == {"synchronous": synchronous}


def test_etcd(program):
    status = '[{"Endpoint":"e","Status":{"header":{"member_id":18446744073709551615},"version":"3.5.16","leader":2}}]'
    members = (
        '{"members":[{"ID":2,"name":"db1","peerURLs":["https://10.77.0.41:2380"]},'
        '{"ID":18446744073709551615,"peerURLs":["https://10.77.0.42:2380"],"isLearner":true}]}'
    )
    program("etcdctl", f"case \"$*\" in *status) echo '{status}' ;; *list) echo '{members}' ;; esac")
    assert module.etcd_status("10.77.0.42", 2379) == {"id": 18446744073709551615, "leader": 2, "wrong": []}
    assert module.etcd_members("10.77.0.42", 2379) == [
        {"id": 2, "name": "db1", "peers": ["https://10.77.0.41:2380"], "learner": False},
        {"id": 18446744073709551615, "name": "", "peers": ["https://10.77.0.42:2380"], "learner": True},
    ]


# Redis


def test_a_master(monkeypatch):
    text = (
        "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"
        "slave0:ip=10.77.0.32,port=6379,state=online,offset=100,lag=1\r\nmaster_repl_offset:160\r\n"
    )
    monkeypatch.setattr(module, "run", lambda *words: text)
    replica = {"address": "10.77.0.32", "state": "online", "lag": 1, "bytes": 60}
    assert module.redis("cache") == {"role": "master", "replicas": [replica]}


def test_a_replica(monkeypatch):
    text = "role:slave\r\nmaster_host:10.77.0.31\r\nmaster_link_status:down\r\nmaster_sync_in_progress:1\r\n"
    monkeypatch.setattr(module, "run", lambda *words: text)
    assert module.redis("cache") == {"role": "replica", "master": "10.77.0.31", "link": "down", "syncing": True}


def test_a_redis_that_says_something_else():
    with pytest.raises(module.AnswerError, match=r"^NOAUTH Authentication required\.$"):
        module.parse_information("NOAUTH Authentication required.\n")


def test_sentinel(program, monkeypatch, tmp_path):
    settings = tmp_path / "sentinel.env"
    settings.write_text("# managed\nPASSWORD='se cret'\nQUORUM=2\n")
    monkeypatch.setattr(module, "SENTINEL_SETTINGS", settings)
    answer = (
        '[{"name":"cache","ip":"10.77.0.31","port":"6379","flags":"master,s_down","num-slaves":"2",'
        '"num-other-sentinels":"2","quorum":"2"}]'
    )
    program("redis-cli", f"test \"$REDISCLI_AUTH\" = 'se cret' && echo '{answer}'")
    assert module.sentinel("10.77.0.31", 26379) == {
        "cache": {"address": "10.77.0.31", "flags": ["s_down"], "quorum": 2, "sentinels": 3, "replicas": 2}
    }
    program("redis-cli", "echo 'NOAUTH Authentication required.'; echo")
    with pytest.raises(module.AnswerError, match=r"^NOAUTH Authentication required\.$"):
        module.sentinel("10.77.0.31", 26379)


# All of it


def test_what_fails_is_told_beside_what_was_found():
    def refuse() -> None:
        socket.create_connection(("127.0.0.1", 1), 1)

    def crash() -> None:
        raise KeyError("role")

    def late() -> None:
        raise TimeoutError

    found, errors = module.ask(
        {"a": lambda: 1, "b": refuse, "c": crash, "d": late, "e": lambda: Path("/absent").read_text()}
    )
    assert found == {"a": 1}
    assert errors == {
        "b": "Connection refused",
        "c": "an answer that is not understood (KeyError: 'role')",
        "d": "no answer within 3 s",
        "e": "No such file or directory: /absent",
    }


def test_each_tier_is_asked_for_what_it_runs():
    ports = {"http": 1, "https": 1, "pgbouncer": 1, "node_health": 1, "patroni": 1, "etcd_client": 1, "sentinel": 1}

    def asked(*tiers: str, **other: object) -> set[str]:
        given = {
            "tiers": list(tiers), "address": "127.0.0.1", "virtual_address": "", "engine": "haproxy", "ports": ports,
            "balancer_health": "/", "tls": "internal",
            "services": [], "instances": ["cache"], "units": [], "packages": [], "paths": [],
            "archives": False, "backups": False, "proof": False,
        }  # fmt: skip
        return set(module.questions(given | other)) - {"units", "versions", "certificate", "disks"}

    assert asked("loadbalancer") == {"balancer", "served", "tls", "balanced"}
    assert asked("loadbalancer", engine="nginx", virtual_address="x") == {"balancer", "served", "tls", "holds"}
    assert asked("app") == {"pooler", "egress", "ready", "live"}
    assert asked("cache", "sentinel") == {"redis.cache", "sentinel"}
    assert asked("database", "etcd") == {"patroni", "cluster", "settings", "etcd", "members"}
    assert asked("database", archives=True) == {"patroni", "cluster", "settings", "archive"}
    assert asked("backup", backups=True, proof=True) == {"backups", "proof"}
