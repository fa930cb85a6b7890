from testing.postgresql import DatabaseUrls, PostgreSQL, timers_of_a_wait, work_while_silent
from users.database import Connection, Database, DatabaseUnavailableError


def test_a_connection_that_waits_looks_round_once_a_second_at_most(database: DatabaseUrls) -> None:
    assert not [delay for delay in timers_of_a_wait(Connection, database.application) if delay < 1]


def test_who_waits_for_a_connection_is_told_that_another_one_could_not_be_made(
    postgres: PostgreSQL, database: DatabaseUrls
) -> None:
    """SQLAlchemy's pool tells nobody: all of `timeout` went by, with a database that answered again."""
    *failed, last = work_while_silent(postgres, Database(database.application, pool_size=1, timeout=9), 2, 1)
    assert {type(end) for end in failed} == {DatabaseUnavailableError}
    assert last is None
