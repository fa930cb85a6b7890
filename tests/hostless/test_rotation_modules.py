"""The modules of a change of a secret: who has another value, what a login comes to, and which authority signs."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from landscape import load

stale = load("plugins/modules/service_stale.py", "service_stale")
login = load("plugins/modules/login_tried.py", "login_tried")
authority = load("plugins/modules/authority_stage.py", "authority_stage")
shown = load("plugins/modules/certificate_shown.py", "certificate_shown")


def answer(module, capsys, **arguments) -> dict:
    """Run a module as Ansible does, and return what it answers."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


# Processes of a service


@pytest.fixture
def proc(tmp_path) -> Callable[..., None]:
    """Makes a process as the kernel shows it."""

    def make(number: int, group: str, **environment: str) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "cgroup").write_text(f"0::{group}\n")
        (directory / "environ").write_bytes(b"\0".join(f"{k}={v}".encode() for k, v in environment.items()) + b"\0")

    return make


SLICE = "/svc.slice/svc-shop.slice"


def test_processes_with_another_value_are_found_and_no_value_is_told(tmp_path, proc, capsys):
    proc(10, f"{SLICE}/svc-shop@blue.service", NAME="old", OTHER="x")
    proc(11, f"{SLICE}/svc-shop@green.service", NAME="new")
    proc(12, f"{SLICE}/svc-shop-report.service", NAME="older")
    proc(13, f"{SLICE}/run-u12.service", OTHER="x")
    # Of other services, one of which has a slice within that of this one.
    proc(14, f"{SLICE}/svc-shop-two.slice/svc-shop-two@blue.service", NAME="old")
    proc(15, "/svc.slice/svc-other.slice/svc-other@blue.service", NAME="old")
    (tmp_path / "16").mkdir()
    given = {"name": "shop", "variables": {"NAME": "new"}, "proc": str(tmp_path)}
    found = answer(stale, capsys, **given, slot="blue")
    assert found["stale"] == ["svc-shop-report.service (12): NAME", "svc-shop@blue.service (10): NAME"]
    assert found["before"] == {"NAME": "old"}
    assert answer(stale, capsys, **given)["before"] == {}
    waited = answer(stale, capsys, **given, wait=0)
    assert waited["failed"] is True
    assert "svc-shop-report.service (12): NAME" in waited["msg"]
    assert "old" not in waited["msg"].replace("older", "old").split()


def test_a_process_that_ends_meanwhile_is_waited_for(tmp_path, proc, capsys, monkeypatch):
    proc(10, f"{SLICE}/svc-shop-report.service", NAME="old")

    def end(_seconds: float) -> None:
        for name in ("cgroup", "environ"):
            (tmp_path / "10" / name).unlink()

    monkeypatch.setattr(stale.time, "sleep", end)
    given = {"name": "shop", "variables": {"NAME": "new"}, "proc": str(tmp_path), "wait": 30}
    assert answer(stale, capsys, **given)["stale"] == []


# Logins


class Server(socketserver.StreamRequestHandler):
    """As much of Redis as asks for a password."""

    def handle(self) -> None:
        words = []
        while len(words) < 3:
            line = self.rfile.readline()
            if not line.startswith((b"*", b"$")):
                words.append(line.strip().decode())
        self.wfile.write(b"+OK\r\n" if words[2] == "right" else self.server.refusal)


@pytest.fixture
def redis() -> Iterator[socketserver.TCPServer]:
    """Something on a port that takes one password."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        server.refusal = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("word", "expect"), [("right", "accepted"), ("wrong", "refused")])
def test_what_redis_says_to_a_password(redis, capsys, word, expect):
    given = {"daemon": "redis", "address": "127.0.0.1", "port": redis.server_address[1], "user": "shop", "wait": 0}
    said = answer(login, capsys, **given, password=word, expect=expect)
    assert "failed" not in said
    other = "accepted" if expect == "refused" else "refused"
    said = answer(login, capsys, **given, password=word, expect=other)
    assert said["failed"] is True
    assert said["msg"].endswith(f"is {expect}, and has to be {other}")


def test_what_is_no_answer_to_a_password_is_a_failure(redis, capsys):
    given = {"daemon": "redis", "address": "127.0.0.1", "user": "shop", "password": "wrong", "expect": "refused"}
    redis.refusal = b"-LOADING Redis is loading the dataset in memory\r\n"
    said = answer(login, capsys, **given, port=redis.server_address[1], wait=0)
    assert "could not be tried: LOADING" in said["msg"]
    said = answer(login, capsys, **given, port=1, wait=0)
    assert "could not be tried" in said["msg"]


@pytest.mark.parametrize(
    ("code", "words", "expect", "told"),
    [
        (0, "", "accepted", ""),
        (2, 'FATAL:  password authentication failed for user "shop_app_a"', "refused", ""),
        (2, "FATAL:  SASL authentication failed", "refused", ""),
        (2, "connection refused", "refused", "could not be tried: connection refused"),
        (2, "FATAL:  query_wait_timeout", "refused", "could not be tried"),
        (0, "", "refused", "is accepted, and has to be refused"),
    ],
)
def test_what_postgresql_says_to_a_password(tmp_path, capsys, monkeypatch, code, words, expect, told):
    """A psql of the test says it; that it is given the password in its environment alone is looked at, too."""
    program = tmp_path / "psql"
    program.write_text(
        '#!/bin/sh\nset -e\ncase "$*" in *sesame*) exit 9 ;; esac\n[ "$PGPASSWORD" = sesame ]\n'
        f"printf %s '{words}' >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    given = {"daemon": "postgresql", "address": "127.0.0.1", "port": 6432, "user": "shop_app_a", "database": "shop"}
    given |= {"password": "sesame"}
    said = answer(login, capsys, **given, expect=expect, wait=0)
    assert told in said.get("msg", "")
    assert ("failed" in said) == bool(told)


# The authority


def pem(name: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def home(tmp_path) -> Path:
    """An authority, and one that is to be the next."""
    for name in ("ca", "next"):
        (tmp_path / f"{name}.crt").write_text(pem(name))
        (tmp_path / f"{name}.key").write_text(f"{name}'s key")
    return tmp_path


def state(home: Path) -> tuple[str, str]:
    return (home / "ca.crt").read_text(), (home / "ca.key").read_text()


def test_an_authority_takes_over_in_three_stages_each_of_which_can_be_had_again(home):
    for _ in range(2):
        authority.accept(home)
        assert state(home) == (pem("ca") + pem("next"), "ca's key")
    for _ in range(2):
        authority.use(home)
        assert state(home) == (pem("next") + pem("ca"), "next's key")
    for _ in range(2):
        authority.retire(home)
        assert state(home) == (pem("next"), "next's key")
    assert sorted(path.name for path in home.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_change_that_was_cut_off_is_done_once_more(home, monkeypatch, steps):
    """Ended after each of the steps in turn: the certificates, the key, and what said that it was not done."""
    authority.accept(home)
    left = [steps]

    def counted(real):
        def call(*words, **more):
            if not left[0]:
                raise InterruptedError
            left[0] -= 1
            return real(*words, **more)

        return call

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        authority.use(home)
    authority.use(home)
    assert state(home) == (pem("next") + pem("ca"), "next's key")


def test_what_is_not_there_is_refused(home, capsys):
    (home / "next.key").unlink()
    assert "none that is to be the next" in answer(authority, capsys, directory=str(home), stage="accept")["msg"]
    assert "does not yet" in answer(authority, capsys, directory=str(home), stage="retire")["msg"]
    (home / "next.crt").unlink()
    assert "no next authority" in answer(authority, capsys, directory=str(home), stage="use")["msg"]
    said = answer(authority, capsys, directory=str(home), stage="retire")
    assert (said["changed"], said["trusted"]) == (False, 1)


# What a port shows


def write_pair(home: Path, signer: tuple | None, name: str) -> tuple:
    """Write host.crt and host.key of a name into a folder, and return both; without a signer it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    issuer, signing = (signer[0].subject, signer[1]) if signer else (subject, key)
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        # As the role has them: by these, one of two authorities of the same name is found.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .sign(signing, hashes.SHA256())
    )
    home.mkdir(exist_ok=True)
    (home / "host.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (home / "host.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


class Shows(socketserver.BaseRequestHandler):
    """Shows a certificate, to a client of PostgreSQL after it asked for TLS."""

    def handle(self) -> None:
        if self.server.postgresql:
            assert self.request.recv(8) == shown.TLS_PLEASE
            self.request.sendall(b"S")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.home / "host.crt", self.server.home / "host.key")
        with contextlib.suppress(OSError), context.wrap_socket(self.request, server_side=True) as client:
            client.recv(1)


@pytest.fixture(params=[False, True], ids=["tls", "postgresql"])
def port(request, tmp_path) -> Iterator[socketserver.TCPServer]:
    """A port, and a host whose certificate it shows."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shows) as server:
        server.postgresql = request.param
        server.authority = write_pair(tmp_path / "authority", None, "Lab")
        server.home = tmp_path / "shown"
        write_pair(server.home, server.authority, "db1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(port: socketserver.TCPServer, home: Path, capsys) -> dict:
    ports = [{"name": "it", "port": port.server_address[1], "postgresql": port.postgresql}]
    return answer(shown, capsys, address="127.0.0.1", ports=ports, directory=str(home), wait=0)


def test_a_port_shows_the_hosts_certificate_or_another_one(port, tmp_path, capsys):
    host = tmp_path / "host"
    shutil.copytree(port.home, host)
    trusted = (tmp_path / "authority/host.crt").read_text()
    (host / "ca.crt").write_text(trusted)
    assert ask(port, host, capsys)["shown"] == ["it"]
    # The daemon goes on with the one before.
    write_pair(host, port.authority, "db1")
    assert "shows another certificate than the host has" in ask(port, host, capsys)["msg"]
    # The host's own, which nobody takes who trusts the new authority alone: of the same name, with another key.
    shutil.copytree(port.home, host, dirs_exist_ok=True)
    write_pair(tmp_path / "next", None, "Lab")
    (host / "ca.crt").write_text((tmp_path / "next/host.crt").read_text())
    assert "certificate verify failed" in ask(port, host, capsys)["msg"]
    (host / "ca.crt").write_text((tmp_path / "next/host.crt").read_text() + trusted)
    assert ask(port, host, capsys)["shown"] == ["it"]
    # What a load balancer has from elsewhere is none of ours.
    write_pair(port.home, write_pair(tmp_path / "public", None, "Public"), "shop.example.com")
    assert ask(port, host, capsys)["shown"] == ["it"]
