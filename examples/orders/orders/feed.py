"""New orders, for everyone who listens to this process.

One query each half second, however many listen, and none while nobody does. Transactions do not commit in the order of
their ids: an order that comes after a gap is held back until the gap is filled, or until it has been visible so long
that whoever took the missing ids has given up. So listeners get orders by rising id, and can go on after the last one
they got, here or at another node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from orders.database import Database, DatabaseUnavailableError
from orders.models import Order
from orders.schemas import OrderOut

POLL_SECONDS = 0.5
SETTLED_SECONDS = 2.0
PAGE = 200
# How long a stop waits for those who listen to be told; longer than one of them may take.
GOODBYE_SECONDS = 1.5
# A listener that is this far behind is sent away; it can come back and go on where it was.
QUEUE = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class News:
    """An order, and how it is written: once, for all who get it."""

    id: int
    user_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a feed is: every order up to `told` was told, and there is one with the id `newest`."""

    told: int
    newest: int


class Listener:
    """One who listens.

    Args:
        primary: Asked for what a listener missed. Whatever a replica showed, the primary has.
    """

    def __init__(self, primary: Database) -> None:
        self._primary = primary
        self._queue: asyncio.Queue[News] = asyncio.Queue(QUEUE)
        self.begin: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def tell(self, news: News) -> None:
        """Take an order; a listener that cannot take it is at its end."""
        try:
            self._queue.put_nowait(news)
        except asyncio.QueueFull:
            log.warning("a listener is too slow, and is sent away")
            self.ended.set()

    async def news(self, after: int | None = None, user_id: int | None = None) -> AsyncIterator[News]:
        """Give orders as they come, without end; whoever asks looks at `ended` meanwhile.

        Args:
            after: Begin with the orders above this id; None is those that are made from now on.
            user_id: Of this user only.

        Raises:
            DatabaseUnavailableError: What was missed cannot be read.
        """
        place = await self.begin
        last = place.newest if after is None else after
        while last < place.told:
            query = select(Order).where(Order.id > last, Order.id <= place.told)
            async with self._primary.reading() as session:
                page = await read(session, query if user_id is None else query.where(Order.user_id == user_id))
            for each in page:
                yield each
            last = page[-1].id if len(page) == PAGE else place.told
        while True:
            each = await self._queue.get()
            if each.id > last and user_id in (None, each.user_id):
                yield each


class Feed:
    """Looks for new orders while someone listens.

    Args:
        replica: Looked at.
        primary: For those who come back.

    Attributes:
        stopping: Whether every listener is at its end.
    """

    def __init__(self, replica: Database, primary: Database) -> None:
        self._replica = replica
        self._primary = primary
        self._listeners: set[Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._place: Place | None = None
        self._seen: dict[int, float] = {}
        self.stopping = False

    @contextmanager
    def listener(self) -> Iterator[Listener]:
        """Listen until the end of the block."""
        one = Listener(self._primary)
        if self.stopping:
            one.ended.set()
        if self._place is not None:
            one.begin.set_result(self._place)
        self._listeners.add(one)
        if self._looking is None and not self.stopping:
            # In a context of its own: its log lines belong to no request.
            self._looking = asyncio.create_task(self._look_while_someone_listens(), context=Context())
        try:
            yield one
        finally:
            self._listeners.discard(one)

    async def stop(self) -> None:
        """End every listener, and those to come; wait a while until they said goodbye."""
        self.stopping = True
        for one in self._listeners:
            one.ended.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while self._listeners:
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Wait until nothing is asked any more; it has to be stopped before."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_while_someone_listens(self) -> None:
        away = False
        while self._listeners and not self.stopping:
            more = False
            try:
                more = await self._look()
                if away:
                    log.info("database is back")
                away = False
            except DatabaseUnavailableError as error:
                if not away:
                    log.error("database is away, will look again: %s", error)
                away = True
            except Exception:
                log.exception("cannot look for new orders")
            if not more:
                await asyncio.sleep(POLL_SECONDS)
        self._looking, self._place, self._seen = None, None, {}

    async def _look(self) -> bool:
        """Tell what is new; return whether there is more."""
        async with self._replica.reading() as session:
            if self._place is None:
                self._begin(await place(session))
            page = await read(session, select(Order).where(Order.id > self._place.told))
        now = time.monotonic()
        self._seen = {each.id: self._seen.get(each.id, now) for each in page}
        ripe = max((number for number, since in self._seen.items() if now - since >= SETTLED_SECONDS), default=0)
        told, count = self._place.told, 0
        for each in page:
            if each.id > ripe and each.id != told + 1:
                break
            told, count = each.id, count + 1
            for one in self._listeners:
                one.tell(each)
        self._place = Place(told, max([self._place.newest, *self._seen]))
        return count == PAGE

    def _begin(self, begin: Place) -> None:
        self._place = begin
        for one in self._listeners:
            if not one.begin.done():
                one.begin.set_result(begin)


async def place(session: AsyncSession) -> Place:
    """Return where a feed that starts now is: what is younger may have gaps that are still filled."""
    newest = select(Order.id).order_by(Order.id.desc()).limit(1)
    settled = newest.where(Order.created_at < func.now() - timedelta(seconds=SETTLED_SECONDS))
    # In this order, so that the second is not above the first.
    told = await session.scalar(settled) or 0
    return Place(told, await session.scalar(newest) or 0)


async def read(session: AsyncSession, query: Select[tuple[Order]]) -> list[News]:
    """Return a page of orders, by rising id."""
    query = query.order_by(Order.id).limit(PAGE).options(selectinload(Order.items))
    return [
        News(order.id, order.user_id, OrderOut.model_validate(order).model_dump_json())
        for order in await session.scalars(query)
    ]
