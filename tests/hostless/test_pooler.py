"""Poolers hold their clients together and are released in every case: wire, guard, rendezvous, and PgBouncer itself."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.guard import guarded
from ansible.module_utils.haproxy_stat import servers_up
from ansible.module_utils.pooler import Pooler, busy_databases
from ansible.module_utils.postgresql_wire import (
    Session,
    WireError,
    connect,
    parse_columns,
    parse_error,
    parse_row,
)
from ansible.module_utils.rendezvous import Conductor, client_context, join, server_context
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from landscape import load

hold = load("plugins/modules/pooler_hold.py", "pooler_hold")
operations = load("plugins/filter/operations.py", "operations_filter")


def wait(condition, seconds: float = 10) -> bool:
    """Wait until a condition holds, and return whether it does in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


# The wire


def test_rows_and_errors_are_read():
    columns = struct.pack("!h", 2) + b"".join(name + b"\0" + bytes(18) for name in (b"name", b"port"))
    assert parse_columns(columns) == ["name", "port"]
    assert parse_row(struct.pack("!hi4si", 2, 4, b"shop", -1)) == ["shop", None]
    assert parse_error(b"SERROR\0C42601\0Mit is not so\0\0") == "it is not so"


def message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content


LOGGED_IN = message(b"R", struct.pack("!i", 0)) + message(b"Z", b"I")


class Server:
    """Answers each statement of one session with what is given for it; ends where its login is another."""

    def __init__(self, folder: Path, login: bytes = LOGGED_IN, **answers: bytes) -> None:
        self._login = login
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.7000"))
        self._listener.listen()
        self._answers = answers
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(BrokenPipeError):
            connection.recv(65536)
            connection.sendall(self._login)
            if self._login != LOGGED_IN:
                return
            while statement := connection.recv(65536)[5:-1]:
                connection.sendall(self._answers[statement.decode()])


def me() -> str:
    """Return the name of the user that these tests run as."""
    return pwd.getpwuid(os.geteuid()).pw_name


def session(folder: Path) -> Session:
    return Session(connect(str(folder), 7000, me()), "pgbouncer", "pgbouncer")


def test_a_session_reads_answers_and_survives_an_error(tmp_path):
    row = message(b"T", struct.pack("!h", 1) + b"name\0" + bytes(18)) + message(
        b"D", struct.pack("!hi4s", 1, 4, b"shop")
    )
    ready = message(b"C", b"SHOW\0") + message(b"Z", b"I")
    Server(
        tmp_path,
        good=message(b"N", b"Mnotice\0\0") + row + ready,
        bad=message(b"E", b"SERROR\0Mno such database: x\0\0") + message(b"Z", b"I"),
        last=message(b"E", b"SFATAL\0Mgoing away\0\0"),
    )
    with session(tmp_path) as console:
        assert console.query("good") == [{"name": "shop"}]
        with pytest.raises(WireError, match="no such database"):
            console.query("bad")
        assert console.query("good") == [{"name": "shop"}]
        with pytest.raises(WireError, match="going away"):
            console.query("last")


def test_a_server_that_is_not_there_is_no_surprise(tmp_path):
    with pytest.raises(OSError):  # noqa: PT011 (whichever)
        session(tmp_path)


def test_a_server_that_ends_before_it_is_ready_is_told(tmp_path):
    Server(tmp_path, login=message(b"E", b"SFATAL\0C08P01\0Mno such user\0\0"))
    with pytest.raises(WireError, match=r"^no such user$"):
        session(tmp_path)
    (tmp_path / "silent").mkdir()
    Server(tmp_path / "silent", login=b"")
    with pytest.raises(ConnectionResetError, match="the server ended the session"):
        session(tmp_path / "silent")


def test_a_connection_is_made_as_another_user_and_leaves_this_one_as_it_was(tmp_path):
    Server(tmp_path)
    before = os.geteuid(), os.getegid()
    connect(str(tmp_path), 7000, me()).close()
    with pytest.raises(WireError, match="there is no user nobody-of-this-name"):
        connect(str(tmp_path), 7000, "nobody-of-this-name")
    assert (os.geteuid(), os.getegid()) == before


# What is decided from what is found


def test_sessions_are_not_waited_for():
    pools = [
        {"database": "shop", "pool_mode": "transaction", "sv_active": "1", "sv_idle": "0", "cl_waiting": "5"},
        {"database": "stock", "pool_mode": "transaction", "sv_active": "0", "sv_idle": "0", "cl_waiting": "5"},
        {"database": "shop_session", "pool_mode": "session", "sv_active": "2", "sv_idle": "0", "cl_waiting": "0"},
        {"database": "other", "pool_mode": "transaction", "sv_active": "2", "sv_idle": "0", "cl_waiting": "0"},
    ]
    assert busy_databases(pools, ["shop", "stock", "shop_session"]) == {"shop"}


@pytest.mark.parametrize(
    ("primary", "replicas", "moved", "follows"),
    [
        ({"db2"}, {"db1", "db3"}, True, True),
        ({"db2"}, {"db2", "db3"}, True, False),
        ({"db2"}, {"db2", "db3"}, False, True),
        ({"db1", "db2"}, {"db3"}, True, False),
        ({"db1"}, {"db3"}, True, False),
        (set(), {"db3"}, True, False),
    ],
)
def test_a_node_proxy_follows_when_it_leads_to_the_primary_alone(primary, replicas, moved, follows):
    assert hold.follows({"postgresql.primary": primary, "postgresql.replica": replicas}, "db2", moved) is follows


def test_servers_that_are_up(tmp_path):
    text = "# pxname,svname,status,\npostgresql.primary,db1,UP,\npostgresql.primary,db2,DOWN 1/2,\nx,y,MAINT,\n\n"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "admin.sock"))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(100)
        connection.sendall(text.encode())
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    assert servers_up(str(tmp_path / "admin.sock")) == {"postgresql.primary": {"db1"}, "x": set()}


def test_the_plan_of_the_leaders_host_counts():
    step = {"action": "switchover", "text": "hand over from db2 to db3"}
    its = {"id": "x", "leader": "db2", "steps": [step], "problems": [], "pending": {}}
    members = [{"name": name} for name in ("db1", "db2", "db3")]
    hostvars = {"db1": {"postgresql_plan": its | {"id": "y"}}, "db2": {"postgresql_plan": its}, "db3": {}}
    found = operations.operation_plan(members, hostvars)
    assert (found["id"], found["conductor"], found["due"]) == ("x", "db2", True)
    assert found["said"] == "PostgreSQL: db2 leads; to do: hand over from db2 to db3"
    unreached = hostvars | {"db2": {"postgresql_plan": {"unreachable": True}}}
    assert operations.operation_plan(members, unreached)["conductor"] == "db1"
    refused = {"db1": {"postgresql_plan": its | {"problems": ["no"]}}, "db2": {}, "db3": {}}
    assert not operations.operation_plan(members, refused)["due"]
    assert not operations.operation_plan(members, {name: {} for name in ("db1", "db2", "db3")})["due"]


def test_only_nodes_that_were_reached_take_part():
    members = [{"name": name} for name in ("app1", "app2", "app3")]
    hostvars = {
        "app1": {"pooler_hold": {"ansible_job_id": "1", "started": 1}},
        "app2": {"pooler_hold": {"unreachable": True}},
        "app3": {},
    }
    assert operations.operation_poolers(members, hostvars) == ["app1"]
    pings = {
        "app1": {"operation_ping": {"unreachable": True}},
        "app2": {"operation_ping": {"ping": "pong"}},
        "app3": {},
    }
    assert operations.operation_reached(members, pings) == "app2"


# The guard


def held_by(path: Path, seconds: float) -> int:
    """Have a process hold something, which the file stands for, and return its number."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), guarded(lambda: path.unlink(missing_ok=True), seconds):
            path.touch()
            time.sleep(60)
        os._exit(0)
    assert wait(path.exists)
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_held_is_released_at_once(tmp_path, number):
    child = held_by(tmp_path / "held", 60)
    os.kill(child, number)
    os.waitpid(child, 0)
    assert wait(lambda: not (tmp_path / "held").exists(), 5)


def test_what_a_stopped_process_holds_is_released_in_time(tmp_path):
    child = held_by(tmp_path / "held", 1)
    os.kill(child, signal.SIGSTOP)
    try:
        assert wait(lambda: not (tmp_path / "held").exists(), 10)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_block_releases_at_its_end_and_its_guard_does_not_again(tmp_path):
    released = tmp_path / "released"

    def release() -> None:
        with released.open("a") as file:
            file.write("x")

    with guarded(release, 60):
        pass
    time.sleep(0.3)
    assert released.read_text() == "x"


# The rendezvous


@pytest.fixture(scope="module")
def certified(tmp_path_factory) -> Path:
    """A folder with a certificate for 127.0.0.1, which is its own authority."""
    folder = tmp_path_factory.mktemp("pki")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return folder


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def conduct(certified: Path, port: int, expected: list[str]) -> Conductor:
    context = server_context(str(certified / "crt"), str(certified / "key"))
    return Conductor("127.0.0.1", port, context, "token", expected)


def come(certified: Path, port: int, name: str, **greeting):
    context = client_context(str(certified / "crt"))
    return join("127.0.0.1", port, context, lambda: {"token": "token", "name": name, "ready": True} | greeting)


def test_all_who_come_are_told_the_same(certified, port):
    def attend(name: str) -> None:
        peer = come(certified, port, name)
        while (message := peer.receive(10))["do"] != "end":
            peer.send({"name": name, "did": message["do"]})

    with conduct(certified, port, ["app1", "app2"]) as conductor:
        threads = [threading.Thread(target=attend, args=(name,)) for name in ("app1", "app2")]
        for thread in threads:
            thread.start()
        assert conductor.gather(10) == []
        answers = conductor.tell({"do": "hold"}, 5)
        assert answers == {name: {"name": name, "did": "hold"} for name in ("app1", "app2")}
        conductor.dismiss()
        for thread in threads:
            thread.join(10)


def test_who_does_not_come_is_named_and_who_has_no_pooler_is_not_waited_for(certified, port):
    with conduct(certified, port, ["app1", "app2", "app3"]) as conductor:
        peer = come(certified, port, "app1")
        come(certified, port, "app2", ready=False, note="it does not run")
        assert conductor.gather(2) == ["app3"]
        assert conductor.absent == {"app2": "it does not run"}
        peer.close()


def test_who_has_another_token_is_sent_away(certified, port):
    with conduct(certified, port, ["app1"]) as conductor:
        peer = come(certified, port, "app1", token="of-another-operation")  # noqa: S106
        assert peer.receive(5) == {"do": "end"}
        assert conductor.gather(0.5) == ["app1"]


def test_a_pooler_that_is_lost_is_an_error_of_its_own(certified, port):
    with conduct(certified, port, ["app1"]) as conductor:
        peer = come(certified, port, "app1")
        assert conductor.gather(5) == []
        peer.close()
        assert conductor.tell({"do": "hold"}, 5)["app1"]["error"]


def test_a_pooler_notices_that_its_conductor_is_gone(certified, port):
    with conduct(certified, port, ["app1"]) as conductor:
        peer = come(certified, port, "app1")
        assert conductor.gather(5) == []
    with pytest.raises(OSError):  # noqa: PT011 (whichever)
        peer.receive(5)


def test_a_conductor_of_another_authority_is_refused(certified, port, tmp_path):
    with conduct(certified, port, ["app1"]), pytest.raises(OSError):  # noqa: PT011 (whichever)
        join("127.0.0.1", port, client_context("/etc/ssl/certs/ca-certificates.crt"), dict)


# With PgBouncer


@pytest.fixture
def pooler(tmp_path) -> Iterator[Pooler]:
    """A PgBouncer whose databases lead nowhere."""
    if not shutil.which("pgbouncer") or os.geteuid() != 0:
        pytest.skip("there is no pgbouncer on this machine, or no root to run it as another user")
    folder = Path("/tmp") / f"terrace-pooler-{os.getpid()}"  # noqa: S108 (a path of a socket is short)
    folder.mkdir(mode=0o755)
    shutil.chown(folder, "postgres")
    (folder / "ini").write_text(
        "[databases]\n"
        "shop = host=127.0.0.1 port=9 dbname=shop pool_mode=transaction\n"
        "shop_read = host=127.0.0.1 port=10 dbname=shop pool_mode=transaction\n"
        "shop_session = host=127.0.0.1 port=9 dbname=shop pool_mode=session\n"
        f"[pgbouncer]\nlisten_port = 7001\nunix_socket_dir = {folder}\nauth_type = any\n"
    )
    daemon = subprocess.Popen(
        ["pgbouncer", folder / "ini"], user="postgres", group="postgres", stderr=subprocess.DEVNULL
    )
    try:
        assert wait((folder / ".s.PGSQL.7001").exists)
        yield Pooler(str(folder), 7001)
    finally:
        daemon.terminate()
        daemon.wait(10)
        shutil.rmtree(folder)


def held(pooler: Pooler) -> set[str]:
    return {database.name for database in pooler.databases() if database.held}


def test_pgbouncer_is_held_by_where_its_databases_lead(pooler):
    assert {database.name for database in pooler.databases()} == {"shop", "shop_read", "shop_session"}
    assert pooler.hold([9], 2) == []
    assert held(pooler) == {"shop", "shop_session"}
    assert pooler.hold([9, 10], 2) == []
    assert held(pooler) == {"shop", "shop_read", "shop_session"}
    pooler.release()
    assert held(pooler) == set()
    pooler.release()


def test_pgbouncer_is_released_when_its_holder_is_killed(pooler):
    child = os.fork()
    if child == 0:
        with guarded(pooler.release, 60):
            pooler.hold([9, 10], 2)
            time.sleep(60)
        os._exit(0)
    assert wait(lambda: len(held(pooler)) == 3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert wait(lambda: not held(pooler), 5)
