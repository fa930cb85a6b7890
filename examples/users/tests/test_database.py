from testing.postgresql import DatabaseUrls, timers_of_a_wait
from users.database import Connection


def test_a_connection_that_waits_looks_round_once_a_second_at_most(database: DatabaseUrls) -> None:
    assert not [delay for delay in timers_of_a_wait(Connection, database.application) if delay < 1]
