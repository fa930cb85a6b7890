from collections.abc import Iterator

import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL, postgresql
from testing.redis import redis_server
from testing.services import Service, migrate, service


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def users(postgres: PostgreSQL) -> Iterator[Service]:
    """The other service, the real one."""
    urls = postgres.create_database("people")
    migrate("users", urls.owner)
    with (
        redis_server() as redis,
        service("users", {"DATABASE_URL": urls.application, "REDIS_URL": redis.url}) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def user_id(users: Service) -> int:
    answer = users.http.post("/users", json={"email": "buyer@example.org", "name": "Buyer"})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@pytest.fixture(scope="session")
def migrated(postgres: PostgreSQL) -> DatabaseUrls:
    """What other databases are copies of; nobody connects to it, or it could not be copied."""
    urls = postgres.create_database("migrated")
    migrate("orders", urls.owner)
    return urls


@pytest.fixture(scope="session")
def database(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    return postgres.copy_database("sales", migrated)


@pytest.fixture(scope="session")
def variables(database: DatabaseUrls, users: Service) -> dict[str, str]:
    return {"DATABASE_URL": database.application, "USERS_URL": users.url, "NODE_NAME": "node-7"}


@pytest.fixture(scope="session")
def orders(variables: dict[str, str]) -> Iterator[Service]:
    with service("orders", variables) as running:
        yield running
