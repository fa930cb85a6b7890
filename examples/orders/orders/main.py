"""The HTTP interface of orders."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Path, Query, Request, Response, WebSocket
from fastapi.responses import HTMLResponse
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload
from starlette.types import ASGIApp

from orders.board import StaticFiles, board
from orders.database import Database, DatabaseUnavailableError
from orders.feed import Feed
from orders.live import EventStream, talk
from orders.logs import configure_logging
from orders.models import IdempotencyKey, Order, OrderItem
from orders.people import People
from orders.schemas import MAX_ID, NewOrder, OrderOut, OrderPage
from orders.settings import Settings
from orders.web import Lifecycle, Problem, add_basics, error_answer, log

OrderId = Annotated[int, Path(ge=1, le=MAX_ID)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,255}$")]


def create_app(settings: Settings) -> ASGIApp:
    """Make the service.

    Args:
        settings: What the environment says.
    """
    configure_logging(settings.log_level)
    lifecycle = Lifecycle(settings.shutdown_delay)
    page = board(StaticFiles(settings.static_url, settings.static_manifest))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = {"pool_size": settings.database_pool_size, "timeout": settings.database_timeout}
        app.state.primary = Database(settings.database_url, **pool)
        app.state.replica = Database(settings.database_read_url, **pool)
        app.state.people = People(settings.users_url, timeout=settings.users_timeout)
        app.state.feed = Feed(app.state.replica, app.state.primary)
        lifecycle.at_stop(app.state.feed.stop)
        lifecycle.started()
        yield
        await lifecycle.stopped()
        await app.state.feed.close()
        await app.state.people.close()
        await app.state.replica.close()
        await app.state.primary.close()

    app = FastAPI(title="orders", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(DatabaseUnavailableError)
    async def refuse_for_now(request: Request, error: DatabaseUnavailableError) -> Response:
        log.error("database is away: %s", error)
        return error_answer(503, "The database is away; try again.", headers={"Retry-After": "2"})

    @app.post("/orders", status_code=201, response_model=OrderOut)
    async def create_order(given: NewOrder, request: Request, key: Key = None) -> Response:
        """Make an order; with an Idempotency-Key, the same request again gets the same answer and makes nothing."""
        fingerprint = hashlib.sha256(given.model_dump_json().encode()).digest()
        if key is not None:
            async with request.app.state.primary.reading() as session:
                answer = await replayed(session, key, fingerprint)
            if answer is not None:
                return answer
        if not await request.app.state.people.exists(given.user_id):
            raise Problem(422, f"There is no user {given.user_id}.")
        async with request.app.state.primary.transaction() as session:
            if key is not None and not await claim(session, key, fingerprint):
                answer = await replayed(session, key, fingerprint)
                if answer is not None:
                    return answer
                raise Problem(409, "The first request with this Idempotency-Key was just dropped; send it again.")
            order = Order(
                user_id=given.user_id,
                total_cents=sum(item.quantity * item.price_cents for item in given.items),
                items=[OrderItem(line=line, **item.model_dump()) for line, item in enumerate(given.items, 1)],
            )
            session.add(order)
            await session.flush()
            body = OrderOut.model_validate(order).model_dump_json()
            if key is not None:
                await session.execute(update(IdempotencyKey).where(IdempotencyKey.key == key).values(answer=body))
        return made(body, order.id)

    # Before the route of one order, which would take the word for an id.
    @app.get("/orders/board", response_class=HTMLResponse)
    async def show_board() -> str:
        """Return the page that shows new orders as they are made."""
        return page

    @app.get("/orders/events", response_class=Response)
    async def follow_orders(
        request: Request,
        user_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=MAX_ID)] = None,
    ) -> Response:
        """Send new orders as server-sent events; with a Last-Event-ID, those after it first."""
        return EventStream(
            request.app.state.feed,
            node_name=settings.node_name,
            after=last_event_id,
            user_id=user_id,
            heartbeat=settings.heartbeat,
        )

    @app.websocket("/orders/live")
    async def talk_about_orders(socket: WebSocket) -> None:
        """Send new orders as they are made, and answer pings."""
        await talk(socket, socket.app.state.feed, node_name=settings.node_name)

    @app.get("/orders/{order_id}")
    async def read_order(order_id: OrderId, request: Request) -> OrderOut:
        """Return one order."""
        async with request.app.state.primary.reading() as session:
            order = await session.scalar(select(Order).where(Order.id == order_id).options(selectinload(Order.items)))
        if order is None:
            raise Problem(404, f"There is no order {order_id}.")
        return OrderOut.model_validate(order)

    @app.get("/orders")
    async def list_orders(
        request: Request,
        user_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    ) -> OrderPage:
        """Return orders, newest first, from a replica. `next` of one page is `after` of the following one."""
        query = select(Order).order_by(Order.id.desc()).limit(limit + 1).options(selectinload(Order.items))
        if user_id is not None:
            query = query.where(Order.user_id == user_id)
        if after is not None:
            query = query.where(Order.id < after)
        async with request.app.state.replica.reading() as session:
            orders = [OrderOut.model_validate(order) for order in await session.scalars(query)]
        return OrderPage(orders=orders[:limit], next=orders[limit - 1].id if len(orders) > limit else None)

    return add_basics(app, node_name=settings.node_name, lifecycle=lifecycle)


def made(body: str, order_id: int, **headers: str) -> Response:
    """Return the answer that tells of a new order."""
    return Response(body, 201, {"Location": f"/orders/{order_id}", **headers}, media_type="application/json")


async def claim(session: AsyncSession, key: str, fingerprint: bytes) -> bool:
    """Take an idempotency key, unless it is taken; wait while another transaction is taking it."""
    taken = await session.scalar(
        insert(IdempotencyKey)
        .values(key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    return taken is not None


async def replayed(session: AsyncSession, key: str, fingerprint: bytes) -> Response | None:
    """Return the answer kept under a key; None where there is none.

    Raises:
        Problem: The key belongs to another request.
    """
    kept = await session.get(IdempotencyKey, key)
    if kept is None or kept.answer is None:
        return None
    if kept.fingerprint != fingerprint:
        raise Problem(422, "This Idempotency-Key was used for another request.")
    order = OrderOut.model_validate_json(kept.answer)
    return made(kept.answer, order.id, **{"Idempotent-Replayed": "true"})


app = create_app(Settings.from_environment())
