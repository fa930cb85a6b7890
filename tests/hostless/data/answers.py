"""Answers HTTP on a unix socket until it is ended, and says what was asked: `answers.py SOCKET`."""

from __future__ import annotations

import signal
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer


class Answers(BaseHTTPRequestHandler):
    """Answers POST with 201."""

    protocol_version = "HTTP/1.1"
    seen: set[str] = set()  # noqa: RUF012 (one server, one set)

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.rfile.read(size)
        self.seen.add(f"POST:{self.path}:{self.headers['X-A']}:{size}")
        self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")


def end(*_: object) -> None:
    print(*sorted(Answers.seen), flush=True)
    sys.exit()


signal.signal(signal.SIGTERM, end)
server = ThreadingUnixStreamServer(sys.argv[1], Answers)
server.daemon_threads = True
print("ready", flush=True)
server.serve_forever()
