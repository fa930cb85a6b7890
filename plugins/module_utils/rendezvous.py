"""How the poolers of all app nodes and whoever moves the primary act as one, without a round trip of Ansible's between.

A task of Ansible takes up to a second on each host, which is too long between the pause of a pooler, the switch and
its end. So for the time of an operation one database host, the conductor, listens on a port; a job on each app node
connects to it, and does as it is told: `hold`, `release`, `end`. The connection is TLS by the environment's authority,
and a token that only this operation has says who belongs to it. Messages are JSON objects, one a line.

Whatever breaks ends in a release: a connection that is lost, a conductor that is too slow, and the guard of the pause
where the job itself is gone.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LONGEST_LINE = 65536
# For a handshake and a greeting; both sides are on one network.
GREETING_SECONDS = 5.0


class Peer:
    """The other end of a connection.

    Parameters:
        connection: the connection.
        name: who it is.
    """

    def __init__(self, connection: socket.socket, name: str = "") -> None:
        self._connection = connection
        self._buffer = b""
        self.name = name

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; raises OSError where the connection is gone."""
        self._connection.settimeout(GREETING_SECONDS)
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict[str, Any]:
        """Return the next message; raises OSError where none comes in time, or the connection is gone."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing was heard of it for {seconds:.0f} s")
            self._connection.settimeout(left)
            more = self._connection.recv(LONGEST_LINE)
            if not more:
                raise ConnectionResetError("it ended the connection")
            self._buffer += more
            if len(self._buffer) > LONGEST_LINE:
                raise ConnectionAbortedError("it sent a line that is too long")
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ConnectionAbortedError("it sent something else than a message")
        return message

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS context of a conductor."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context


def client_context(authority: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the environment's authority alone, and verifies names and addresses."""
    return ssl.create_default_context(cafile=authority)


def join(address: str, port: int, context: ssl.SSLContext, greeting: Callable[[], dict[str, Any]]) -> Peer:
    """Connect to a conductor and greet it.

    Parameters:
        address, port: where it would listen.
        context: a `client_context`.
        greeting: returns `token`, `name`, and whether it is `ready`; it is not asked where nobody listens.
    Errors:
        OSError where nobody listens there, or it is none of ours.
    """
    raw = socket.create_connection((address, port), timeout=1.0)
    try:
        raw.settimeout(GREETING_SECONDS)
        peer = Peer(context.wrap_socket(raw, server_hostname=address))
        peer.send(greeting())
    except BaseException:
        raw.close()
        raise
    return peer


class Conductor:
    """Listens for the poolers of an operation while the block lasts, and tells all of them the same.

    Parameters:
        address, port: where to listen.
        context: a `server_context`.
        token: what a pooler of this operation knows.
        expected: the names of the nodes whose poolers are to come.
    Errors:
        OSError where it cannot listen.
    """

    def __init__(self, address: str, port: int, context: ssl.SSLContext, token: str, expected: list[str]) -> None:
        self._where = (address, port)
        self._context = context
        self._token = token
        self.expected = set(expected)
        # Those without a pooler that could be held, with the reason.
        self.absent: dict[str, str] = {}
        self._peers: dict[str, Peer] = {}
        self._arrived = threading.Condition()

    def __enter__(self) -> Conductor:
        family = socket.getaddrinfo(*self._where, type=socket.SOCK_STREAM)[0][0]
        self._listener = socket.create_server(self._where, family=family, backlog=512)
        self._listener.settimeout(0.2)
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._listener.close()
        with self._arrived:
            for peer in self._peers.values():
                peer.close()

    def _accept(self) -> None:
        while self._open:
            try:
                raw, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._greet, args=(raw,), daemon=True).start()

    def _greet(self, raw: socket.socket) -> None:
        raw.settimeout(GREETING_SECONDS)
        try:
            peer = Peer(self._context.wrap_socket(raw, server_side=True))
            greeting = peer.receive(GREETING_SECONDS)
            if not hmac.compare_digest(str(greeting.get("token")).encode(), self._token.encode()):
                # A pooler of an operation that was cut off: it has nothing to wait for.
                peer.send({"do": "end"})
                raise PermissionError("it is of another operation")
        except (OSError, ValueError):
            raw.close()
            return
        peer.name = str(greeting.get("name"))
        with self._arrived:
            if not self._open:
                peer.close()
                return
            if greeting.get("ready"):
                self._peers[peer.name] = peer
                self.absent.pop(peer.name, None)
            else:
                self.absent[peer.name] = str(greeting.get("note"))
                peer.close()
            self._arrived.notify_all()

    def gather(self, seconds: float) -> list[str]:
        """Wait until all expected poolers have come, and return the names of those that have not."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while missing := self.expected - set(self._peers) - set(self.absent):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left)
            return sorted(missing)

    def tell(self, message: dict[str, Any], seconds: float) -> dict[str, dict[str, Any]]:
        """Send all poolers a message at the same time, and return the answers by name.

        A pooler that does not answer has an answer with its `error`.
        """
        peers = list(self._peers.values())
        with ThreadPoolExecutor(max_workers=max(1, len(peers))) as pool:
            return dict(pool.map(lambda peer: (peer.name, self._ask(peer, message, seconds)), peers))

    def dismiss(self) -> None:
        """Tell all poolers that the operation has ended; nobody answers that."""
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.send({"do": "end"})

    @staticmethod
    def _ask(peer: Peer, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            peer.send(message)
            return peer.receive(seconds)
        except (OSError, ValueError) as error:
            return {"error": str(error)}
