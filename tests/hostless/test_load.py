"""The fleet tests' load: what it sends once more, and what it counts as failed."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from landscape import load

fleet = load("tests/fleet/lab.py", "fleet_lab")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server and a client need for TLS between them."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now().astimezone()
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


@pytest.fixture
def resets(contexts, monkeypatch):
    """Return a function that has a load ask a server which resets each connection after some answers.

    A reset comes while the client waits between two requests, as when a virtual address has moved.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(tls: bool, answers: int) -> None:
        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                client = contexts[0].wrap_socket(client, server_side=True) if tls else client
                with suppress(OSError):  # the load has ended
                    for _ in range(answers):
                        client.recv(65536)
                        client.sendall(ANSWER)
                    if not answers:
                        client.recv(65536)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

        def connect(*_: object) -> HTTPConnection:
            port = listener.getsockname()[1]
            return HTTPSConnection("localhost", port, context=contexts[1]) if tls else HTTPConnection("localhost", port)

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        monkeypatch.setattr(fleet, "connect", connect)

    yield serve
    # It ends before its descriptor is free: it would accept what a later test's server listens for.
    listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
    listener.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_reused_connection_that_was_reset_is_opened_anew(resets, tls):
    resets(tls, answers=2)
    with fleet.Load("localhost", "/", clients=1, pause=0.02) as clients:
        fleet.wait(lambda: clients.good >= 9 or clients.failed, 20, "nine answers")
    assert not clients.failed, clients
    assert clients.reopened >= 3, clients


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_new_connection_that_was_reset_is_a_failure(resets, tls):
    resets(tls, answers=0)
    with fleet.Load("localhost", "/", clients=1, pause=0.02) as clients:
        time.sleep(0.2)
    assert clients.failed, clients
    assert clients.good == clients.reopened == 0, clients


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_write_without_a_key_is_not_sent_twice(resets, tls):
    resets(tls, answers=2)
    with fleet.Load("localhost", "/", clients=1, pause=0.02, method="POST") as clients:
        fleet.wait(lambda: clients.failed, 20, "a failure")
    assert clients.reopened == 0, clients
