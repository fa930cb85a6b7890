"""What tests on the lab stand on: its hosts over SSH, and clients that go through the load balancers.

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


@pytest.fixture(scope="session")
def hosts() -> dict[str, lab.Host]:
    """Return the lab's hosts by name."""
    return {name: lab.Host(name) for name in lab.ADDRESSES}


@pytest.fixture
def everything_ready(hosts: dict[str, lab.Host]):
    """Leave the lab as it was found: after the test, every service is ready on every node again."""
    yield
    lab.wait_until_ready(timeout=90)


@pytest.fixture
def unlocked(hosts: dict[str, lab.Host], everything_ready: None):
    """Leave the lab as it was found: after the test, the environment is not locked on any node, either."""
    yield
    held = [node for node in lab.NODES if hosts[node].try_run("test -e /run/terrace/lock.json").returncode == 0]
    assert held == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Return a folder for what a module's tests make."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session", autouse=True)
def ready_at_start() -> None:
    """Begin with every service ready on every node."""
    lab.wait_until_ready(timeout=90)


@pytest.fixture(scope="session")
def playbook():
    """Return a function that runs ansible-playbook on the lab's inventory and returns its result.

    It does so as `MITOGEN=1` has it, which takes half the time here, like the runs of the scenario `default`; those of
    `single` are Ansible's plain ones.
    """

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={lab.INVENTORY}", *words],
            cwd=lab.ROOT,
            env=lab.environment() | {"ANSIBLE_STRATEGY": "mitogen_linear"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
