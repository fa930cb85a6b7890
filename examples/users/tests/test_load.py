import psycopg
import pytest

from testing.postgresql import DatabaseUrls, PostgreSQL
from testing.services import run

DIGEST = "SELECT md5(string_agg(users::text, '' ORDER BY id)) FROM users"


@pytest.fixture(scope="module")
def empty(postgres: PostgreSQL, migrated: DatabaseUrls) -> DatabaseUrls:
    return postgres.copy_database("loaded", migrated)


def load(urls: DatabaseUrls, count: int) -> str:
    done = run("users", "users.load", "--count", str(count), variables={"DATABASE_SESSION_URL": urls.application})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_loading_fills_what_is_missing_and_leaves_the_rest(empty: DatabaseUrls) -> None:
    with psycopg.connect(empty.application, autocommit=True) as connection:
        connection.execute("INSERT INTO users (email, name) VALUES ('first@b.c', 'First')")

        assert load(empty, 7000).startswith("users: 7,000 there, 6,999 of them new")
        assert connection.execute("SELECT count(*), min(id), max(id) FROM users").fetchone() == (7000, 1, 7000)
        assert connection.execute("SELECT name FROM users WHERE id = 1").fetchone() == ("First",)
        whole = connection.execute(DIGEST).fetchone()

        assert load(empty, 7000).startswith("users: 7,000 there, 0 of them new")
        connection.execute("DELETE FROM users WHERE id BETWEEN 4990 AND 5010")
        assert load(empty, 7000).startswith("users: 7,000 there, 21 of them new")
        assert connection.execute(DIGEST).fetchone() == whole

        row = connection.execute("INSERT INTO users (email, name) VALUES ('next@b.c', 'Next') RETURNING id").fetchone()
        assert row == (7001,)
        assert load(empty, 20).startswith("users: 20 there, 0 of them new")
        row = connection.execute(
            "INSERT INTO users (email, name) VALUES ('after@b.c', 'After') RETURNING id"
        ).fetchone()
        assert row == (7002,)


def test_loaded_users_are_like_real_ones(empty: DatabaseUrls) -> None:
    load(empty, 7000)
    with psycopg.connect(empty.application, autocommit=True) as connection:
        names, cities, emails = connection.execute(
            "SELECT count(DISTINCT name), count(DISTINCT city),"
            " count(*) FILTER (WHERE email ~ '^[a-z.-]+[.][0-9]+@example[.]org$')"
            " FROM users WHERE id BETWEEN 2 AND 7000"
        ).fetchone()
    assert names > 3000
    assert cities > 40
    assert emails == 6999


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_wrong_count_is_refused(empty: DatabaseUrls, count: str) -> None:
    done = run("users", "users.load", "--count", count, variables={"DATABASE_URL": empty.application})
    assert done.returncode == 2
    assert "--count" in done.stderr
