"""Connections to PostgreSQL, by way of a pooler that hands out server connections per transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.waiting import wait_async
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

READ_ONLY_TRANSACTION = "25006"

# A prepared statement lives on one server connection, and the next transaction may get another one.
CONNECT_ARGUMENTS: dict[str, Any] = {"prepare_threshold": None, "connect_timeout": 5}
# Seconds after which a wait looks round for no reason; psycopg's own 0.1 takes a core where everybody waits.
LOOK_ROUND = 1.0


class DatabaseUnavailableError(Exception):
    """The database cannot be asked now; the same request may succeed in a moment."""


def driver_url(url: str) -> URL:
    """Return a `postgresql://` URL as one that makes SQLAlchemy use psycopg 3."""
    return make_url(url).set(drivername="postgresql+psycopg")


class Connection(AsyncConnection[Any]):
    """A connection that hangs up when the task that waits for it is cancelled.

    psycopg asks the server to cancel the statement, and waits up to ten seconds for both. While the primary is away
    nobody answers either, and whoever waits for us has a deadline. For the same reason it needs no look round ten times
    a second, which costs most where everybody waits.
    """

    async def wait(self, gen: Any, interval: float = LOOK_ROUND, **more: Any) -> Any:
        """Wait for the server, as psycopg does all of its waiting."""
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, **more)
        except asyncio.CancelledError:
            await self.close()
            raise


class Database:
    """A small pool of connections of this process.

    Args:
        url: A `postgresql://` URL.
        pool_size: Connections kept; as many again are opened under load.
        timeout: Seconds that one unit of work may take, waiting for a connection included.
    """

    def __init__(self, url: str, *, pool_size: int, timeout: float) -> None:
        self._timeout = timeout
        # Whoever waits inside SQLAlchemy's pool is not told when a connection that it waits for cannot be made.
        self._connections = asyncio.Semaphore(2 * pool_size)
        self._engine = create_async_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=timeout,
            pool_pre_ping=True,
            pool_recycle=1800,
            async_creator=lambda: Connection.connect(url, **CONNECT_ARGUMENTS),
        )
        self._reads = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Give a session whose work is committed at the end of the block, all or nothing.

        Raises:
            DatabaseUnavailableError: The database is away, in recovery or too slow.
        """
        async with (
            self._translated(),
            AsyncSession(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @asynccontextmanager
    async def reading(self, timeout: float | None = None) -> AsyncIterator[AsyncSession]:
        """Give a session for reads, each statement on its own: no round trips for BEGIN and COMMIT.

        Args:
            timeout: Seconds that it may take; None is what the database was made with.

        Raises:
            DatabaseUnavailableError: The database is away or too slow.
        """
        async with self._translated(timeout), AsyncSession(self._reads, expire_on_commit=False) as session:
            yield session

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _translated(self, timeout: float | None = None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout or self._timeout), self._connections:
                yield
        except (OperationalError, InterfaceError, PoolTimeout, TimeoutError) as error:
            raise DatabaseUnavailableError(reason(error)) from error
        except DBAPIError as error:
            # During a switchover the old primary may answer once more, as a replica.
            if error.connection_invalidated or getattr(error.orig, "sqlstate", None) == READ_ONLY_TRANSACTION:
                raise DatabaseUnavailableError(reason(error)) from error
            raise


def reason(error: Exception) -> str:
    """Return the first line of what went wrong, without the statement and its parameters."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return said.splitlines()[0]
