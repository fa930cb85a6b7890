import asyncio

import pytest

from testing.postgresql import DatabaseUrls
from users.database import Connection


def test_a_connection_waits_without_looking_round(database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    async def timers() -> list[float]:
        loop, set_off = asyncio.get_running_loop(), []
        call_later = loop.call_later
        async with await Connection.connect(database.application) as connection:
            monkeypatch.setattr(
                loop, "call_later", lambda delay, *rest: (set_off.append(delay), call_later(delay, *rest))[1]
            )
            await connection.execute("SELECT pg_sleep(0.5)")
        return set_off

    assert not [delay for delay in asyncio.run(timers()) if delay < 1]
