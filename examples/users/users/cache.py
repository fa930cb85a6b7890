"""Reading users through Redis.

A miss is filled by whoever holds the user's *lease*, a key that expires by itself; everyone else waits for the value.
So a stampede of readers, over any number of processes and nodes, makes one query. A writer drops the value and the
lease together: a reader that asked the database before the change can then no longer fill the cache with what it saw.

When Redis does not answer, the database is asked. After a few failures in a row the cache is left alone for a moment,
so that only the first requests pay for the wait. An invalidation that could not be made leaves a stale user for at most
the time to live.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

# A master that is replaced may lose the answer of who took a lease: nobody fills then, and others wait for so long.
LEASE_SECONDS = 2.0
POLL_SECONDS = 0.02

TAKE_LEASE = """
local value = redis.call('GET', KEYS[1])
if value then return {0, value} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1, false} end
return {0, false}
"""
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[3] ~= '0' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a database said: a user, or None where it knows none, and whether it is young enough to be kept."""

    user: bytes | None
    keep: bool


Loader = Callable[[], Awaitable[Loaded]]


class CacheAwayError(Exception):
    """The cache cannot be asked now."""


class Breaker:
    """Stops calls to something that keeps failing.

    Args:
        failures: This many in a row open the breaker.
        pause: Seconds until one call is let through again, to see.
        clock: Returns seconds, never going back.
    """

    def __init__(self, failures: int = 3, pause: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._failed = 0
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Tell whether to call. While open it is True once a pause, for the caller that then tries."""
        if self._failed < self._limit:
            return True
        if self._clock() < self._closed_at:
            return False
        self._closed_at = self._clock() + self._pause
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        if self._failed >= self._limit:
            log.warning("cache is back")
        self._failed = 0

    def failed(self, error: Exception) -> None:
        """Count a failure.

        Args:
            error: What the call ended with.
        """
        self._failed += 1
        if self._failed >= self._limit:
            self._closed_at = self._clock() + self._pause
        if self._failed == self._limit:
            log.warning("cache is away: %s", error or type(error).__name__)


class UserCache:
    """Users as bytes, by id.

    Args:
        url: A `redis://` URL; None caches nothing.
        ttl: Seconds that a user is served at most; up to a tenth less, so that users cached together expire apart.
        timeout: Seconds that connecting, or one answer, may take.
    """

    def __init__(self, url: str | None, *, ttl: float, timeout: float) -> None:
        self._ttl = ttl
        self._flights: dict[int, asyncio.Task[bytes | None]] = {}
        self._breaker = Breaker()
        self._redis: Redis | None = None
        if url:
            self._redis = Redis.from_pool(
                BlockingConnectionPool.from_url(
                    url,
                    max_connections=50,
                    timeout=timeout,
                    socket_timeout=timeout,
                    socket_connect_timeout=timeout,
                    # A connection that broke while idle deserves a second one; a server that is silent does not.
                    retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
                    protocol=2,
                )
            )
            self._take_lease = self._redis.register_script(TAKE_LEASE)
            self._fill = self._redis.register_script(FILL)

    async def read(self, user_id: int, load: Loader) -> tuple[bytes | None, bool]:
        """Return a user, from the cache or else by `load`.

        Args:
            user_id: Which one.
            load: Asks the database; that there is no such user is not cached.

        Returns:
            The user, and whether it was found in the cache at once.

        Raises:
            Exception: Whatever `load` raises; the cache raises nothing.
        """
        try:
            value = await self._call(lambda redis: redis.get(f"user:{user_id}"))
        except CacheAwayError:
            value = None
        if value is not None:
            return value, True
        flight = self._flights.get(user_id)
        if flight is None:
            flight = asyncio.create_task(self._load(user_id, load))
            self._flights[user_id] = flight
            flight.add_done_callback(lambda done: self._land(user_id, done))
        # One reader that goes away must not end the work for the others.
        return await asyncio.shield(flight), False

    async def forget(self, user_id: int) -> None:
        """Drop a user after a change was committed, and keep readers of the old row from putting it back."""
        self._flights.pop(user_id, None)
        try:
            await self._call(lambda redis: redis.delete(f"user:{user_id}", f"lease:user:{user_id}"), always=True)
        except CacheAwayError:
            log.warning("user %d changed but may be served stale for up to %.0f s", user_id, self._ttl)

    async def close(self) -> None:
        """Close every connection."""
        if self._redis is not None:
            await self._redis.aclose()

    def _lifetime(self) -> int:
        milliseconds = int(self._ttl * 1000)
        return milliseconds - secrets.randbelow(milliseconds // 10)

    def _land(self, user_id: int, flight: asyncio.Task[bytes | None]) -> None:
        if self._flights.get(user_id) is flight:
            del self._flights[user_id]
        if not flight.cancelled():
            flight.exception()

    async def _load(self, user_id: int, load: Loader) -> bytes | None:
        keys = [f"user:{user_id}", f"lease:user:{user_id}"]
        lease = secrets.token_hex(8)
        give_up = time.monotonic() + LEASE_SECONDS
        try:
            while True:
                held, value = await self._call(
                    lambda _: self._take_lease(keys=keys, args=[lease, int(LEASE_SECONDS * 1000)])
                )
                if value is not None:
                    return value
                if held:
                    break
                if time.monotonic() > give_up:
                    return (await load()).user
                await asyncio.sleep(POLL_SECONDS)
        except CacheAwayError:
            return (await load()).user
        loaded = Loaded(None, keep=False)
        try:
            loaded = await load()
        finally:
            lifetime = self._lifetime() if loaded.user is not None and loaded.keep else 0
            try:
                await self._call(lambda _: self._fill(keys=keys, args=[lease, loaded.user or b"", lifetime]))
            except CacheAwayError:
                log.debug("user %d was read but not cached", user_id)
        return loaded.user

    async def _call(self, command: Callable[[Redis], Awaitable[T]], *, always: bool = False) -> T:
        """Run one command.

        Args:
            command: What to run.
            always: Try even while the breaker is open.

        Raises:
            CacheAwayError: There is no cache, or it failed.
        """
        if self._redis is None or not (always or self._breaker.allows()):
            raise CacheAwayError
        try:
            result = await command(self._redis)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            raise CacheAwayError from error
        self._breaker.succeeded()
        return result
