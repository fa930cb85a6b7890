"""A Redis server of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from testing.processes import Process, free_port, scratch_directory, wait_until


class RedisServer:
    """A server on 127.0.0.1 that keeps nothing.

    Args:
        program: A file that is redis-server when it is called so.
        directory: For its log.
    """

    def __init__(self, program: Path, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url, socket_timeout=10)
        self._process = Process(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            directory=directory,
            environment={"PATH": os.environ["PATH"]},
            output=directory / "redis.log",
        )
        wait_until(self._answers, seconds=10, what="Redis answers")

    def create_user(self, name: str) -> str:
        """Make a user with the rights that Terrace gives to a service, and return the URL by which it logs in."""
        rights = ("+@all", "-@admin", "-@dangerous", "+info", "+sort", "+sort_ro")
        self.client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{name}", "~*", "&*", *rights)
        return f"redis://{name}:{name}@127.0.0.1:{self.port}/0"

    def freeze(self) -> None:
        """Let it accept connections and answer nothing."""
        self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self._process.send(signal.SIGCONT)

    def end(self) -> None:
        """End it."""
        self.client.close()
        self._process.end()

    def _answers(self) -> bool:
        assert self._process.running, self._process.printed()
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a server."""
    # Debian's redis-tools carries the server's program, under the name of the checker that it also is.
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program is not None, "neither redis-server nor redis-tools is installed"
    with scratch_directory("redis") as directory:
        link = directory / "redis-server"
        link.symlink_to(Path(program).resolve())
        server = RedisServer(link, directory)
        try:
            yield server
        finally:
            server.end()
