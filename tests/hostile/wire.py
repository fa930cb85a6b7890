"""What no client of HTTP would send, sent: bytes as they are over TLS, and frames of HTTP/2 made by hand."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# RFC 9113, 6.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Target:
    """Where requests go: a balancer, and what it is to be called.

    Parameters:
        address, port: of the engine.
        host: the name that the route wants.
        authority: the file of the certificate authority; none for a port without TLS.
    """

    address: str
    port: int
    host: str
    authority: Path | None = None

    def connect(self, protocol: str = "http/1.1", timeout: float = 3) -> socket.socket:
        """Return a connection that speaks this protocol, `http/1.1` or `h2`.

        Errors:
            OSError, where there is none.
        """
        raw = socket.create_connection((self.address, self.port), timeout=timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.authority is None:
            return raw
        context = ssl.create_default_context(cafile=self.authority)
        # Some targets are called by a name that is on no certificate.
        context.check_hostname = False
        context.set_alpn_protocols([protocol])
        return context.wrap_socket(raw, server_hostname=self.host)


# Seconds of silence after which an answer that has begun is taken for whole.
SILENCE = 0.3


def exchange(target: Target, parts: Iterable[bytes | float], wait: float = 1, protocol: str = "http/1.1") -> bytes:
    """Send parts over one connection, a number being a pause in seconds, and return all that came back.

    Parameters:
        wait: seconds to listen for after the last part; a connection that is closed ends it sooner.
    """
    got = b""
    with target.connect(protocol) as connection:
        with contextlib.suppress(OSError):
            for part in parts:
                if isinstance(part, bytes):
                    connection.sendall(part)
                else:
                    time.sleep(part)
        end = time.monotonic() + wait
        with contextlib.suppress(OSError):
            while (left := end - time.monotonic()) > 0:
                begun = statuses(got, protocol)
                connection.settimeout(min(left, SILENCE) if begun else left)
                data = connection.recv(65536)
                if not data:
                    break
                got += data
    return got


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Return an integer of HPACK with a prefix of so many bits (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    found, value = [first | most], value - most
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    return bytes([*found, value])


def packed(headers: Headers, indexed: bool = False) -> bytes:
    """Return headers as HPACK has them: literals, nothing of them compressed (RFC 7541, 6.2).

    Parameters:
        indexed: whether they enter the table, from which later ones may name them.
    """
    first = 0x40 if indexed else 0
    return b"".join(
        bytes([first]) + integer(len(name), 7) + name + integer(len(value), 7) + value for name, value in headers
    )


def head(target: Target, path: bytes, method: bytes = b"GET") -> list[tuple[bytes, bytes]]:
    """Return the pseudo headers of a request."""
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":path", path),
        (b":authority", target.host.encode()),
    ]


def asked(headers: Headers, stream: int = 1, body: bytes | None = None) -> bytes:
    """Return the frames of one request."""
    ending = END_HEADERS | (END_STREAM if body is None else 0)
    frames = frame(HEADERS, ending, stream, packed(headers))
    return frames if body is None else frames + frame(DATA, END_STREAM, stream, body)


BEGIN = PREFACE + frame(SETTINGS, 0, 0)


def statuses(answer: bytes, protocol: str = "http/1.1") -> list[str]:
    """Return what the answers were: statuses, and over HTTP/2 also `reset` and `goaway`."""
    if protocol == "http/1.1":
        return [status.decode() for status in re.findall(rb"(?m)^HTTP/1\.[01] (\d{3})", answer)]
    found = []
    while len(answer) >= 9:
        length, kind = int.from_bytes(answer[:3], "big"), answer[3]
        payload, answer = answer[9 : 9 + length], answer[9 + length :]
        if kind == RST_STREAM:
            found.append("reset")
        elif kind == GOAWAY:
            found.append(f"goaway {int.from_bytes(payload[4:8], 'big')}")
        elif kind == HEADERS:
            found.append(status(payload))
    return found


def status(payload: bytes) -> str:
    """Return the status of an answer's first header block (RFC 7541, appendix A: 8 to 14 are whole, or the name)."""
    known = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
    # A change of the table's size comes first.
    while payload and payload[0] & 0xE0 == 0x20:
        payload = payload[1:]
    if payload[:1] and payload[0] in known:
        return known[payload[0]]
    # A literal whose name is that of 8: three digits, as they are or in Huffman's code of 5 or 6 bits each.
    if payload[:1] and payload[0] & 0x0F == 8 and len(payload) > 2:
        size, text = payload[1] & 0x7F, payload[2 : 2 + (payload[1] & 0x7F)]
        return digits(text) if payload[1] & 0x80 else text[:size].decode("latin-1")
    return "?"


def digits(coded: bytes) -> str:
    """Return digits that are in Huffman's code (RFC 7541, appendix B)."""
    bits, found = "".join(f"{byte:08b}" for byte in coded), ""
    codes = {f"{number:05b}": str(number) for number in range(3)} | {
        f"{0x19 + number - 3:06b}": str(number) for number in range(3, 10)
    }
    while len(found) < 3:
        size = next((size for size in (5, 6) if bits[:size] in codes), 0)
        if not size:
            return "?"
        found, bits = found + codes[bits[:size]], bits[size:]
    return found
