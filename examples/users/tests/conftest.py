from collections.abc import Iterator

import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL, postgresql
from testing.redis import RedisServer, redis_server
from testing.services import Service, migrate, service


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: PostgreSQL) -> DatabaseUrls:
    """What other databases are copies of; nobody connects to it, or it could not be copied."""
    urls = postgres.create_database("migrated")
    migrate("users", urls.owner)
    return urls


@pytest.fixture(scope="session")
def database(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    return postgres.copy_database("people", migrated)


@pytest.fixture(scope="session")
def variables(database: DatabaseUrls, redis: RedisServer) -> dict[str, str]:
    return {"DATABASE_URL": database.application, "REDIS_URL": redis.url, "NODE_NAME": "node-7"}


@pytest.fixture(scope="session")
def users(variables: dict[str, str]) -> Iterator[Service]:
    with service("users", variables) as running:
        yield running
