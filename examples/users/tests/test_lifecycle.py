import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.services import SERVERS, Service, service


@pytest.mark.parametrize("server", SERVERS)
def test_a_stop_lets_a_running_request_finish(
    server: str, variables: dict[str, str], postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    person = {"email": f"{server}@lifecycle.example.org", "name": "Last"}
    with service("users", variables, server=server) as users, ThreadPoolExecutor(1) as pool:
        with postgres.blocked(database.name, "users"):
            last = pool.submit(httpx.post, f"{users.url}/users", json=person, timeout=30, trust_env=False)
            wait_until(lambda: postgres.waiting(database.name) > 0, seconds=5, what="the request runs")
            users.process.send(signal.SIGTERM)
            time.sleep(1)
            assert users.process.running
            assert not last.done()
        assert last.result().status_code == 201
        users.process.wait(10)


def test_a_process_that_stops_says_that_it_is_not_ready(variables: dict[str, str]) -> None:
    with service("users", {**variables, "SHUTDOWN_DELAY": "2"}) as users:
        assert users.http.get("/readyz").json() == {"status": "ready"}
        begun = time.monotonic()
        users.process.send(signal.SIGTERM)
        wait_until(lambda: users.http.get("/readyz").status_code != 200, seconds=1, what="it is not ready")
        answer = users.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        assert answer.headers["Retry-After"] == "1"
        assert users.http.get("/healthz").status_code == 200
        assert users.http.get("/users").status_code == 200
        users.process.wait(10)
        assert time.monotonic() - begun >= 2


def test_without_its_database_a_service_is_ready_and_says_try_again(
    users: Service, variables: dict[str, str], postgres: PostgreSQL
) -> None:
    person = {"email": "outage@lifecycle.example.org", "name": "Late"}
    assert users.http.get("/users").status_code == 200
    postgres.stop()
    try:
        with service("users", variables) as started_without:
            for running in (users, started_without):
                for answer in (
                    running.http.get("/users"),
                    running.http.get("/users/1000000"),
                    running.http.post("/users", json=person),
                    running.http.delete("/users/1000000"),
                ):
                    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
                    assert int(answer.headers["Retry-After"]) > 0
                assert running.http.get("/healthz").status_code == 200
                assert running.http.get("/readyz").status_code == 200
    finally:
        postgres.start()
    assert users.http.post("/users", json=person).status_code == 201


def test_broken_connections_are_noticed_before_they_are_used(users: Service, postgres: PostgreSQL) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(users.http.get, ["/users"] * 40)} == {200}
    postgres.stop()
    postgres.start()
    answers = [users.http.get("/users").status_code for _ in range(20)]
    assert answers == [200] * 20


def test_a_database_that_hangs_is_given_up(
    variables: dict[str, str], postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    with service("users", {**variables, "DATABASE_TIMEOUT": "1", "DATABASE_POOL_SIZE": "2"}) as users:
        with postgres.blocked(database.name, "users"), ThreadPoolExecutor(12) as pool:
            begun = time.monotonic()
            answers = list(pool.map(users.http.get, ["/users"] * 12))
            assert {answer.status_code for answer in answers} == {503}
            assert time.monotonic() - begun < 8
        assert [users.http.get("/users").status_code for _ in range(10)] == [200] * 10


def test_reads_that_need_no_primary_go_on_while_writes_wait(
    variables: dict[str, str], postgres: PostgreSQL, database: DatabaseUrls, migrated: DatabaseUrls
) -> None:
    replica = postgres.copy_database("replica", migrated)
    here = {"DATABASE_READ_URL": replica.application, "DATABASE_TIMEOUT": "3", "DATABASE_POOL_SIZE": "2"}
    person = {"email": "cached@lifecycle.example.org", "name": "Known"}
    with service("users", {**variables, **here}) as users, ThreadPoolExecutor(30) as pool:
        known = users.http.post("/users", json=person).headers["Location"]
        assert users.http.get(known).status_code == 200
        with postgres.blocked(database.name, "users"):
            waiting = [
                pool.submit(users.http.post, "/users", json={"email": f"waits{n}@example.org", "name": "W"})
                for n in range(30)
            ]
            wait_until(lambda: postgres.waiting(database.name) == 4, seconds=5, what="every connection waits")
            for _ in range(20):
                cached, listed = users.http.get(known), users.http.get("/users")
                assert (cached.status_code, cached.headers["X-Cache"], listed.status_code) == (200, "hit", 200)
                assert max(cached.elapsed, listed.elapsed) < timedelta(seconds=1)
            answers = [each.result() for each in waiting]
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(503, "2")}
        assert max(answer.elapsed for answer in answers) < timedelta(seconds=5)
        assert users.http.post("/users", json={**person, "email": "after@example.org"}).status_code == 201


def test_a_user_who_is_not_cached_comes_from_a_replica_while_the_primary_is_away(
    variables: dict[str, str], postgres: PostgreSQL, migrated: DatabaseUrls
) -> None:
    primary, replica = (postgres.copy_database(name, migrated) for name in ("ahead", "behind"))
    for urls, name in ((primary, "New"), (replica, "Old")):
        with psycopg.connect(urls.application) as connection:
            connection.execute("INSERT INTO users (email, name) VALUES ('a@example.org', %s)", (name,))
    here = {
        "DATABASE_URL": primary.application,
        "DATABASE_READ_URL": replica.application,
        "PRIMARY_TIMEOUT": "0.5",
        "REDIS_URL": variables["REDIS_URL"].removesuffix("0") + "1",
    }
    with service("users", {**variables, **here}) as users:
        with postgres.blocked(primary.name, "users"):
            for _ in range(2):
                answer = users.http.get("/users/1")
                assert (answer.status_code, answer.json()["name"], answer.headers["X-Cache"]) == (200, "Old", "miss")
            # Who is not there may be too young for a replica.
            assert users.http.get("/users/2").status_code == 503
        assert users.http.get("/users/2").status_code == 404
        answers = [users.http.get("/users/1") for _ in range(2)]
        assert [(each.json()["name"], each.headers["X-Cache"]) for each in answers] == [("New", "miss"), ("New", "hit")]


def test_a_server_that_answers_nothing_keeps_nobody_beyond_the_timeout(
    variables: dict[str, str], postgres: PostgreSQL
) -> None:
    """Not even for what psycopg does about a statement that is given up: it asks the same server to cancel it."""
    person = {"email": "frozen@lifecycle.example.org", "name": "Cold"}
    with service("users", {**variables, "DATABASE_TIMEOUT": "1"}) as users, ThreadPoolExecutor(4) as pool:
        assert users.http.get("/users").status_code == 200
        with postgres.frozen():
            answers = list(pool.map(lambda _: users.http.post("/users", json=person), range(8)))
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(503, "2")}
        assert max(answer.elapsed for answer in answers) < timedelta(seconds=3)
        assert users.http.post("/users", json=person).status_code == 201


def test_a_login_that_is_refused_is_told_at_once(users: Service, postgres: PostgreSQL, database: DatabaseUrls) -> None:
    person = {"email": "refused@lifecycle.example.org", "name": "Quick"}
    with postgres.refusing(database.name):
        answer = users.http.post("/users", json=person)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert answer.elapsed < timedelta(seconds=1)
    assert users.http.post("/users", json=person).status_code == 201
