"""Asking the users service."""

from __future__ import annotations

import httpx

from orders.logs import request_id
from orders.web import Problem, log

RETRIED = frozenset({502, 503, 504})


class People:
    """The users service, over HTTP.

    Args:
        url: Where it answers.
        timeout: Seconds for one answer.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 1.0)),
            limits=httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=30),
            trust_env=False,
        )

    async def exists(self, user_id: int) -> bool:
        """Tell whether there is such a user.

        Raises:
            Problem: The service gave no usable answer, twice.
        """
        said = "nothing"
        # Reading changes nothing there, so that it may be asked again: once, or an outage doubles and doubles.
        for _ in range(2):
            try:
                answer = await self._client.get(f"/users/{user_id}", headers={"X-Request-ID": request_id.get()})
            except httpx.TransportError as error:
                said = f"{type(error).__name__} {error}".strip()
                continue
            if answer.status_code == 200:
                return True
            if answer.status_code == 404:
                return False
            said = f"status {answer.status_code}"
            if answer.status_code not in RETRIED:
                break
        log.error("users service is away: %s", said)
        raise Problem(503, "The users service is away; try again.", retry_after=2)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
