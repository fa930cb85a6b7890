"""What every answer has in common: request ids, error bodies, logs, and a graceful end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import request_id

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET_PATHS = frozenset({"/healthz", "/readyz"})
ERROR_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    422: "unprocessable",
    500: "internal",
    503: "unavailable",
}

Handler = Callable[[int, FrameType | None], Any]
log = logging.getLogger(__name__)


class Problem(HTTPException):
    """An error answer.

    Args:
        status: The HTTP status.
        message: One sentence for whoever called.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)


class Lifecycle:
    """Whether this process can take requests. It asks no shared part, or an outage there would take every node out.

    Args:
        delay: Seconds to go on serving after SIGTERM, so that balancers can see that this process is not ready.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._at_stop: list[Callable[[], Awaitable[None]]] = []
        self._leaving: asyncio.Task[None] | None = None
        self.ready = False

    def at_stop(self, end: Callable[[], Awaitable[None]]) -> None:
        """Have something done on the event loop before the server begins to stop, after the delay.

        A server waits for open connections before it ends the application, so that answers without an end need this.
        The server hears of the stop only afterwards: servers cut connections short that did not end in time.

        Args:
            end: What to await; more than once does no harm. It has to end soon.
        """
        self._at_stop.append(end)

    def started(self) -> None:
        """Become ready, and notice signals to stop before the server does. Call it on the running event loop."""
        loop = asyncio.get_running_loop()
        for each, delay in ((signal.SIGTERM, self._delay), (signal.SIGINT, 0.0)):
            server = signal.getsignal(each)
            # A server that takes the signal elsewhere (outside Python, or by the loop's own means) gets no delay.
            if callable(server):
                signal.signal(each, self._handler(loop, server, delay))
        self.ready = True

    async def stopped(self) -> None:
        """Stop being ready, and end what is without an end."""
        self.ready = False
        await asyncio.gather(*(end() for end in self._at_stop))

    def _handler(self, loop: asyncio.AbstractEventLoop, server: Handler, delay: float) -> Handler:
        def stop(number: int, frame: FrameType | None) -> None:
            first, self.ready = self.ready, False
            if first and (delay or self._at_stop):
                loop.call_soon_threadsafe(leave, number, frame)
            elif not delay:
                server(number, frame)

        def leave(number: int, frame: FrameType | None) -> None:
            self._leaving = loop.create_task(late(number, frame))

        async def late(number: int, frame: FrameType | None) -> None:
            try:
                await asyncio.sleep(delay)
                await self.stopped()
            finally:
                server(number, frame)

        return stop


class Envelope:
    """Outermost middleware: names the request and the node on every answer, failures included, and logs one line.

    Args:
        app: The application.
        node_name: The value of `X-Served-By`.
    """

    def __init__(self, app: ASGIApp, node_name: str) -> None:
        self._app = app
        self._node_name = node_name.encode("latin-1", "replace")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, self._naming_node(send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        identity = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        token = request_id.set(identity)
        begun = time.perf_counter()
        status = 0
        complete = False

        async def send_named(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", identity.encode()),
                    (b"x-served-by", self._node_name),
                ]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            log.exception("unexpected error")
            # The client has to notice that half an answer is not all of it.
            if not complete:
                raise
        finally:
            log.log(
                logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO,
                "method=%s path=%s status=%d ms=%.1f",
                scope["method"],
                json.dumps(scope["path"]),
                status,
                (time.perf_counter() - begun) * 1000,
            )
            request_id.reset(token)

    def _naming_node(self, send: Send) -> Send:
        async def send_named(message: Message) -> None:
            if message["type"] == "websocket.accept":
                message["headers"] = [*message.get("headers", ()), (b"x-served-by", self._node_name)]
            await send(message)

        return send_named


def error_answer(status: int, message: str, *, headers: Any = None, **more: Any) -> JSONResponse:
    """Return the one shape that every error has.

    Args:
        status: The HTTP status.
        message: One sentence for whoever called.
        headers: Further headers.
        more: Further members of the body.
    """
    body = {"error": ERROR_CODES.get(status, "http_error"), "message": message, "request_id": request_id.get(), **more}
    return JSONResponse(body, status, headers)


def add_basics(app: FastAPI, *, node_name: str, lifecycle: Lifecycle) -> ASGIApp:
    """Add health routes and error handlers to an application.

    Args:
        app: The application.
        node_name: The value of `X-Served-By`.
        lifecycle: Answers readiness.

    Returns:
        What the server should run.
    """

    @app.get("/healthz", include_in_schema=False)
    async def live() -> dict[str, str]:
        """The event loop answers."""
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> JSONResponse:
        """This process can take requests."""
        if lifecycle.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "stopping"}, 503, {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        return error_answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = [{"field": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()]
        return error_answer(422, "The request is not valid.", fields=fields)

    @app.exception_handler(Exception)
    async def admit(request: Request, error: Exception) -> JSONResponse:
        return error_answer(500, "The service failed.")

    return Envelope(app, node_name)
