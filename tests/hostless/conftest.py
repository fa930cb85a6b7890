"""What the hostless tests share: the project's plugins as modules, and its inventories rendered by Ansible itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Before Ansible is imported: it reads its configuration once.
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "plugins")]

import ansible.module_utils  # noqa: E402
import pytest  # noqa: E402
from xdist.remote import Producer  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from landscape import Landscape  # noqa: E402

if str(ROOT / "plugins/module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "plugins/module_utils"))

# Files whose tests look at whole landscapes: one worker of `make test-hostless` does them all, and renders each once.
LANDSCAPES = {f"test_{name}.py" for name in ("templates", "roles", "packages", "nginx", "keepalived", "sizing")}
# Files whose tests share nothing and take long: one by one and last, they go to whoever has nothing else to do.
APART = {"test_plan.py", "test_releases.py", "test_rotation.py"}


class Shares(LoadScopeScheduling):
    """Gives each worker a file at a time, in the order in which tests were collected."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        name = file.rpartition("/")[2]
        return "landscapes" if name in LANDSCAPES else nodeid if name in APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Shares:
    """Have tests be shared out so, whatever way was asked for."""
    config.option.loadscopereorder = False
    return Shares(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what has to be done by one worker come first, the longest before all, and what any can do come last."""
    first = ["landscapes", "test_environment.py"]

    def rank(item: pytest.Item) -> int:
        name = "landscapes" if item.path.name in LANDSCAPES else item.path.name
        return first.index(name) if name in first else len(first) + (name in APART)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch) -> None:
    """Messages name files as they are seen from the current directory, which is the project's, as with `make`."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def as_on_a_host(request, monkeypatch) -> None:
    """Tests that run modules have them behave as on a host, though Ansible's controller is here, too.

    A module's warnings would be shown by the controller otherwise, instead of returned.
    """
    if hasattr(request.module, "patch_module_args"):
        monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)


DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Landscape:
    """The lab's own inventory, its generated parts in a folder of the test."""
    return Landscape(ROOT / "inventory/lab", lab_state=str(tmp_path_factory.mktemp("lab")))


@pytest.fixture(scope="session")
def single() -> Landscape:
    """One machine in every group."""
    return Landscape(DATA / "inventory/single")


@pytest.fixture(scope="session")
def ha() -> Landscape:
    """Two load balancers, and three hosts of everything else."""
    return Landscape(DATA / "inventory/ha")


@pytest.fixture(scope="session")
def nginx() -> Landscape:
    """The same with nginx as the engine of its load balancers, and certificates of an ACME server."""
    return Landscape(DATA / "inventory/ha", loadbalancer_engine="nginx", tls={"mode": "acme", "hsts": 31536000})


@pytest.fixture(scope="session")
def stored() -> Landscape:
    """Three machines in every group but that for backups, which are in a store."""
    return Landscape(DATA / "inventory/stored")


@pytest.fixture(scope="session")
def production() -> Landscape:
    """The example of full size."""
    return Landscape(ROOT / "inventory/production")


@pytest.fixture(scope="session")
def staging() -> Landscape:
    """The example of two machines."""
    return Landscape(ROOT / "inventory/staging")


@pytest.fixture(scope="session", params=["lab", "single", "ha", "nginx", "stored", "production", "staging"])
def landscape(request) -> Landscape:
    """Each of them, one after the other."""
    return request.getfixturevalue(request.param)
