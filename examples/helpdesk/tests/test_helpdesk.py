"""The project as Terrace runs it: its servers, a worker, and the rights that its users of PostgreSQL and Redis have."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from conftest import SERVERS, login, manage, serving, submit, working
from testing.postgresql import PostgreSQL
from testing.processes import Process, wait_until
from testing.redis import RedisServer


def rows(variables: dict[str, str], statement: str, *values: object) -> list[tuple]:
    with psycopg.connect(variables["DATABASE_URL"]) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def test_models_and_migrations_agree(variables: dict[str, str]) -> None:
    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run", variables=variables)


@pytest.mark.parametrize("server", SERVERS)
def test_a_login_works_under_each_server(variables: dict[str, str], server: str) -> None:
    """The check of a form's origin passes only where Django knows that the client spoke TLS."""
    with serving(variables, server) as client:
        assert login(client).headers["location"] == "/admin/"
        assert client.get("/admin/").status_code == 200
        cookies = {cookie.name: cookie.secure for cookie in client.cookies.jar}
        assert cookies == {"csrftoken": True, "sessionid": True}


def test_a_login_holds_in_another_slot_and_is_kept_in_redis(
    variables: dict[str, str], http: httpx.Client, cache: RedisServer
) -> None:
    login(http)
    with serving(variables) as other:
        assert other.get("/admin/").status_code == 302
        other.cookies.set("sessionid", http.cookies["sessionid"])
        assert other.get("/admin/").status_code == 200
    keys = {key.decode() for key in cache.client.scan_iter()}
    assert f"helpdesk:1:django.contrib.sessions.cache{http.cookies['sessionid']}" in keys
    assert {key.split(":")[0] for key in keys} == {"helpdesk"}
    assert rows(variables, "SELECT count(*) FROM django_session") == [(0,)]


def test_the_page_that_tells_of_health_asks_nobody(
    http: httpx.Client, postgres: PostgreSQL, cache: RedisServer, queue: RedisServer
) -> None:
    http.cookies.clear()
    cache.freeze()
    queue.freeze()
    try:
        with postgres.frozen():
            for host in ("helpdesk.lab", "localhost"):
                answer = http.get("/admin/login/", headers={"Host": host}, timeout=3)
                assert answer.status_code == 200, answer.text
    finally:
        cache.thaw()
        queue.thaw()
    assert http.get("/admin/login/", headers={"Host": "example.org"}).status_code == 400


def test_pages_name_the_static_files_that_were_collected(variables: dict[str, str], http: httpx.Client) -> None:
    names = re.findall(r'"/static/([^"]+\.css)"', http.get("/admin/login/").text)
    assert names
    assert all(re.fullmatch(r".+\.[0-9a-f]{12}\.css", name) for name in names)
    assert all((Path(variables["STATIC_ROOT"]) / name).is_file() for name in names)


def open_ticket(client: httpx.Client, subject: str) -> None:
    """Open a ticket by the admin's form."""
    client.get("/admin/tickets/ticket/add/")
    answer = submit(client, "/admin/tickets/ticket/add/", subject=subject, body="")
    assert answer.status_code == 302, answer.text


def acknowledged(variables: dict[str, str], subject: str) -> bool:
    """Tell whether a worker has seen a ticket."""
    statement = "SELECT acknowledged_at IS NOT NULL FROM tickets_ticket WHERE subject = %s"
    return rows(variables, statement, subject) == [(True,)]


def test_a_worker_acknowledges_a_new_ticket(
    variables: dict[str, str], http: httpx.Client, worker: Process, queue: RedisServer
) -> None:
    login(http)
    open_ticket(http, "It hums")
    wait_until(lambda: acknowledged(variables, "It hums"), seconds=10, what="the ticket is acknowledged")
    assert "acknowledged ticket" in worker.printed()
    assert {key.split(b":")[0] for key in queue.client.scan_iter()} == {b"helpdesk"}


def test_a_ticket_is_kept_while_the_queue_is_away_and_the_worker_goes_on_after_that(
    variables: dict[str, str], http: httpx.Client, worker: Process, queue: RedisServer
) -> None:
    login(http)
    # Room for this client alone: the others are refused.
    queue.client.config_set("maxclients", 1)
    queue.client.client_kill_filter(_type="normal", skipme=True)
    queue.client.client_kill_filter(_type="pubsub")
    try:
        open_ticket(http, "It is dark")
    finally:
        queue.client.config_set("maxclients", 1000)
    open_ticket(http, "It is light")
    wait_until(lambda: acknowledged(variables, "It is light"), seconds=30, what="the worker is back")
    assert not acknowledged(variables, "It is dark")


def test_stale_tickets_are_closed(variables: dict[str, str]) -> None:
    old = datetime.now(UTC) - timedelta(days=31)
    insert = "INSERT INTO tickets_ticket (subject, body, opened_at) VALUES ('Old', '', %s)"
    rows(variables, insert, old)
    assert manage("close_stale_tickets", "--days", "30", variables=variables) == "closed 1 tickets\n"
    assert manage("close_stale_tickets", "--days", "30", variables=variables) == "closed 0 tickets\n"


def test_a_worker_ends_when_it_is_told(variables: dict[str, str]) -> None:
    with working(variables) as process:
        process.send(signal.SIGTERM)
        assert process.wait(10) == 0
