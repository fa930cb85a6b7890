"""A session with PostgreSQL, or with PgBouncer's console, over a unix socket: simple queries, and nothing else.

App nodes have no psql, and one that had to be started for each question would take longer than a pooler may be paused.
Both daemons know the operating system's user at the other end of a unix socket (`peer`), so there is no password.

The protocol (PostgreSQL's manual, chapter 54): every message but the first is a byte that names it, the length of the
rest with these four bytes, and the rest.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
from collections.abc import Iterator

VERSION = 196608  # 3.0
# Longer than any answer that is asked for here; something else is at the other end where one claims to be.
LONGEST = 16 * 1024 * 1024


class WireError(Exception):
    """The server refused something, or did not speak the protocol; the text is its own where it said one."""


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Have the other end of a socket that is connected meanwhile see another user, where this one is root.

    It is the whole process that acts so: nothing else may go on in it meanwhile.
    """
    before = os.geteuid()
    try:
        wanted = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise WireError(f"there is no user {user}") from None
    if before not in (0, wanted):
        raise WireError(f"only root and {user} can connect as {user}")
    os.seteuid(wanted)
    try:
        yield
    finally:
        os.seteuid(before)


def connect(directory: str, port: int, system_user: str = "postgres", timeout: float = 5.0) -> socket.socket:
    """Return a connection on which no word was said yet.

    Parameters:
        directory, port: where the unix socket is, as clients name it.
        system_user: the operating system's user that the server is to see.
        timeout: seconds that each answer may take.
    Errors:
        OSError where the server is not reached; WireError where nobody can connect as that user.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        with acting_as(system_user):
            client.connect(f"{directory}/.s.PGSQL.{port}")
    except BaseException:
        client.close()
        raise
    return client


class Session:
    """One session.

    Parameters:
        client: what `connect` returned; it is closed with the session, and where there is none.
        user, database: whom to log in as, and into what.
    Errors:
        OSError where the server says nothing; WireError where it refuses.
    """

    def __init__(self, client: socket.socket, user: str, database: str) -> None:
        self._buffer = b""
        self._socket = client
        try:
            words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database))
            self._socket.sendall(struct.pack("!ii", len(words) + 9, VERSION) + words + b"\0")
            self.answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; what was sent goes on to its end."""
        self._socket.close()

    def send(self, statement: str) -> None:
        """Send a statement without waiting for its answer."""
        text = statement.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)

    def query(self, statement: str) -> list[dict[str, str | None]]:
        """Return the rows that a statement yields, each by the names of its columns.

        Errors:
            WireError where the server refuses it; the session can be used again.
        """
        self.send(statement)
        return self.answer()

    def answer(self) -> list[dict[str, str | None]]:
        """Wait until the server is ready for a statement, and return the rows of the one before."""
        names: list[str] = []
        rows: list[dict[str, str | None]] = []
        error = ""
        while True:
            kind, content = self._message()
            if kind == b"Z":
                if error:
                    raise WireError(error)
                return rows
            if kind == b"T":
                names = parse_columns(content)
            elif kind == b"D":
                rows.append(dict(zip(names, parse_row(content), strict=True)))
            elif kind == b"E":
                error = parse_error(content)
            elif kind == b"R" and struct.unpack_from("!i", content)[0] != 0:
                raise WireError("it asks for a password; its unix socket should know this user")

    def _message(self) -> tuple[bytes, bytes]:
        head = self._read(5)
        length = struct.unpack("!i", head[1:])[0]
        if not 4 <= length <= LONGEST:
            raise WireError("what answers does not speak PostgreSQL's protocol")
        content = self._read(length - 4)
        # After a fatal error nothing follows, no readiness either.
        if head[:1] == b"E" and b"SFATAL\0" in content:
            raise WireError(parse_error(content))
        return head[:1], content

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionResetError("the server ended the session")
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def parse_columns(content: bytes) -> list[str]:
    """Return the names in a description of rows (T): each ends with a zero byte, and 18 bytes on its type follow."""
    [count], place, names = struct.unpack_from("!h", content), 2, []
    for _ in range(count):
        end = content.index(b"\0", place)
        names.append(content[place:end].decode())
        place = end + 19
    return names


def parse_row(content: bytes) -> list[str | None]:
    """Return the values of a row (D): the length of each and then the value; none has the length -1."""
    [count], place, values = struct.unpack_from("!h", content), 2, []
    for _ in range(count):
        [length] = struct.unpack_from("!i", content, place)
        place += 4
        values.append(None if length < 0 else content[place : place + length].decode(errors="replace"))
        place += max(length, 0)
    return values


def parse_error(content: bytes) -> str:
    """Return the message of an error (E), whose fields are a letter and a text that ends with a zero byte."""
    fields = {part[:1]: part[1:] for part in content.split(b"\0") if part}
    return fields.get(b"M", b"it gave no reason").decode(errors="replace")
