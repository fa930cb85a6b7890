"""What a node's services come to on it: lists for tasks, a slot that gives way, and what is no longer declared."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from landscape import load

filters = load("plugins/filter/python_service.py", "filter_python_service")
sizing = load("plugins/filter/sizing.py", "filter_sizing_for_services")
slot = load("plugins/modules/service_slot.py", "service_slot_module")
undeclared = load("plugins/modules/service_undeclared.py", "service_undeclared_module")

ORDERS = {
    "name": "orders",
    "release": "b",
    "workers": "auto",
    "memory": "1G",
    "timeout": {"request": 30, "stop": 20},
    "environment": {"TOKEN": "hunter2"},
    "migrate_environment": {"TOKEN": "hunter3"},
    "processes": {"mailer": {"command": "python -m mailer", "count": 2}, "off": {"command": "x", "count": 0}},
    "schedule": {"report": {"command": "python -m report", "at": "daily"}},
}
USERS = ORDERS | {"name": "users", "workers": 3, "processes": {}, "schedule": {}}


# The lists


def test_secrets_are_in_the_environments_alone():
    found = filters.service_environments([ORDERS])
    assert [(file["path"], file["variables"]) for file in found] == [
        ("/etc/terrace/services/orders/service.env", {"TOKEN": "hunter2"}),
        ("/etc/terrace/services/orders/migrate.env", {"TOKEN": "hunter3"}),
    ]
    for function in (filters.service_units, filters.service_slots, filters.service_declared):
        assert "hunter" not in str(function([ORDERS, USERS]))
    assert "hunter" not in str(filters.service_files([ORDERS, USERS]))


def test_files_of_services():
    found = filters.service_files(sizing.services_sized([ORDERS, USERS], 4))
    assert [file["path"].rpartition("/")[2] for file in found] == [
        *("svc-orders.conf", "svc-orders.target", "svc-orders@.service"),
        *("svc-orders-mailer@.service", "svc-orders-off@.service", "svc-orders-report.service"),
        *("svc-orders-report.timer", "svc-users.conf", "svc-users.target", "svc-users@.service"),
    ]
    assert [file["service"]["workers"] for file in found] == [4] * 7 + [3] * 3
    assert [(f["template"], f["name"], f["command"], f.get("at")) for f in found if "name" in f] == [
        ("svc-process@.service.j2", "mailer", "python -m mailer", None),
        ("svc-process@.service.j2", "off", "x", None),
        ("svc-schedule.service.j2", "report", "python -m report", "daily"),
        ("svc-schedule.timer.j2", "report", "python -m report", "daily"),
    ]


def test_units_of_services():
    found = filters.service_units([ORDERS, USERS])
    assert [unit["name"] for unit in found] == [
        *("svc-orders.target", "svc-orders-mailer@1.service", "svc-orders-mailer@2.service"),
        *("svc-orders-report.timer", "svc-users.target"),
    ]
    assert found[0]["files"] == []
    assert found[1]["files"] == [
        "/etc/systemd/system/svc-orders-mailer@.service",
        "/etc/terrace/services/orders/service.env",
        "/srv/terrace/orders/.live",
    ]
    files = {file["path"] for file in filters.service_files([ORDERS])}
    assert set(found[3]["files"]) <= files


def test_directories_of_services():
    found = {d["path"]: (d["owner"], d["group"], d["mode"]) for d in filters.service_directories(["orders"])}
    assert found == {
        "/run/terrace": ("root", "root", "0755"),
        "/etc/terrace/services": ("root", "root", "0755"),
        "/etc/terrace/services/orders": ("root", "root", "0755"),
        "/run/terrace/orders": ("svc-orders", "haproxy", "2750"),
    }


def test_what_a_node_runs_is_what_its_release_was_built_for(ha):
    """Where a release is live, its server and interface count; schedules and migrations are one node's."""
    run = "topology_services_here | services_run(topology_services, topology_service_first, topology_ports, vault_key, "
    release = {"id": "r1", "server": "granian", "interface": "wsgi"}
    found = ha.value("app2", f"{run} inventory_hostname, vault_services, {{'shop': {release}}}, ['shop'])")
    shop, stock = ({service["name"]: service for service in found}[name] for name in ("shop", "stock"))
    assert (shop["release"], shop["server"], shop["migrate"]) == ("r1", "granian", "python -m shop.migrate --all")
    assert (stock["release"], stock["server"], stock["migrate"]) == ("", "granian", "")
    assert shop["schedule"] == {}
    first = ha.value("app1", f"{run} inventory_hostname, vault_services)")
    shop = next(service for service in first if service["name"] == "shop")
    assert (shop["server"], shop["migrate"], list(shop["schedule"])) == ("uvicorn", "", ["report"])


# A node, as far as slots are concerned


class Killed(BaseException):
    """The run ended here; no handler of the module's may see it."""


class Node:
    """A node with one service: its files are real, its units are what systemctl is told of them.

    Parameters:
        root: an empty directory.
        fails: whether what is started does not become ready.
    """

    def __init__(self, root: Path, fails: bool = False) -> None:
        self.root, self.fails = root, fails
        self.home = root / "srv/orders"
        for release in ("a", "b"):
            (self.home / "releases" / release).mkdir(parents=True)
            (self.home / "releases" / release / ".installed").write_text(json.dumps({"id": release}))
        self.file = root / "service.env"
        self.file.write_text("old")
        self.running: dict[str, str] = {}
        self.enabled: set[str] = set()
        self.broken: set[str] = set()
        self.calls: list[list[str]] = []
        self.starts = 0
        self.kill_at = 0

    def step(self) -> None:
        """Count what changes something, and end the run where it was said to."""
        self.kill_at -= 1
        if self.kill_at == 0:
            raise Killed

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        self.calls.append(words)
        if words[0] == "journalctl":
            return 0, "last words\n", ""
        name = words[-1] if words[1] != "show" else words[2]
        on = name.partition("@")[2].removesuffix(".service")
        if words[1] == "show":
            values = {
                "ActiveState": "active" if on in self.running else "inactive",
                "NeedDaemonReload": "no",
                "InvocationID": self.running.get(on, ""),
                "ActiveEnterTimestamp": "@1" if on in self.running else "",
                "UnitFileState": "enabled" if on in self.enabled else "disabled",
                "NRestarts": "0",
            }
            wanted = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
            return 0, "".join(f"{key}={values[key]}\n" for key in wanted), ""
        self.step()
        if words[1] == "start":
            self.starts += 1
            self.running[on] = f"i{self.starts}"
            (self.broken.add if self.fails else self.broken.discard)(on)
        elif words[1] == "stop":
            self.running.pop(on, None)
        elif words[1] in ("enable", "disable"):
            (self.enabled.add if words[1] == "enable" else self.enabled.discard)(on)
        return 0, "", ""

    def servers(self) -> dict[str, slot.Server]:
        def server(name: str) -> slot.Server:
            up = name in self.running and name not in self.broken
            return slot.Server("UP" if up else "DOWN", "L7OK" if up else "L4CON", 0, False)

        return {name: server(name) for name in slot.SLOTS}

    @property
    def serving(self) -> set[str]:
        return set(self.running) - self.broken

    def state(self) -> dict[str, object]:
        """Return all that a run leaves, but for which of the two slots it is."""
        live = os.readlink(self.home / "live") if (self.home / "live").is_symlink() else ""
        return {
            "serving": self.serving == {live},
            "running": set(self.running) == {live},
            "enabled": self.enabled == {live},
            "release": os.readlink(self.home / live) if live else "",
            "marker": (self.home / ".live").read_text().split() == [os.readlink(self.home / live)[-1], live],
            "litter": [path.name for path in self.home.iterdir() if path.name not in ("releases", *slot.SLOTS)],
        }


@pytest.fixture
def flip(monkeypatch, capsys, tmp_path):
    """Return a function that runs service_slot on a node, and returns its answer, or nothing where it was killed."""

    def run(node: Node, **arguments) -> dict | None:
        monkeypatch.setattr(slot.AnsibleModule, "run_command", lambda self, words: node.run_command(words))
        monkeypatch.setattr(slot, "Unit", lambda module, name: Unit(module, name, node.root / "units"))
        monkeypatch.setattr(slot, "ROOT", str(node.root / "srv"))
        monkeypatch.setattr(slot.Service.__init__, "__defaults__", (str(node.root / "srv"),))
        monkeypatch.setattr(slot.Proxy, "servers", lambda self: node.servers())
        monkeypatch.setattr(slot.Proxy, "tell", lambda self, name, setting: node.step())
        link = slot.Service.link

        def stepped(self, path: Path, target: str) -> None:
            node.step()
            link(self, path, target)
            node.step()

        monkeypatch.setattr(slot.Service, "link", stepped)
        given = {"name": "orders", "release": "b", "restart_on": [str(node.file)], "ready_timeout": 0}
        try:
            with patch_module_args(given | {"keep_live": True} | arguments), pytest.raises(SystemExit):
                slot.main()
        except Killed:
            return None
        finally:
            monkeypatch.setattr(slot.Service, "link", link)
        return json.loads(capsys.readouterr().out)

    return run


Unit = slot.Unit
WHOLE = {
    "serving": True,
    "running": True,
    "enabled": True,
    "marker": True,
    "litter": ["live", ".live"],
}


def whole(node: Node, release: str) -> bool:
    state = node.state()
    state["litter"] = sorted(state["litter"])
    return state == WHOLE | {"litter": sorted(WHOLE["litter"]), "release": f"releases/{release}"}


def test_a_first_start_waits_for_no_other_node(flip, tmp_path):
    node = Node(tmp_path)
    answer = flip(node, flip=False)
    assert (answer["due"], answer["changed"]) == (False, True)
    assert whole(node, "b")
    assert flip(node, flip=False)["changed"] is False


def test_a_slot_that_serves_is_left_alone_until_it_may_give_way(flip, tmp_path):
    node = Node(tmp_path)
    flip(node)
    node.file.write_text("new")
    before = dict(node.running)
    for _ in range(2):
        answer = flip(node, flip=False)
        assert (answer["due"], answer["changed"], answer["slot"]) == (True, False, "blue")
        assert answer["reasons"] == [f"{node.file} changed"]
    assert node.running == before
    answer = flip(node)
    assert (answer["due"], answer["slot"], answer["steps"][:2]) == (False, "green", ["start green", "retire blue"])
    assert whole(node, "b")
    assert flip(node, flip=False) | {"steps": []} == flip(node, flip=False)


def test_a_new_release_waits_as_a_changed_file_does(flip, tmp_path):
    node = Node(tmp_path)
    flip(node, release="a")
    assert flip(node, flip=False, keep_live=False)["due"] is True
    assert flip(node, flip=False)["due"] is False
    flip(node, keep_live=False)
    assert whole(node, "b")


def test_a_slot_that_does_not_become_ready_changes_nothing(flip, tmp_path):
    node = Node(tmp_path)
    flip(node, release="a")
    before = node.state()
    node.file.write_text("new")
    node.fails = True
    answer = flip(node, release="a")
    assert answer["failed"]
    assert "slot green did not become ready" in answer["msg"]
    assert node.state() == before
    node.fails = False
    flip(node, release="a")
    assert whole(node, "a")


def test_what_was_cut_off_while_it_waited_is_stopped_where_it_never_becomes_ready(flip, tmp_path):
    """The run was killed while the new slot was about to become ready, which it does not."""
    node = Node(tmp_path)
    flip(node)
    node.file.write_text("new")
    node.fails = True
    steps = range(1, 20)
    for at in steps:
        node.kill_at = at
        if flip(node) is not None:
            break
        if "green" in node.running:
            break
    node.kill_at = 0
    assert set(node.running) == {"blue", "green"}
    answer = flip(node, flip=False)
    assert answer["failed"]
    assert "slot green did not become ready" in answer["msg"]
    assert set(node.running) == {"blue"} == node.serving


@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_killed_at_any_step_the_next_run_ends_as_an_uninterrupted_one(flip, tmp_path, back):
    """A flip, killed after each of its steps in turn; then a run with the same files, or with the former ones."""
    for at in range(1, 60):
        node = Node(tmp_path / str(at))
        flip(node, release="a")
        node.file.write_text("new")
        node.kill_at = at
        killed = flip(node, release="b", keep_live=False) is None
        assert node.serving, at
        node.kill_at = 0
        if back:
            node.file.write_text("old")
        wanted = "a" if back else "b"
        assert not flip(node, release=wanted, keep_live=False).get("failed"), at
        assert whole(node, wanted), (at, node.state(), node.running, node.enabled)
        assert flip(node, flip=False, release=wanted, keep_live=False)["changed"] is False
        if not killed:
            break
    assert at > 8


def test_what_a_killed_run_left_half_written_goes(flip, tmp_path):
    node = Node(tmp_path)
    flip(node)
    (node.home / ".green.partial").symlink_to("releases/a")
    (node.home / ".new-x1y2").write_text("half")
    assert flip(node, flip=False)["changed"] is False
    assert whole(node, "b")


def test_a_full_disk_leaves_the_live_slot_and_what_the_next_run_mends(flip, tmp_path):
    """No file can grow in this process: neither a record of what was started, nor the marker of the live release."""
    node = Node(tmp_path)
    flip(node, release="a")
    before = (node.root / "units/svc-orders@blue.service.json").read_text()
    with full_disk():
        answer = flip(node, release="b", keep_live=False)
    assert answer["failed"]
    assert "File too large" in answer["msg"]
    assert set(node.running) == {"blue"}
    assert whole(node, "a")
    assert [(p.name, p.read_text()) for p in (node.root / "units").iterdir()] == [
        ("svc-orders@blue.service.json", before)
    ]
    flip(node, release="b", keep_live=False)
    assert whole(node, "b")


class full_disk:  # noqa: N801 (used as a function)
    """Within this, no file of this process can have any content. EFBIG stands for ENOSPC: both are met at a write."""

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


# What is no longer declared


class Host:
    """A host's files below a directory, and its units, as systemctl lists them."""

    def __init__(self, root: Path, services: list[dict]) -> None:
        self.root = root
        self.active: dict[str, str] = {}
        self.calls: list[list[str]] = []
        self.kill_at = 0
        for name in (service["name"] for service in services):
            self.write(f"var/lib/terrace/{name}/data", "precious")
            self.write(f"srv/terrace/{name}/releases/b/release.json", "{}")
            self.write(f"srv/terrace/{name}/.live", "b blue")
            (root / f"srv/terrace/{name}/live").symlink_to("blue")
            (root / f"run/terrace/{name}").mkdir(parents=True)
        for file in filters.service_files(services):
            self.write(file["path"], "[Unit]\n\n[X-Terrace]\nService=x\n")
        for file in filters.service_environments(services):
            self.write(file["path"], "TOKEN=hunter2")
        for unit in filters.service_units(services):
            target = "multi-user" if unit["name"].endswith(".target") else f"svc-{unit['service']}"
            self.enable(target, unit["name"])
        for name in (service["name"] for service in services):
            self.enable(f"svc-{name}", f"svc-{name}@blue.service")

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def enable(self, target: str, unit: str) -> None:
        link = self.root / f"etc/systemd/system/{target}.target.wants/{unit}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../x")
        self.active[unit] = "active"
        self.write(f"var/lib/terrace/units/{unit}.json", "{}")

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        self.calls.append(words)
        if words[1] == "list-units":
            return 0, "".join(f"{name} loaded {state} running x\n" for name, state in self.active.items()), ""
        self.kill_at -= 1
        if self.kill_at == 0:
            raise Killed
        if words[1] == "stop":
            for name in words[2:]:
                del self.active[name]
        return 0, "", ""

    def paths(self) -> set[str]:
        """Return all files and links, and directories with nothing in them."""
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
        }


@pytest.fixture
def tidy(monkeypatch, capsys):
    """Return a function that removes from a host what other than these services is there."""

    def run(host: Host, services: list[dict], check: bool = False) -> dict | None:
        monkeypatch.setattr(undeclared.AnsibleModule, "run_command", lambda self, words: host.run_command(words))
        given = {
            "services": [service["name"] for service in services],
            "units": filters.service_declared(services),
            "root": str(host.root),
            "_ansible_check_mode": check,
        }
        try:
            with patch_module_args(given), pytest.raises(SystemExit):
                undeclared.main()
        except Killed:
            return None
        return json.loads(capsys.readouterr().out)

    return run


def test_nothing_goes_where_all_is_declared(tidy, tmp_path):
    host = Host(tmp_path, [ORDERS, USERS])
    host.active["svc-orders@green.service"] = "deactivating"
    before = host.paths()
    answer = tidy(host, [ORDERS, USERS])
    assert (answer["changed"], answer["stopped"], answer["removed"]) == (False, [], [])
    assert host.paths() == before
    assert [call[1] for call in host.calls] == ["list-units"]


def test_a_service_that_is_no_longer_declared_goes_but_its_data(tidy, tmp_path):
    host = Host(tmp_path / "a", [ORDERS, USERS])
    alone = Host(tmp_path / "b", [USERS])
    before = host.paths()
    foretold = tidy(host, [USERS], check=True)
    assert host.paths() == before
    answer = tidy(host, [USERS])
    assert {key: answer[key] for key in ("changed", "stopped", "removed")} == {
        key: foretold[key] for key in ("changed", "stopped", "removed")
    }
    assert answer["stopped"] == [
        *("svc-orders-mailer@1.service", "svc-orders-mailer@2.service", "svc-orders-report.timer"),
        *("svc-orders.target", "svc-orders@blue.service"),
    ]
    assert host.active == alone.active
    data = {"var/lib/terrace/orders/data", "srv/terrace/orders/releases/b/release.json"}
    assert host.paths() - alone.paths() == data
    assert alone.paths() < host.paths()
    assert tidy(host, [USERS])["changed"] is False


def test_processes_and_schedules_that_are_no_longer_declared_go(tidy, tmp_path):
    host = Host(tmp_path / "a", [ORDERS])
    less = ORDERS | {"processes": {"mailer": {"command": "x", "count": 1}}, "schedule": {}}
    alone = Host(tmp_path / "b", [less])
    assert tidy(host, [less])["stopped"] == ["svc-orders-mailer@2.service", "svc-orders-report.timer"]
    assert (host.paths(), host.active) == (alone.paths(), alone.active)


def test_what_runs_without_a_link_or_a_file_is_found(tidy, tmp_path):
    """As a run leaves it that was killed between two of its steps."""
    host = Host(tmp_path, [ORDERS])
    host.active |= {"svc-orders-mailer@3.service": "activating"}
    assert tidy(host, [ORDERS])["stopped"] == ["svc-orders-mailer@3.service"]
    assert "svc-orders-mailer@3.service" not in host.active


def test_units_of_others_are_left_alone(tidy, tmp_path):
    host = Host(tmp_path, [ORDERS])
    host.write("etc/systemd/system/svc-mine.service", "[Unit]\n[Service]\n")
    host.write("run/terrace/mine/socket", "")
    host.enable("multi-user", "svc-mine.service")
    assert tidy(host, [])["changed"] is True
    assert "svc-mine.service" in host.active
    mine = (
        "etc/systemd/system/svc-mine.service",
        "run/terrace/mine/socket",
        "var/lib/terrace/units/svc-mine.service.json",
    )
    assert set(mine) <= host.paths()
    assert tidy(host, [])["changed"] is False
    assert "etc/systemd/system/multi-user.target.wants/svc-mine.service" in host.paths()


def test_a_service_whose_name_begins_like_another(tidy, tmp_path):
    longer = USERS | {"name": "orders-mailer"}
    host = Host(tmp_path, [ORDERS | {"processes": {}}, longer])
    alone = {unit for unit in host.active if not unit.startswith("svc-orders-mailer")}
    tidy(host, [ORDERS | {"processes": {}}])
    assert set(host.active) == alone
    assert "etc/systemd/system/svc-orders@.service" in host.paths()


def test_killed_at_any_step_the_next_run_removes_the_rest(tidy, tmp_path, monkeypatch):
    whole_host = Host(tmp_path / "whole", [ORDERS, USERS])
    tidy(whole_host, [USERS])
    for at in range(1, 60):
        host = Host(tmp_path / str(at), [ORDERS, USERS])
        host.kill_at = at
        with monkeypatch.context() as patched:
            for owner, name in ((Path, "unlink"), (undeclared.shutil, "rmtree")):
                real = getattr(owner, name)

                def stepped(path: Path, *rest: object, real=real, host=host, **options: object) -> None:
                    host.kill_at -= 1
                    if host.kill_at == 0:
                        raise Killed
                    real(path, *rest, **options)

                patched.setattr(owner, name, stepped)
            done = tidy(host, [USERS])
        host.kill_at = 0
        tidy(host, [USERS])
        assert (host.paths(), host.active) == (whole_host.paths(), whole_host.active), at
        if done is not None:
            break
    assert at > 20
