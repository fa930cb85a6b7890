"""An HTTP client as careful clients are: kept connections, and the one repetition that is safe.

What counts as a failed request is the design's definition (docs/architecture.md, "A failed request"). In detail:

- A connection that cannot be opened has carried no request. It is tried again, at the next address where there are
  several, until the request's time is up. So an address that moves to another balancer is a wait, and no failure.
- A request whose reused connection closed before any byte of the answer is sent once more, on a new connection, if it
  is safe or carries Idempotency-Key.
- Everything else that is not a whole answer is a failure: a new connection that closed, half an answer, no answer in
  time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# How long to wait before another attempt where one was refused at once.
PAUSE = 0.1


class FailedError(Exception):
    """No whole answer came.

    Parameters:
        how: `connect` where no connection came about, `closed` before any byte of the answer, `broken` within it,
            `timeout`.
        why: what was said of it.
    """

    def __init__(self, how: str, why: object = "") -> None:
        super().__init__(f"{how}: {why}" if str(why) else how)
        self.how = how
        self.retried = False
        self.attempts = 0


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again where nobody knows what became of it."""
        return self.method in SAFE or "Idempotency-Key" in self.headers

    def encoded(self, host: str) -> bytes:
        """Return it as HTTP/1.1 for a host."""
        headers = {"Host": host, **self.headers}
        if self.body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(self.body))}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


@dataclass(frozen=True)
class Answer:
    """What came back.

    headers: by lower-case name. retried: it was sent twice. attempts: connections that were tried for it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    retried: bool = False
    attempts: int = 0


def parse(received: bytes) -> tuple[Answer, bool] | None:
    """Return the answer that was received, and whether its connection can be used again; None while a part is missing.

    Errors:
        ValueError, where it is no answer of HTTP/1.1, or has neither a length nor chunks.
    """
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not HTTP: {first[:80]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunks(rest)
        return None if body is None else (Answer(int(status), headers, body), keep)
    if int(status) in (204, 304):
        return Answer(int(status), headers, b""), keep
    if "content-length" not in headers:
        raise ValueError("an answer without a length")
    length = int(headers["content-length"])
    return (Answer(int(status), headers, rest[:length]), keep) if len(rest) >= length else None


def _chunks(received: bytes) -> bytes | None:
    """Return the body that chunks make up; None while the last one is missing."""
    body = b""
    while True:
        size, found, rest = received.partition(b"\r\n")
        if not found:
            return None
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        if length == 0:
            return body
        body, received = body + rest[:length], rest[length + 2 :]


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self) -> None:
        self.reused = False
        self.idle_since = 0.0
        self.open = True
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[Answer, bool]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # Nobody asked: a balancer that says goodbye.
            self.close()
            return
        self._received += data
        try:
            parsed = parse(self._received)
        except ValueError as error:
            self._answer.set_exception(FailedError("broken", error))
            self.close()
            return
        if parsed:
            self._answer.set_result(parsed)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer and not self._answer.done():
            how = "broken" if self._received else "closed"
            self._answer.set_exception(FailedError(how, error or "by the other side"))

    def close(self) -> None:
        """Close it without ceremony."""
        self.open = False
        if self._transport:
            self._transport.abort()

    async def exchange(self, data: bytes) -> tuple[Answer, bool]:
        """Send a request and return its answer, and whether the connection can be used again."""
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer


class Client:
    """Asks one place, over as many kept connections as it takes.

    Parameters:
        addresses: where; a virtual address, or several that are tried in turn.
        port: the port.
        context: for TLS; None without.
        connect_timeout: seconds that one attempt to connect may take, TLS included.
        timeout: seconds that a request may take, connecting and repetition included.
        idle: seconds after which an unused connection is given up.
    """

    def __init__(
        self, addresses: list[str], port: int, context: ssl.SSLContext | None, *, connect_timeout: float = 1.0,
        timeout: float = 30.0, idle: float = 15.0,
    ) -> None:  # fmt: skip
        self._addresses, self._port, self._context = addresses, port, context
        self._connect_timeout, self._timeout, self._idle = connect_timeout, timeout, idle
        self._kept: list[_Connection] = []
        self._turn = 0

    async def ask(self, request: Request) -> Answer:
        """Send a request and return its answer, whatever its status.

        Errors:
            FailedError, where no whole answer came.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        attempts, retried = 0, False

        def count() -> None:
            nonlocal attempts
            attempts += 1

        try:
            while True:
                connection = (None if retried else self._take(loop.time())) or await self._connect(end, count)
                try:
                    async with asyncio.timeout_at(end):
                        answer, keep = await connection.exchange(request.encoded(self._addresses[0]))
                except TimeoutError:
                    connection.close()
                    raise FailedError("timeout", f"no answer in {self._timeout:g} s") from None
                except FailedError as error:
                    if error.how == "closed" and connection.reused and request.repeatable and not retried:
                        retried = True
                        continue
                    raise
                self._give_back(connection, keep, loop.time())
                return Answer(answer.status, answer.headers, answer.body, retried, attempts)
        except FailedError as error:
            error.retried, error.attempts = retried, attempts
            raise

    def close(self) -> None:
        """Close every kept connection."""
        for connection in self._kept:
            connection.close()
        self._kept.clear()

    def _take(self, now: float) -> _Connection | None:
        """Return the connection that was used last; those that closed or were idle for too long are dropped."""
        while self._kept:
            connection = self._kept.pop()
            if connection.open and now - connection.idle_since < self._idle:
                connection.reused = True
                return connection
            connection.close()
        return None

    def _give_back(self, connection: _Connection, keep: bool, now: float) -> None:
        if keep and connection.open:
            connection.idle_since = now
            self._kept.append(connection)
        else:
            connection.close()

    async def _connect(self, end: float, count: Callable[[], None]) -> _Connection:
        loop = asyncio.get_running_loop()
        why: object = "no time was left"
        while loop.time() < end:
            address = self._addresses[self._turn % len(self._addresses)]
            count()
            try:
                async with asyncio.timeout_at(min(loop.time() + self._connect_timeout, end)):
                    _, connection = await loop.create_connection(
                        _Connection, address, self._port, ssl=self._context,
                        server_hostname=address if self._context else None,
                    )  # fmt: skip
            except ssl.SSLCertVerificationError as error:
                raise FailedError("connect", error) from error
            except TimeoutError:
                why = f"{address} did not answer"
            except OSError as error:
                why = error
                await asyncio.sleep(PAUSE)
            else:
                return connection
            self._turn += 1
        raise FailedError("connect", why)
