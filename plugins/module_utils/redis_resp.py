"""A client of Redis and Sentinel: commands and their answers (RESP 2), and nothing else.

A switchover asks several servers every few milliseconds; one redis-cli for each question would take longer than it.
"""

from __future__ import annotations

import socket
from typing import Any

# Nothing that is asked for here has more elements, or is nested deeper.
MOST_ELEMENTS = 100_000
LINE = b"\r\n"


class RedisError(Exception):
    """The server refused a command; the text is its own."""


class Redis:
    """A connection to one server.

    Parameters:
        address, port: where it is.
        password: the password.
        user: the user; without one the password is the server's own (a Sentinel's).
        timeout: seconds for each answer.
    Errors:
        OSError where the server is not reached, or says nothing; RedisError where it refuses.
    """

    def __init__(self, address: str, port: int, password: str, user: str = "", timeout: float = 3.0) -> None:
        self._buffer = b""
        self._socket = socket.create_connection((address, port), timeout=timeout)
        try:
            self.call("AUTH", *([user] if user else []), password)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(self, *words: str | int) -> Any:
        """Send a command and return its answer; raises RedisError where the server refuses it."""
        self._socket.sendall(encode(*words))
        answer = self._answer()
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def transaction(self, *commands: tuple[str | int, ...]) -> None:
        """Have commands carried out with nothing in between; raises RedisError where one is refused."""
        self.call("MULTI")
        for command in commands:
            self.call(*command)
        for answer in self.call("EXEC") or []:
            if isinstance(answer, RedisError):
                raise answer

    def replication(self) -> dict[str, str]:
        """Return what it says of itself as a master or a replica, by name."""
        return parse_info(str(self.call("INFO", "replication")))

    def pairs(self, *words: str | int) -> dict[str, str]:
        """Return the answer to a command that lists names and values in turn."""
        return to_pairs(self.call(*words))

    def _answer(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if (length := int(rest)) < 0:
                return None
            return self._read(length + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            if (count := int(rest)) > MOST_ELEMENTS:
                raise ConnectionAbortedError("it sent an answer that is too long")
            return None if count < 0 else [self._answer() for _ in range(count)]
        raise ConnectionAbortedError("what answers does not speak Redis's protocol")

    def _line(self) -> bytes:
        while LINE not in self._buffer:
            self._more()
        line, self._buffer = self._buffer.split(LINE, 1)
        return line

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _more(self) -> None:
        more = self._socket.recv(65536)
        if not more:
            raise ConnectionResetError("it ended the connection")
        self._buffer += more


def encode(*words: str | int) -> bytes:
    """Return a command as it is sent: the number of words, and each with its length."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def parse_info(text: str) -> dict[str, str]:
    """Return the fields of an answer to INFO by name."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def to_pairs(answer: Any) -> dict[str, str]:
    """Return a flat list of names and values as what it means."""
    words = [str(word) for word in answer] if isinstance(answer, list) else []
    return dict(zip(words[::2], words[1::2], strict=False))
