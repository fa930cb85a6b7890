"""The fleet's tests: which come first and last, and what they share."""

from __future__ import annotations

import pytest

import lab
from fixtures import everything_ready, hosts, playbook, pytest_sessionstart, ready_at_start

__all__ = ["everything_ready", "hosts", "playbook", "pytest_sessionstart", "ready_at_start"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Load the data first, change engines late, reboot and break hosts last; the rest in the order of the files."""
    first, last = "test_data.py", ("test_reboot.py",)
    items.sort(key=lambda item: (item.path.name in last, "engine" in item.fixturenames, item.path.name != first))


@pytest.fixture(scope="session")
def home_engine(hosts) -> lab.Engine:
    """Return the engine that the lab had when the tests began."""
    return lab.running_engine(hosts)


@pytest.fixture(scope="session", params=lab.ENGINES, ids=lambda engine: engine.name)
def engine(request, hosts, playbook, home_engine):
    """Run tests with each engine; `back_home` ends that. No change may fail a request."""
    if lab.running_engine(hosts) != request.param:
        lab.change_engine(hosts, playbook, request.param)
    return request.param


@pytest.fixture
def away_engine(engine, home_engine) -> lab.Engine:
    """Return the engine that took over from the lab's own; a test of it is skipped where it has not yet."""
    if engine == home_engine:
        pytest.skip("this is of the engine that is not the lab's own, which comes to the balancers later")
    return engine


@pytest.fixture(scope="session")
def back_home(hosts, playbook, home_engine) -> None:
    """Have the lab's own engine again, for what comes after the tests of engines. No change may fail a request."""
    if lab.running_engine(hosts) != home_engine:
        lab.change_engine(hosts, playbook, home_engine)
