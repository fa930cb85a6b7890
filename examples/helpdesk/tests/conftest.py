from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from testing.postgresql import PostgreSQL, postgresql
from testing.processes import Process, scratch_directory, wait_until
from testing.redis import RedisServer, redis_server
from testing.services import environment

PROJECT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery staple"  # noqa: S105
# As Terrace starts them: on a unix socket, and whoever connects to it is believed what it says of the client.
SERVERS = {
    "gunicorn": ["--bind=unix:{socket}", "--worker-class=gthread", "--threads=4", "--workers=2",
                 "--forwarded-allow-ips=*", "helpdesk.wsgi:application"],
    "granian": ["--uds={socket}", "--interface=wsgi", "--blocking-threads=4", "helpdesk.wsgi:application"],
    "uvicorn": ["--uds={socket}", "--proxy-headers", "--forwarded-allow-ips=*", "helpdesk.asgi:application"],
}  # fmt: skip


def manage(*words: str, variables: Mapping[str, str]) -> str:
    """Run one of Django's commands and return what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=PROJECT,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(variables: Mapping[str, str], server: str = "gunicorn") -> Iterator[httpx.Client]:
    """Run the project under a server, and give a client that comes as through the proxies."""
    with scratch_directory("helpdesk") as directory:
        words = [word.format(socket=directory / "socket") for word in SERVERS[server]]
        process = Process(
            [sys.executable, "-m", server, *words],
            directory=PROJECT,
            # gunicorn puts a socket for its own use where the last one says.
            environment=environment({**variables, "XDG_RUNTIME_DIR": str(directory)}),
            output=directory / "log",
        )

        def answers() -> bool:
            assert process.running, process.printed()
            # httpx does not close what it could not connect.
            with socket.socket(socket.AF_UNIX) as probe:
                accepted = probe.connect_ex(str(directory / "socket")) == 0
            return accepted and client.get("/admin/login/").status_code == 200

        try:
            with httpx.Client(
                transport=httpx.HTTPTransport(uds=str(directory / "socket")),
                base_url="https://helpdesk.lab",
                headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"},
                timeout=20,
            ) as client:
                # The transport speaks TLS where the address says so; the proxies have taken it off by then.
                client.event_hooks = {"request": [plain]}
                wait_until(answers, seconds=30, what="the project answers")
                client.cookies.clear()
                yield client
        finally:
            process.end()
            print(process.printed())


def plain(request: httpx.Request) -> None:
    """Send a request as HTTP without TLS."""
    request.url = request.url.copy_with(scheme="http")


@contextmanager
def working(variables: Mapping[str, str]) -> Iterator[Process]:
    """Run a Celery worker, and wait until it takes tasks."""
    with scratch_directory("celery") as directory:
        process = Process(
            [Path(sys.executable).parent / "celery", "--app", "helpdesk", "worker", "--loglevel", "INFO",
             "--concurrency", "2", "--without-gossip", "--without-mingle"],
            directory=PROJECT,
            environment=environment(variables),
            output=directory / "log",
        )  # fmt: skip

        def ready() -> bool:
            assert process.running, process.printed()
            return " ready." in process.printed()

        try:
            wait_until(ready, seconds=30, what="the worker takes tasks")
            yield process
        finally:
            process.end()
            print(process.printed())


def login(client: httpx.Client) -> httpx.Response:
    """Log in as a browser does, by the form."""
    client.get("/admin/login/")
    return submit(client, "/admin/login/", username="ada", password=PASSWORD, next="/admin/")


def submit(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Send a form with what a browser adds to it."""
    return client.post(
        path,
        data={**fields, "csrfmiddlewaretoken": client.cookies["csrftoken"]},
        headers={"Origin": "https://helpdesk.lab", "Referer": f"https://helpdesk.lab{path}"},
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def cache() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def queue() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def variables(
    postgres: PostgreSQL, cache: RedisServer, queue: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment of the service: a database that was migrated by its owner, one superuser, and static files."""
    urls = postgres.create_database("helpdesk")
    service = {
        "SECRET_KEY": "of these tests",
        "ALLOWED_HOSTS": "helpdesk.lab,localhost",
        "DATABASE_URL": urls.application,
        "REDIS_URL": cache.create_user("helpdesk"),
        "QUEUE_URL": queue.create_user("helpdesk"),
        "HOME": os.environ.get("HOME", "/"),
        "STATIC_ROOT": str(tmp_path_factory.mktemp("static")),
    }
    manage("collectstatic", "--noinput", variables=service)
    manage("migrate", "--noinput", variables=service | {"DATABASE_URL": urls.owner})
    who = ("--username=ada", "--email=ada@example.org")
    manage("createsuperuser", "--noinput", *who, variables=service | {"DJANGO_SUPERUSER_PASSWORD": PASSWORD})
    return service


@pytest.fixture(scope="session")
def http(variables: dict[str, str]) -> Iterator[httpx.Client]:
    with serving(variables) as client:
        yield client


@pytest.fixture(scope="session")
def worker(variables: dict[str, str]) -> Iterator[Process]:
    with working(variables) as process:
        yield process
