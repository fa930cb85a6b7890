"""Packages of Debian: what is lacking or half-way, what is done about it, and which packages a host's roles name."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from landscape import ROOT, Landscape, load

packages = load("plugins/module_utils/debian_packages.py", "debian_packages")
names = load("plugins/filter/packages.py", "packages_filter")
FOREIGN = "#!/bin/sh\n# the image's own\nexit 101\n"


class Host(packages.Packages):
    """A host in a folder: dpkg and apt-get are stood for, files and locks are real.

    Parameters:
        root: the folder.
        states: the packages' status and flag, by name.
        mirror: how many installations fail before the mirror is back.
    """

    def __init__(self, root: Path, states: dict[str, str], mirror: int = 0) -> None:
        for folder in ("usr/sbin", "var/lib/dpkg/updates", "run"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        super().__init__(root, wait=0.1)
        self.states = states
        self.mirror = mirror
        self.calls: list[str] = []
        self.policies: set[str] = set()

    @property
    def journal(self) -> Path:
        return self.root / "var/lib/dpkg/updates/0001"

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        if words[0] == "dpkg-query":
            return 0, "".join(f"{name} {state}\n" for name, state in self.states.items())
        action = "configure" if words[0] == "dpkg" else next(w for w in words if w in ("update", "install"))
        self.calls.append(action)
        self.policies.add(self.policy.path.read_text())
        if action == "configure":
            assert environment == {"DPKG_FRONTEND_LOCKED": "1"}
            self.journal.unlink(missing_ok=True)
            self.states |= {
                n: "installed ok" for n, s in self.states.items() if s in ("unpacked ok", "half-configured ok")
            }
        if action == "update":
            return 0, "Err:1 mirror\nW: Failed to fetch\n" if self.mirror else "Hit:1 mirror\n"
        if action == "install":
            if self.journal.exists():
                return 100, "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'\n"
            if self.mirror:
                self.mirror -= 1
                return 100, "Reading package lists...\nE: Unable to fetch some archives\n"
            self.states |= dict.fromkeys(words[words.index("install") + 1 :], "installed ok")
            self.states |= {name: "installed ok" for name, state in self.states.items() if "half-installed" in state}
        return 0, ""


def test_what_is_in_order_is_left_alone(tmp_path):
    host = Host(tmp_path, {"jq": "installed ok", "gone": "config-files ok"})
    assert host.look(["jq"]) == ([], [])
    assert host.look(["jq", "gone", "new"]) == (["gone", "new"], [])


def test_what_is_lacking_is_installed_without_its_daemon_being_started(tmp_path):
    host = Host(tmp_path, {"jq": "installed ok"})
    host.install(["jq", "etcd-server"])
    assert host.calls == ["update", "install"]
    assert host.look(["jq", "etcd-server"]) == ([], [])
    assert host.policies == {packages.POLICY}
    assert not host.policy.path.exists()


@pytest.mark.parametrize(
    ("state", "calls"),
    [
        ("half-configured ok", ["configure"]),
        ("unpacked ok", ["configure"]),
        ("half-installed reinstreq", ["configure", "update", "install"]),
    ],
)
def test_what_an_interrupted_installation_left_is_finished(tmp_path, state, calls):
    """Of whichever package it was; and its daemon is not started by that either."""
    host = Host(tmp_path, {"jq": "installed ok", "redis-server": state})
    host.journal.write_text("")
    assert host.look(["jq"]) == ([], ["dpkg", "redis-server"])
    host.install(["jq"])
    assert (host.look(["jq"]), host.calls) == (([], []), calls)
    assert host.policies == {packages.POLICY}


def test_a_mirror_that_fails_is_asked_again(tmp_path):
    host = Host(tmp_path, {}, mirror=2)
    host.install(["jq"], attempts=3, delay=0)
    assert host.look(["jq"]) == ([], [])


def test_a_mirror_that_keeps_failing_is_named(tmp_path):
    host = Host(tmp_path, {}, mirror=9)
    with pytest.raises(packages.PackagesError) as raised:
        host.install(["jq", "less"], attempts=2, delay=0)
    assert str(raised.value) == (
        "apt-get could not install jq, less, tried 2 times. It said:\n"
        "Err:1 mirror\nW: Failed to fetch\nReading package lists...\nE: Unable to fetch some archives"
    )
    assert not host.policy.path.exists()


# Takes the lock, says so, and keeps it until its input ends.
OTHER = """
import fcntl, sys
with open(sys.argv[1], "a") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["var/lib/dpkg/lock-frontend", "run/terrace-packages.lock"])
def other(request, tmp_path) -> Iterator[subprocess.Popen]:
    """Another process that is at it: apt-get, or the rest of a run that was cut off."""
    host = Host(tmp_path, {})
    command = [sys.executable, "-c", OTHER, str(host.root / request.param)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process


def test_another_installation_is_waited_for(tmp_path, other):
    host = Host(tmp_path, {})
    host.wait = 60
    ended = threading.Timer(0.5, other.stdin.close)
    ended.start()
    host.install(["jq"])
    assert not ended.is_alive()
    assert host.look(["jq"]) == ([], [])


def test_one_that_does_not_end_is_named(tmp_path, other):
    with pytest.raises(packages.PackagesError, match="another installation has been running for 0 s"):
        Host(tmp_path, {}).install(["jq"])


# The policy


def test_a_policy_of_somebody_else_is_put_back(tmp_path):
    host = Host(tmp_path, {})
    host.policy.path.write_text(FOREIGN)
    host.policy.path.chmod(0o755)
    host.install(["jq"])
    assert host.policies == {packages.POLICY}
    assert host.policy.path.read_text() == FOREIGN
    assert stat.S_IMODE(host.policy.path.stat().st_mode) == 0o755
    assert [path.name for path in host.policy.path.parent.iterdir()] == ["policy-rc.d"]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("step", range(8))
def test_a_run_cut_off_at_any_step_is_made_up_for(tmp_path, monkeypatch, foreign, step):
    """Killed before the first, second, ... change of a file: nothing of ours stays, and nothing of others is lost."""
    host = Host(tmp_path, {"jq": "installed ok"})
    policy = host.policy
    if foreign:
        policy.path.write_text(FOREIGN)
    left = [step]

    def killing(method):
        def killed(self, *arguments, **keywords):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return method(self, *arguments, **keywords)

        return killed

    with monkeypatch.context() as patched:
        for name in ("write_text", "replace", "unlink"):
            patched.setattr(Path, name, killing(getattr(Path, name)))
        try:
            with policy.in_force():
                pass
        except KeyboardInterrupt:
            pass
    if policy.left:
        host.install(["jq"])
    assert [path.name for path in policy.path.parent.iterdir()] == ["policy-rc.d"] * foreign
    if foreign:
        assert policy.path.read_text() == FOREIGN


# The names


def test_roles_name_their_packages(tmp_path):
    default = yaml.safe_load((ROOT / "roles/etcd/defaults/main.yml").read_text())["etcd_packages"]
    assert names.roles_packages({}, ["etcd", "postgresql_databases"]) == sorted(default)
    assert names.roles_packages({"etcd_packages": ["b", "a"]}, ["etcd", "etcd"]) == ["a", "b"]


def test_what_only_a_role_can_render_is_refused():
    with pytest.raises(AnsibleFilterError, match="etcd_packages is a template"):
        names.roles_packages({"etcd_packages": ["etcd-{{ x }}"]}, ["etcd"])
    with pytest.raises(AnsibleFilterError, match="there is no role 'etcdd'"):
        names.roles_packages({}, ["etcdd"])


def roles_of(landscape: Landscape, host: str) -> set[str]:
    """Return the roles that site.yml runs on a host, but for those that it takes out of use or only prepares for."""
    return {
        step.role
        for step in landscape.steps(host)
        if step.task.action == "ansible.builtin.validate_argument_spec"
        and step.task.args["validate_args_context"]["argument_spec_name"] not in ("retire", "before_packages")
        and any(step.items())
    }


def test_a_hosts_roles_are_those_that_its_plays_run(landscape):
    """The table in topology.yml, by which packages are installed, against site.yml itself."""
    for host in landscape.hosts:
        assert set(landscape.value(host, "topology_roles")) == roles_of(landscape, host) - {"preflight"}, host


def test_base_installs_the_packages_of_all_roles_of_a_host(landscape):
    """And only base: the others would, if they were alone."""
    for host in landscape.hosts:
        steps = [step for step in landscape.steps(host) if step.task.action == "packages_installed"]
        assert [step.role for step in steps for _ in step.items()] == ["base"]
        roles = roles_of(landscape, host)
        given = {step.role: set(step.evaluate(step.task.args["names"])) for step in steps if step.role in roles}
        assert {"base", "pki"} < set(given)
        assert set().union(*given.values()) == given["base"], host
