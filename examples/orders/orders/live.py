"""The feed as server-sent events and over WebSockets. Both end when the server begins to stop, or the listener is slow.

A server waits for open connections before it stops; these would be open forever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from orders.database import DatabaseUnavailableError
from orders.feed import Feed, Listener

# How long the last words to a client may take, and how long a new WebSocket waits to know what is new.
PATIENCE_SECONDS = 1.0
RESTARTING, TRY_AGAIN = 1012, 1013

log = logging.getLogger(__name__)


async def until_one_ends(*parts: Coroutine[Any, Any, Any]) -> None:
    """Run all of them until the first ends; raise what any of them raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def come_back() -> int:
    """Return milliseconds after which to come back; not all at once."""
    return 200 + secrets.randbelow(800)


class EventStream(Response):
    """Server-sent events, one an order.

    An event without data tells a new client where it begins, so that it can go on there if it is cut off before its
    first order.

    Args:
        feed: Where orders come from.
        node_name: Said in the first line.
        after: The last id that the client has.
        user_id: Orders of this user only.
        heartbeat: Seconds between comments, so that nobody on the way takes the connection for dead.
    """

    def __init__(self, feed: Feed, *, node_name: str, after: int | None, user_id: int | None, heartbeat: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        self._feed = feed
        self._hello = f": {node_name}\nretry: {come_back()}\n\n"
        self._after = after
        self._user_id = user_id
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client goes away or the feed ends."""
        gone = False

        async def write(text: str, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def beat() -> None:
            while True:
                await asyncio.sleep(self._heartbeat)
                await write(":\n\n")

        async def leave() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True

        async def tell(listener: Listener) -> None:
            if self._after is None:
                await write(f"id: {(await listener.begin).newest}\n\n")
            async for news in listener.news(self._after, self._user_id):
                await write(f"id: {news.id}\nevent: order\ndata: {news.text}\n\n")

        with self._feed.listener() as listener:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await write(self._hello)
            try:
                await until_one_ends(listener.ended.wait(), leave(), beat(), tell(listener))
            except DatabaseUnavailableError as error:
                log.error("database is away: %s", error)
            except OSError:
                gone = True
            if not gone:
                # Who does not read does not read this either.
                with suppress(TimeoutError, OSError):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await write(f"retry: {come_back()}\n\n", more=False)


async def talk(socket: WebSocket, feed: Feed, *, node_name: str) -> None:
    """Send new orders over a WebSocket, and answer pings.

    Args:
        socket: Not accepted yet.
        feed: Where orders come from.
        node_name: Said in each pong.
    """

    async def answer() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            try:
                said = json.loads(message.get("text") or message.get("bytes") or b"")
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict) and said.get("type") == "ping":
                await socket.send_json({"type": "pong", "served_by": node_name})
            else:
                await socket.send_json({"type": "error", "message": 'Only {"type": "ping"} is understood.'})

    async def tell(listener: Listener) -> None:
        async for news in listener.news():
            await socket.send_text(f'{{"type":"order","order":{news.text}}}')

    with feed.listener() as listener, suppress(WebSocketDisconnect, OSError):
        # Once it is open, no order is missed; a database that is away keeps it from opening for a moment only.
        await asyncio.wait([listener.begin], timeout=PATIENCE_SECONDS)
        await socket.accept()
        await until_one_ends(listener.ended.wait(), answer(), tell(listener))
        code = RESTARTING if feed.stopping else TRY_AGAIN
        with suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await socket.close(code, json.dumps({"retry_ms": come_back()}))
                # Until the client has read it: a server that stops cuts off what is still on its way.
                await socket.receive()
