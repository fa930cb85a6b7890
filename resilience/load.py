"""Clients of the two example services at a steady rate, through the front door.

The load is open: a request starts when its time has come, whatever became of those before it, as with clients who know
nothing of each other. So an outage is not hidden by clients that wait for it to end. How long a request took is counted
from the time at which it was to start.

| kind | request | what it needs |
| --- | --- | --- |
| `cached` | GET /users/ID that the cache was given a moment ago | Redis |
| `uncached` | GET /users/ID that it does not have | the primary; fills the cache |
| `readonly` | GET /orders?limit=5 | a replica |
| `write` | POST /orders with Idempotency-Key | the primary; may be repeated |
| `create` | POST /users | the primary; may not be repeated |
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .client import Answer, Client, FailedError, Request
from .ledger import Ledger, Write

KINDS = ("cached", "uncached", "readonly", "write", "create")
READS = ("cached", "uncached", "readonly")
WRITES = ("write", "create")
# Twenty requests; evenly mixed, so that each kind comes at a steady rate, too.
PATTERN = (
    *("cached", "readonly", "write", "cached", "uncached", "cached", "readonly", "cached", "write", "cached"),
    *("readonly", "cached", "create", "readonly", "cached", "uncached", "cached", "write", "readonly", "cached"),
)
# A user of which the cache heard this long ago is still in it: less than the time to live of the service (60 s, less up
# to a tenth).
REMEMBERED = 45.0
# Seconds after which a user that was just put into the cache is asked for again, to see whether it is there.
LOOK_AGAIN = 0.2
# Users that the harness wants to know, so that one it comes back to has left the cache in between.
USERS = 400


@dataclass(frozen=True)
class Sample:
    """What became of one request.

    Parameters:
        start: when it was to start, in seconds since 1970.
        took: seconds from then to the end of the answer, or until it was given up.
        kind: one of KINDS.
        outcome: `good`, `refused` (a write that was answered 503 with Retry-After) or `failed`.
        status: of the answer; 0 without one.
        why: what went wrong.
        retried: it was sent a second time, on a new connection.
        attempts: connections that were tried for it.
        user: the user that was read, or 0.
        cache: what X-Cache said.
    """

    start: float
    took: float
    kind: str
    outcome: str
    status: int = 0
    why: str = ""
    retried: bool = False
    attempts: int = 0
    user: int = 0
    cache: str = ""

    @property
    def end(self) -> float:
        """When it was over."""
        return self.start + self.took


class People:
    """Which users to ask for: who is in the cache for certain, and who is not.

    Parameters:
        numbers: users that are there.
    """

    def __init__(self, numbers: list[int]) -> None:
        self._others = deque(numbers)
        # When the cache was given a user, the longest ago first.
        self._cached: dict[int, float] = {}
        self._again: deque[tuple[int, float]] = deque()
        self._turn = itertools.count()

    def add(self, number: int) -> None:
        """Ask for a new user next."""
        self._others.append(number)

    def missed(self, number: int, now: float) -> None:
        """Note that the cache did not have a user, and has been given it."""
        self._cached.pop(number, None)
        self._cached[number] = now
        self._again.append((number, now))

    def cached(self, now: float) -> int | None:
        """Return a user who is in the cache; None where there is none for certain."""
        if self._again and now - self._again[0][1] >= LOOK_AGAIN:
            return self._again.popleft()[0]
        for number, since in list(self._cached.items()):
            if now - since <= REMEMBERED:
                break
            del self._cached[number]
        known = list(self._cached)
        return known[next(self._turn) % len(known)] if known else None

    def other(self) -> int:
        """Return the user for whom nobody asked for longest."""
        number = self._others.pop()
        self._others.appendleft(number)
        return number


class Load:
    """The load, in a thread of its own, from `start` to `stop`.

    Parameters:
        client: makes the client, in the thread.
        ledger: where acknowledged writes and failed requests go.
        name: begins what the harness writes, so that it is found again; of letters, digits and dashes.
        rate: requests a second.
        crowd: requests that may be under way; one beyond is not sent, and counts as failed.
    """

    def __init__(
        self, client: Callable[[], Client], ledger: Ledger, name: str, *, rate: float = 40.0, crowd: int = 600
    ) -> None:
        self.samples: list[Sample] = []
        self.name, self.rate = name, rate
        self._make_client, self._ledger, self._crowd = client, ledger, crowd
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        # Wall time that does not jump.
        self._offset = time.time() - time.monotonic()
        self._people = People([])
        self._made: dict[int, str] = {}
        self._buyer = 0

    def now(self) -> float:
        """Return seconds since 1970, by a clock that never goes back."""
        return time.monotonic() + self._offset

    def start(self) -> None:
        """Begin, and return when the first requests are under way.

        Errors:
            FailedError, where the services do not answer.
        """
        self._thread.start()
        self._ready.wait()
        self.check()

    def check(self) -> None:
        """Raise what ended the load, if anything did."""
        if self._error:
            raise self._error

    def stop(self) -> None:
        """End it; what is under way is waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._client = self._make_client()
        await self._get_to_know()
        self._ready.set()
        under_way: set[asyncio.Task] = set()
        begin = time.monotonic()
        for number, kind in enumerate(itertools.cycle(PATTERN)):
            due = begin + number / self.rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if self._stop.is_set():
                break
            if len(under_way) >= self._crowd:
                self._note(Sample(due + self._offset, 0.0, kind, "failed", why="crowd: too many were under way"))
                continue
            task = asyncio.create_task(self._one(kind, due + self._offset))
            under_way.add(task)
            task.add_done_callback(self._over)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
        self._client.close()

    def _over(self, task: asyncio.Task) -> None:
        if error := task.exception():
            self._error = error
            self._stop.set()

    async def _get_to_know(self) -> None:
        """Learn of enough users, and make those that are missing."""
        found, after = [], 0
        while len(found) < 5 * USERS:
            page = json.loads((await self._must(Request("GET", f"/users?limit=100&after={after}"))).body)
            found += [user["id"] for user in page["users"]]
            after = page["next"]
            if not after:
                break
        for _ in range(max(USERS - len(found), 1)):
            request, *write = self._user()
            found.append(self._acknowledge("create", *write, await self._must(request)))
        self._buyer = found[-1]
        self._people = People(found)

    async def _must(self, request: Request) -> Answer:
        answer = await self._client.ask(request)
        if answer.status not in (200, 201):
            raise FailedError("broken", f"{request.method} {request.path}: {answer.status} {answer.body[:100]!r}")
        return answer

    def _user(self) -> tuple[Request, str, dict[str, Any]]:
        """Return what makes a user like no other, its address, and its body."""
        number = next(self._numbers)
        key = f"{self.name}-{number}@example.com"
        body = {"email": key, "name": f"Resilience {number}", "city": "Terrace"}
        return Request("POST", "/users", json.dumps(body).encode()), key, body

    def _request(self, kind: str, now: float) -> tuple[str, Request, int, tuple[str, dict[str, Any]] | None]:
        """Return the next request of a kind.

        Returns:
            The kind (a cached read becomes an uncached one where the cache has nobody for certain), the request, the
            user that it reads or 0, and the key and body of what it writes.
        """
        if kind == "cached" and (known := self._people.cached(now)):
            return kind, Request("GET", f"/users/{known}"), known, None
        if kind in ("cached", "uncached"):
            other = self._people.other()
            return "uncached", Request("GET", f"/users/{other}"), other, None
        if kind == "readonly":
            return kind, Request("GET", "/orders?limit=5"), 0, None
        if kind == "create":
            request, *write = self._user()
            return kind, request, 0, tuple(write)
        number = next(self._numbers)
        key = f"{self.name}-{number}"
        body = {
            "user_id": self._buyer,
            "items": [{"sku": key, "quantity": number % 9 + 1, "price_cents": number % 1000}],
        }
        return kind, Request("POST", "/orders", json.dumps(body).encode(), {"Idempotency-Key": key}), 0, (key, body)

    async def _one(self, kind: str, start: float) -> None:
        kind, request, user, write = self._request(kind, start)
        try:
            answer = await self._client.ask(request)
        except FailedError as error:
            what = Sample(
                start, self.now() - start, kind, "failed", why=str(error), retried=error.retried,
                attempts=error.attempts, user=user,
            )  # fmt: skip
            self._note(what, write)
            return
        outcome, why = self._judge(kind, user, write, answer)
        cache = answer.headers.get("x-cache", "")
        sample = Sample(
            start, self.now() - start, kind, outcome, answer.status, why, answer.retried, answer.attempts, user, cache
        )
        if outcome == "good" and write:
            self._acknowledge(kind, *write, answer)
        elif outcome == "good" and cache == "miss":
            self._people.missed(user, self.now())
        self._note(sample, write)

    def _judge(self, kind: str, user: int, write: tuple[str, dict[str, Any]] | None, answer: Answer) -> tuple[str, str]:
        """Return the outcome that an answer is, and what is wrong with it."""
        if answer.status == 503 and kind in WRITES and "retry-after" in answer.headers:
            return "refused", "503 with Retry-After"
        if answer.status != (201 if write else 200):
            return "failed", f"{answer.status} {answer.body[:120].decode(errors='replace')}"
        try:
            body = json.loads(answer.body)
        except ValueError:
            return "failed", f"not JSON: {answer.body[:80]!r}"
        if write and not all(body.get(name) == value for name, value in write[1].items()):
            return "failed", f"wrong: {answer.body[:120]!r} for {write[1]}"
        if user and (body.get("id") != user or body.get("email") != self._made.get(user, body.get("email"))):
            return "failed", f"wrong: {answer.body[:120]!r} for user {user}"
        return "good", ""

    def _acknowledge(self, kind: str, key: str, body: dict[str, Any], answer: Answer) -> int:
        number = json.loads(answer.body)["id"]
        self._ledger.acknowledge(Write(kind, key, body, self.now(), number))
        if kind == "create":
            self._made[number] = key
            self._people.add(number)
        return number

    def _note(self, sample: Sample, write: tuple[str, dict[str, Any]] | None = None) -> None:
        self.samples.append(sample)
        if sample.outcome != "good":
            self._ledger.fail(asdict(sample), Write(sample.kind, *write, sample.end) if write else None)


def lines(samples: list[Sample]) -> Iterator[str]:
    """Return samples as lines of JSON; `Sample(**json.loads(line))` is the way back."""
    return (json.dumps(asdict(sample)) + "\n" for sample in samples)
