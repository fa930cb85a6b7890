"""The pooler of an app node: which of its databases lead where, and how they are held without losing a query.

A held database lets running transactions end, closes its connections to PostgreSQL and keeps what clients send until
it is released. PgBouncer keeps a pause for ever, whatever becomes of whoever asked for it. So nobody pauses without a
guard (`guard.guarded`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible.module_utils.postgresql_wire import Session, WireError, connect

POLL_SECONDS = 0.02
# A connection of these pools belongs to a client until it leaves, which a pause cannot wait for.
UNWAITED = "session"


@dataclass(frozen=True)
class Database:
    """One database as the pooler's clients know it: its name, the local port that it leads to, whether it is held."""

    name: str
    port: int
    held: bool


class Pooler:
    """PgBouncer, through its console.

    Parameters:
        directory, port: its unix socket.
        system_user: the operating system's user that may administer it: the one that it runs as.
    """

    def __init__(self, directory: str = "/run/postgresql", port: int = 6432, system_user: str = "postgres") -> None:
        self._where = {"directory": directory, "port": port, "system_user": system_user}

    def _session(self) -> Session:
        return Session(connect(**self._where), "pgbouncer", "pgbouncer")

    def databases(self) -> list[Database]:
        """Return its databases, its own left out; raises OSError or WireError where it does not answer."""
        with self._session() as console:
            return list(listed(console))

    def hold(self, ports: list[int], seconds: float) -> list[str]:
        """Hold the databases that lead to some local ports, and wait until no transaction of theirs runs.

        Sessions that have a connection of their own (session pooling) are not waited for: they end with the primary.

        Parameters:
            ports: local ports of the node proxy.
            seconds: how long running transactions may take.
        Returns:
            The databases of which a transaction still runs; none where all is held.
        """
        names = [database.name for database in self.databases() if database.port in ports]
        deadline = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            for name in names:
                # Its answer comes when all that is held is idle, sessions too; so it is not waited for.
                stack.enter_context(self._session()).send(f'PAUSE "{name}"')
            console = stack.enter_context(self._session())
            while True:
                held = {database.name for database in listed(console) if database.held}
                busy = busy_databases(console.query("SHOW POOLS"), names) | (set(names) - held)
                if not busy or time.monotonic() >= deadline:
                    return sorted(busy)
                time.sleep(POLL_SECONDS)

    def release(self, ports: list[int] | None = None) -> None:
        """Release what is held, by whomever.

        Parameters:
            ports: only the databases that lead to these local ports; None releases all.
        Errors:
            OSError or WireError where one of them stays held.
        """

        def held() -> list[str]:
            return [each.name for each in listed(console) if each.held and (ports is None or each.port in ports)]

        with self._session() as console:
            for name in held():
                # Its guard may have come first.
                with contextlib.suppress(WireError):
                    console.query(f'RESUME "{name}"')
            left = sorted(held())
        if left:
            raise WireError(f"these stay paused: {', '.join(left)}")


def listed(console: Session) -> Iterator[Database]:
    """Return the databases that a pooler's console tells of, its own left out."""
    for row in console.query("SHOW DATABASES"):
        if row["database"] != "pgbouncer":
            yield Database(row["name"], int(row["port"] or 0), row["paused"] == "1")


def busy_databases(pools: list[dict[str, str | None]], names: list[str]) -> set[str]:
    """Return those of the databases that have a connection which a transaction may use, from the rows of SHOW POOLS."""
    return {
        str(pool["database"])
        for pool in pools
        if pool["database"] in names
        and pool["pool_mode"] != UNWAITED
        and sum(int(value or 0) for column, value in pool.items() if column.startswith("sv_"))
    }
