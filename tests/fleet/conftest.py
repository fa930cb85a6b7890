"""What the fleet's tests stand on: the lab's hosts over SSH, and clients that go through the load balancers.

Nothing here runs unless the lab's network is on this machine, so that no test ever sends traffic elsewhere.
"""

from __future__ import annotations

import subprocess

import pytest

import lab


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to send anything while the lab's network is not there."""
    if not lab.network_is_up():
        pytest.exit("The lab's network is not on this machine; run `make up` first.", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Load the data first and reboot hosts last; the rest in the order of the files."""
    first, last = "test_data.py", "test_reboot.py"
    items.sort(key=lambda item: (item.path.name == last, item.path.name != first))


@pytest.fixture(scope="session")
def hosts() -> dict[str, lab.Host]:
    """Return the lab's hosts by name."""
    return {name: lab.Host(name) for name in lab.ADDRESSES}


@pytest.fixture
def everything_ready(hosts: dict[str, lab.Host]):
    """Leave the lab as it was found: after the test, every service is ready on every node again."""
    yield
    lab.wait_until_ready(timeout=90)


@pytest.fixture(scope="session", autouse=True)
def ready_at_start() -> None:
    """Begin with every service ready on every node."""
    lab.wait_until_ready(timeout=90)


@pytest.fixture(scope="session")
def home_engine(hosts) -> lab.Engine:
    """Return the engine that the lab had when the tests began."""
    return lab.running_engine(hosts)


@pytest.fixture(scope="module", params=lab.ENGINES, ids=lambda engine: engine.name)
def engine(request, hosts, playbook, home_engine):
    """Run a module's tests with each engine, and leave the lab with its own. No change may fail a request."""
    if lab.running_engine(hosts) != request.param:
        lab.change_engine(hosts, playbook, request.param)
    yield request.param
    if request.param != home_engine:
        lab.change_engine(hosts, playbook, home_engine)


@pytest.fixture(scope="session")
def playbook():
    """Return a function that runs ansible-playbook on the lab and returns its result."""

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [lab.ROOT / ".venv/bin/ansible-playbook", "--inventory=inventory/lab", *words],
            cwd=lab.ROOT,
            env=lab.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    return run
