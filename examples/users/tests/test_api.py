import json
import re
from itertools import count

import httpx
import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.processes import wait_until
from testing.redis import RedisServer
from testing.services import Service, run, service
from users.settings import SettingError, Settings

numbers = count(1)


def someone(**more: str) -> dict[str, str]:
    return {"email": f"person{next(numbers)}@example.org", "name": "Ada O'Brien", "city": "Kraków", **more}


def make(users: Service, **more: str) -> dict:
    answer = users.http.post("/users", json=someone(**more))
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_new_user_is_read_back(users: Service) -> None:
    given = someone()
    made = users.http.post("/users", json=given)
    assert made.status_code == 201
    assert {name: made.json()[name] for name in given} == given
    read = users.http.get(made.headers["Location"])
    assert (read.status_code, read.json()) == (200, made.json())


def test_the_first_read_misses_and_the_second_hits(users: Service) -> None:
    path = f"/users/{make(users)['id']}"
    answers = [users.http.get(path) for _ in range(3)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert len({answer.content for answer in answers}) == 1
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}


def test_a_change_is_seen_at_once(users: Service) -> None:
    user = make(users)
    path = f"/users/{user['id']}"
    users.http.get(path)
    assert users.http.get(path).headers["X-Cache"] == "hit"
    changed = users.http.patch(path, json={"name": "Grace"})
    assert changed.status_code == 200
    assert changed.json() == {**user, "name": "Grace", "updated_at": changed.json()["updated_at"]}
    assert changed.json()["updated_at"] > user["updated_at"]
    read = users.http.get(path)
    assert (read.json(), read.headers["X-Cache"]) == (changed.json(), "miss")


def test_a_deleted_user_is_gone_at_once(users: Service) -> None:
    path = f"/users/{make(users)['id']}"
    users.http.get(path)
    assert users.http.get(path).headers["X-Cache"] == "hit"
    deleted = users.http.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert users.http.get(path).status_code == 404
    assert users.http.delete(path).status_code == 404
    assert users.http.patch(path, json={"name": "Nobody"}).status_code == 404


def test_a_cached_user_expires(users: Service, redis: RedisServer) -> None:
    user_id = make(users)["id"]
    users.http.get(f"/users/{user_id}")
    assert 50_000 < redis.client.pttl(f"user:{user_id}") <= 60_000


def test_an_address_is_taken_once_whatever_its_case(users: Service) -> None:
    first, second = make(users), make(users)
    for answer in (
        users.http.post("/users", json=someone(email=first["email"].upper())),
        users.http.patch(f"/users/{second['id']}", json={"email": first["email"]}),
    ):
        assert (answer.status_code, answer.json()["error"]) == (409, "conflict")
    assert users.http.get(f"/users/{second['id']}").json() == second


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"email": "nothing", "name": "N"}),
        json.dumps({"email": "a@b.c", "name": ""}),
        json.dumps({"email": "a@b.c", "name": "  "}),
        json.dumps({"email": "a@b.c", "name": "x" * 201}),
        json.dumps({"email": "a@b.c", "name": "null\0byte"}),
        json.dumps({"email": "a@b.c", "name": "half a \ud800"}),
        json.dumps({"email": "a@b.c", "name": "N", "admin": True}),
        json.dumps({"email": f"{'x' * 251}@b.c", "name": "N"}),
    ],
)
def test_what_is_not_a_user_is_refused(users: Service, body: str) -> None:
    answer = users.http.post("/users", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (422, "unprocessable")
    assert answer.json()["fields"]


@pytest.mark.parametrize(
    "path", ["/users/0", "/users/x", f"/users/{2**63}", "/users?limit=0", "/users?limit=101", "/users?after=-1"]
)
def test_numbers_out_of_range_are_refused(users: Service, path: str) -> None:
    assert users.http.get(path).status_code == 422


def test_pages_hold_every_user_once(postgres: PostgreSQL, migrated: DatabaseUrls, redis: RedisServer) -> None:
    urls = postgres.copy_database("paged", migrated)
    loaded = run("users", "users.load", "--count", "257", variables={"DATABASE_URL": urls.application})
    assert loaded.returncode == 0, loaded.stderr
    with service("users", {"DATABASE_URL": urls.application, "REDIS_URL": redis.url}) as users:
        for limit in (1, 64, 100):
            seen, after, pages = [], 0, 0
            while after is not None:
                page = users.http.get("/users", params={"limit": limit, "after": after}).json()
                assert len(page["users"]) <= limit
                seen += [user["id"] for user in page["users"]]
                after = page["next"]
                pages += 1
            assert seen == list(range(1, 258))
            assert pages == -(-257 // limit)
        assert len(users.http.get("/users").json()["users"]) == 20


def test_every_answer_names_request_and_node(users: Service) -> None:
    path = f"/users/{make(users)['id']}"
    for method, url, status in [
        ("GET", path, 200),
        ("GET", "/users/9999999", 404),
        ("GET", "/elsewhere", 404),
        ("PUT", "/users", 405),
        ("POST", "/users", 422),
        ("GET", "/healthz", 200),
    ]:
        answer = users.http.request(method, url, headers={"X-Request-ID": "abc-1.2_3"})
        assert answer.status_code == status
        assert answer.headers.get_list("X-Served-By") == ["node-7"]
        assert answer.headers.get_list("X-Request-ID") == ["abc-1.2_3"]
        if status >= 400:
            assert answer.json()["request_id"] == "abc-1.2_3"
            assert answer.json()["message"]
    assert users.http.put("/users").headers["Allow"]


@pytest.mark.parametrize("given", [None, "", "no spaces", "x" * 65, "new\tline"])
def test_a_request_without_a_usable_id_gets_one(users: Service, given: str | None) -> None:
    answer = users.http.get("/healthz", headers=None if given is None else {"X-Request-ID": given})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["X-Request-ID"])


def test_requests_are_logged_with_their_id(users: Service) -> None:
    def lines() -> list[str]:
        return [line for line in users.process.printed().splitlines() if "find-me-in-the-log" in line]

    users.http.get("/users/424242", headers={"X-Request-ID": "find-me-in-the-log"})
    # The line is written once the answer has left.
    wait_until(lines, seconds=5, what="the request is logged")
    assert len(lines()) == 1
    assert 'method=GET path="/users/424242" status=404' in lines()[0]


def test_an_unexpected_error_is_an_answer_that_tells_nothing(users: Service, database: DatabaseUrls) -> None:
    user_id = make(users)["id"]
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("ALTER TABLE users RENAME COLUMN city TO town")
        try:
            answer = users.http.get(f"/users/{user_id}")
        finally:
            connection.execute("ALTER TABLE users RENAME COLUMN town TO city")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "city" not in answer.text
    assert answer.headers["X-Served-By"] == "node-7"
    assert users.http.get(f"/users/{user_id}").status_code == 200


def test_lists_come_from_the_replica_and_single_users_from_the_primary(variables: dict[str, str]) -> None:
    with service("users", {**variables, "DATABASE_READ_URL": "postgresql://nobody@127.0.0.1:1/none"}) as users:
        user = make(users)
        assert users.http.get(f"/users/{user['id']}").status_code == 200
        assert users.http.get("/users").status_code == 503


def test_a_wrong_environment_is_said_at_once(variables: dict[str, str]) -> None:
    done = run("users", "users.main", variables={**variables, "DATABASE_URL": ""})
    assert done.returncode != 0
    assert done.stderr.strip().endswith("SettingError: DATABASE_URL is not set")
    for name, value in {"DATABASE_POOL_SIZE": "many", "CACHE_TTL": "0", "SHUTDOWN_DELAY": "nan"}.items():
        with pytest.raises(SettingError, match=f"^{name} is "):
            Settings.from_environment({**variables, name: value})


def test_clients_may_reuse_a_connection(users: Service) -> None:
    with httpx.Client(base_url=users.url, trust_env=False, limits=httpx.Limits(max_connections=1)) as client:
        assert {client.get("/healthz").status_code for _ in range(20)} == {200}
