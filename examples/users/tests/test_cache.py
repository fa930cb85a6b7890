import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import free_port, wait_until
from testing.redis import RedisServer, redis_server
from testing.services import Service, service
from users.cache import Breaker


def queries(postgres: PostgreSQL, database: DatabaseUrls) -> int:
    return sum("FROM users WHERE users.id =" in line for line in postgres.statements(database.name))


def make(users: Service, name: str) -> int:
    answer = users.http.post("/users", json={"email": f"{name}@cache.example.org", "name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@pytest.fixture(scope="module")
def other(variables: dict[str, str]) -> Iterator[Service]:
    with service("users", variables) as running:
        yield running


def test_a_stampede_over_two_processes_makes_one_query(
    users: Service, other: Service, postgres: PostgreSQL, database: DatabaseUrls, redis: RedisServer
) -> None:
    user_id = make(users, "stampede")
    path = f"/users/{user_id}"
    before = queries(postgres, database)
    with ThreadPoolExecutor(60) as pool, redis.client.monitor() as monitor:
        # The query has to wait, so that nobody is answered before all have looked for the user in the cache.
        with postgres.blocked(database.name, "users"):
            reads = [pool.submit((users, other)[number % 2].http.get, path) for number in range(60)]
            begun, looked = time.monotonic(), 0
            while looked < 60:
                said = monitor.next_command()
                looked += said["client_type"] == "tcp" and said["command"] == f"GET user:{user_id}"
                assert time.monotonic() - begun < 10
        answers = [read.result() for read in reads]
    assert Counter((answer.status_code, answer.headers["X-Cache"]) for answer in answers) == {(200, "miss"): 60}
    assert len({answer.content for answer in answers}) == 1
    assert queries(postgres, database) - before == 1
    assert other.http.get(path).headers["X-Cache"] == "hit"


def test_a_reader_that_was_overtaken_by_a_change_caches_nothing(
    users: Service, postgres: PostgreSQL, database: DatabaseUrls, redis: RedisServer
) -> None:
    user_id = make(users, "overtaken")
    with ThreadPoolExecutor(1) as pool:
        with postgres.blocked(database.name, "users"):
            read = pool.submit(httpx.get, f"{users.url}/users/{user_id}", timeout=30, trust_env=False)
            wait_until(lambda: postgres.waiting(database.name) > 0, seconds=5, what="the query waits")
            # What a writer in another process does after its commit.
            assert redis.client.delete(f"user:{user_id}", f"lease:user:{user_id}") == 1
        assert read.result().status_code == 200
    assert redis.client.exists(f"user:{user_id}") == 0
    assert users.http.get(f"/users/{user_id}").headers["X-Cache"] == "miss"
    assert users.http.get(f"/users/{user_id}").headers["X-Cache"] == "hit"


def test_a_lease_that_its_holder_left_behind_delays_but_does_not_block(users: Service, redis: RedisServer) -> None:
    user_id = make(users, "orphaned")
    redis.client.set(f"lease:user:{user_id}", "a process that was killed", px=1000)
    begun = time.monotonic()
    answer = users.http.get(f"/users/{user_id}")
    assert answer.status_code == 200
    assert 0.5 < time.monotonic() - begun < 3
    assert users.http.get(f"/users/{user_id}").headers["X-Cache"] == "hit"


def test_a_lease_whose_answer_was_lost_delays_others_for_less_than_a_switchover_may(
    users: Service, postgres: PostgreSQL, database: DatabaseUrls, redis: RedisServer
) -> None:
    user_id = make(users, "lease")
    lease = f"lease:user:{user_id}"
    with ThreadPoolExecutor(1) as pool, postgres.blocked(database.name, "users"):
        read = pool.submit(users.http.get, f"/users/{user_id}")
        wait_until(lambda: redis.client.pttl(lease) > 0, seconds=5, what="the lease is taken")
        assert redis.client.pttl(lease) <= 2000
    assert read.result().status_code == 200


def test_no_such_user_is_not_cached(users: Service, redis: RedisServer) -> None:
    assert users.http.get("/users/77777777").status_code == 404
    assert redis.client.exists("user:77777777", "lease:user:77777777") == 0


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:{port}/0"], ids=["none", "nobody listens"])
def test_without_a_cache_everything_works(variables: dict[str, str], url: str) -> None:
    with service("users", {**variables, "REDIS_URL": url.format(port=free_port())}) as users:
        user_id = make(users, f"uncached{bool(url)}")
        for _ in range(5):
            answer = users.http.get(f"/users/{user_id}")
            assert (answer.status_code, answer.headers["X-Cache"]) == (200, "miss")
        assert users.http.patch(f"/users/{user_id}", json={"city": "Rome"}).status_code == 200
        assert users.http.get(f"/users/{user_id}").json()["city"] == "Rome"
        assert users.http.delete(f"/users/{user_id}").status_code == 204


def test_a_cache_that_hangs_is_slow_for_a_moment_and_never_an_error(variables: dict[str, str]) -> None:
    with redis_server() as server, service("users", {**variables, "REDIS_URL": server.url}) as users:
        user_id = make(users, "hanging")
        users.http.get(f"/users/{user_id}")
        assert users.http.get(f"/users/{user_id}").headers["X-Cache"] == "hit"
        server.freeze()
        try:
            for _ in range(3):
                begun = time.monotonic()
                assert users.http.get(f"/users/{user_id}").status_code == 200
                assert time.monotonic() - begun < 1.5
            begun = time.monotonic()
            for _ in range(20):
                answer = users.http.get(f"/users/{user_id}")
                assert (answer.status_code, answer.headers["X-Cache"]) == (200, "miss")
            # Twenty timeouts would be five seconds.
            assert time.monotonic() - begun < 3
        finally:
            server.thaw()
        wait_until(
            lambda: users.http.get(f"/users/{user_id}").headers["X-Cache"] == "hit",
            seconds=6,
            what="the cache is used again",
        )


def test_a_cache_that_restarted_is_used_at_once(users: Service, redis: RedisServer) -> None:
    user_id = make(users, "reconnect")
    users.http.get(f"/users/{user_id}")
    assert redis.client.client_kill_filter(skipme=True) > 0
    assert users.http.get(f"/users/{user_id}").headers["X-Cache"] == "hit"


def test_the_breaker_opens_after_failures_in_a_row_and_probes_once_a_pause() -> None:
    now = 100.0
    breaker = Breaker(failures=2, pause=10, clock=lambda: now)
    breaker.failed(OSError("first"))
    breaker.succeeded()
    breaker.failed(OSError("first again"))
    assert breaker.allows()
    breaker.failed(OSError("second"))
    assert not breaker.allows()
    now = 110.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.succeeded()
    assert [breaker.allows(), breaker.allows()] == [True, True]
