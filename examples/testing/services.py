"""The example services as processes of their own, reached over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from testing.processes import Process, free_port, scratch_directory, wait_until

EXAMPLES = Path(__file__).resolve().parent.parent
SERVERS = {
    "uvicorn": ["uvicorn", "--host=127.0.0.1", "--port={port}", "{app}"],
    "gunicorn": ["gunicorn", "--bind=127.0.0.1:{port}", "--worker-class=uvicorn_worker.UvicornWorker", "{app}"],
    "granian": ["granian", "--interface=asgi", "--host=127.0.0.1", "--port={port}", "{app}"],
}


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that holds nothing but what is needed and what is given."""
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **variables}


def run(project: str, *arguments: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in a project's directory to its end.

    Args:
        project: users or orders.
        arguments: What follows `python -m`.
        variables: Its environment.
    """
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=EXAMPLES / project,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def migrate(project: str, owner_url: str, to: str = "head") -> None:
    """Bring a database to a revision of a project."""
    done = run(project, "alembic", "upgrade", to, variables={"DATABASE_URL": owner_url})
    assert done.returncode == 0, done.stderr


class Service:
    """A running service.

    Args:
        process: The server.
        url: Where it answers.
    """

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)


@contextmanager
def service(project: str, variables: Mapping[str, str], *, server: str = "uvicorn", port: int = 0) -> Iterator[Service]:
    """Run a service until the end of the block.

    Args:
        project: users or orders.
        variables: Its environment.
        server: uvicorn, gunicorn or granian.
        port: Where it listens; 0 is any free one.
    """
    port = port or free_port()
    module, *arguments = (part.format(port=port, app=f"{project}.main:app") for part in SERVERS[server])
    with scratch_directory(project) as directory:
        process = Process(
            [sys.executable, "-m", module, *arguments],
            directory=EXAMPLES / project,
            environment=environment(variables),
            output=directory / "log",
        )
        running = Service(process, f"http://127.0.0.1:{port}")

        def ready() -> bool:
            assert process.running, process.printed()
            try:
                return running.http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(ready, seconds=30, what=f"{project} is ready")
            yield running
        finally:
            running.http.close()
            process.end()
